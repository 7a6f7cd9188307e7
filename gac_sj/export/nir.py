"""Backbones as NIR graphs (Neuromorphic Intermediate Representation), through SpikingJelly's exporter.

That exporter supports plain layers only. Everything else is first replaced by an equivalent:

- BatchNorms are folded into convolutions (:func:`gac_sj.fold_batch_norm`); dropout and identities are removed.
- :class:`gac_sj.LIFNode` becomes SpikingJelly's: surrogate functions matter in training only. NIR records whether the
  input decays. A learnable tau, threshold or reset potential becomes the number that it is. A strict neuron (form
  "reference": fires above the threshold only) gets the next larger number as its threshold, which is equivalent.
- A network of :mod:`gac_sj.models` classifies every pixel, by a convolution, and averages the results; other adaptive
  means become means over windows whose size the example determines.
- A sum that is added to another sum (behind two blocks with plain shortcuts), or is an output, passes a Flatten of one
  dimension, which changes nothing. The reason: NIR adds all inputs of a layer in any order, and the order decides how
  three numbers round.

If the decay is not a power of two, as in the preset "imagenet" with tau = 4/3, SpikingJelly rounds differently
(``v - v / tau`` instead of ``(1 - 1 / tau) v``), so a neuron whose potential is within a rounding error of its
threshold may fire there and not here. The graph that is read back still equals SpikingJelly's network spike by spike.
"""

from __future__ import annotations

import io
import operator
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from spikingjelly.activation_based import base, layer, neuron
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

from gac_sj._compat import nir_exchange
from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.analysis import measure_energy
from gac_sj.encoders.base import Encoder
from gac_sj.export.checks import as_numbers, check_writable, run_example, write
from gac_sj.models import MSResNet
from gac_sj.nn.attention import GatedAttentionUnit
from gac_sj.nn.copying import copy_network
from gac_sj.nn.folding import fold_batch_norm
from gac_sj.nn.membrane_attention import MembraneAttention
from gac_sj.nn.neuron import LIFNode, reset_states

if TYPE_CHECKING:
    from nir import NIRGraph

__all__ = ["to_nir"]

#: Layers that do nothing in evaluation mode.
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d, layer.Dropout, layer.Dropout2d)


def to_nir(
    backbone: nn.Module,
    example: Tensor,
    path: str | os.PathLike[str] | None = None,
    *,
    dt: float = 1e-4,
    spikes_only: bool = True,
) -> NIRGraph:
    """Export a backbone as a NIR graph from the encoder's sequence to the logits of every step.

    ``spikingjelly.activation_based.nir_exchange.import_from_nir(path, step_mode="m")`` reads it back, as a network from
    the sequence ``[T, N, C, H, W]`` to a pair of logits ``[T, N, K]`` and states, with the same spikes in every layer
    at every step. The example determines height and width, but neither T nor N. The graph is read back and compared on
    the example before it is written.

    Example::

        encoder, backbone = split(model.eval())  # of a network with spike_driven=True
        to_nir(backbone, encoder(images), "backbone.nir")
        chip = import_from_nir("backbone.nir", step_mode="m")
        logits = chip(encoder(images))[0].mean(0)

    Args:
        backbone: the backbone of :func:`gac_sj.export.split`, or another SpikingJelly network of convolutions, linear
            layers, means, LIF and IF neurons with hard reset, and sums; in evaluation mode and step mode "m".
        example: a sequence ``[T, N, C, H, W]``, preferably of real images, because it decides which layers receive
            spikes.
        path: path of the file (``.nir``, HDF5); None: no file is written.
        dt: duration of a time step in seconds.
        spikes_only: whether every layer must receive spikes, as on a chip; False for simulators.

    Returns:
        The graph.

    Raises:
        UsageError: the network still has its encoder, a gate, or attention in its blocks; a layer receives anything
            other than spikes, or has no NIR node; a neuron with more than one tau, threshold or reset potential; a
            function other than a sum of two layers; a network in training mode, or one that does not take the example;
            SpikingJelly 0.0.0.0.14; the extra ``nir`` is missing; a file that cannot be written.
    """
    path = None if path is None else check_writable(path)
    attended = [name or "itself" for name, module in backbone.named_modules() if isinstance(module, MembraneAttention)]
    if attended:
        raise UsageError(
            f"NIR has no node for attention on membrane potentials, as in {type(backbone).__name__} ({attended[0]})",
            "create it with block_attention='none'",
        )
    for name, module in backbone.named_modules():
        if isinstance(module, (Encoder, GatedAttentionUnit)):
            given = f"{type(module).__name__}{f' ({name})' if name else ''}"
            has_gate = any(isinstance(part, GatedAttentionUnit) for part in module.modules())
            raise UsageError(
                f"NIR has no node for the gate of {given}" if has_gate else f"{given} is an encoder, not a backbone",
                "keep it on the host, and pass the backbone of gac_sj.export.split(model)",
            )
    exchange = nir_exchange()
    if example.dim() != 5:
        raise UsageError(
            f"must be the encoder's sequence [T, N, C, H, W], got the shape {list(example.shape)}",
            "pass encoder(images)",
            argument="example",
        )
    if not isinstance(run_example(backbone, example), Tensor):
        raise UsageError(
            f"{type(backbone).__name__} does not output one tensor, as a NIR graph does here",
            "pass a network that does",
        )
    if spikes_only:
        _require_spikes(backbone, example)
    network = _plain(backbone, example)
    try:
        with torch.no_grad():
            graph = exchange.export_to_nir(network, example, dt=dt)
            read = exchange.import_from_nir(graph, dt=dt, device=example.device, dtype=example.dtype, step_mode="m")
            same = torch.allclose(read(example)[0], network(example))
    except KeyError as error:  # nirtorch looks up the class of each layer
        missing = error.args[0]
        names = [name for name, module in network.named_modules() if type(module) is missing]
        raise UsageError(f"NIR has no node for {missing.__name__} ({', '.join(names)})", "replace it") from error
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(
            f"SpikingJelly cannot write {type(backbone).__name__} as NIR ({first_sentence(error)})",
            "replace the layer or option that it names",
        ) from error
    if not same:
        raise UsageError(
            f"{type(backbone).__name__} computes something else as a NIR graph, which can add two layers, but not a "
            "number, a parameter, or a layer to itself",
            "use layers instead",
        )
    if path is not None:
        import nir

        buffer = io.BytesIO()
        nir.write(buffer, graph)
        write(path, buffer.getvalue())
    return graph


def _require_spikes(backbone: nn.Module, example: Tensor) -> None:
    floats = [found.name for found in measure_energy(backbone, [example]).layers if found.receives == "floats"]
    if floats:
        more = f" and {len(floats) - 4} more" if len(floats) > 4 else ""
        raise UsageError(
            f"is True, but layers of {type(backbone).__name__} receive other numbers than spikes "
            f"({', '.join(floats[:4])}{more}), and a chip only adds weights where spikes arrive",
            "create the network with spike_driven=True (your own: with neurons in front of these layers), or pass "
            "spikes_only=False for a simulator",
            argument="spikes_only",
        )


def _plain(backbone: nn.Module, example: Tensor) -> fx.GraphModule:
    """A copy of the backbone that has layers and sums only, under the names of the backbone's layers."""
    has_norms = any(isinstance(module, _BatchNorm) for module in backbone.modules())
    network = (fold_batch_norm(backbone) if has_norms else copy_network(backbone)).eval()
    if many := as_numbers(network, "tau", "v_threshold", "v_reset"):
        raise UsageError(
            f"SpikingJelly writes one number for all units of a neuron as NIR, and {', '.join(many)} has more",
            "use one number",
        )
    if type(network) is MSResNet:  # a subclass may compute something else, and is traced
        expected = run_example(network, example)
        network = _classify_pixels(network, example).eval()
        difference = (run_example(network, example).mean(0) - expected).abs().max()
        if difference > torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max():  # more than rounding
            raise UsageError(
                "This MSResNet has another forward or a hook, which NIR would lose",
                "export the network as it was built",
            )
    try:
        plain = fx.GraphModule(network, _Tracer().trace(network))
    except (fx.proxy.TraceError, TypeError) as error:
        raise UsageError(
            f"The graph of {type(backbone).__name__} depends on its input ({first_sentence(error)}), and NIR has a "
            "fixed graph",
            "pass a network whose forward only calls layers and adds",
        ) from error
    with torch.no_grad():
        ShapeProp(plain).propagate(example)
    reset_states(plain)
    for node in list(plain.graph.nodes):
        if node.op == "call_module":
            _replace_layer(plain, node, example.dtype)
        elif _is_sum(node) or node.op == "output":
            for term in filter(_is_sum, list(node.all_input_nodes)):
                with plain.graph.inserting_after(term):
                    junction = f"{term.name}_sum"
                    plain.add_submodule(junction, layer.Flatten(1, 1, step_mode="m"))
                    node.replace_input_with(term, plain.graph.call_module(junction, (term,)))
        elif node.op in ("call_function", "call_method"):
            raise UsageError(
                f"{type(backbone).__name__} calls {getattr(node.target, '__name__', node.target)} ({node.name}), and "
                "NIR has layers and sums (a + b) only",
                "use a layer instead",
            )
    plain.recompile()
    return plain.eval()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        is_layer = isinstance(module, base.MemoryModule) or (
            isinstance(module, base.StepModule) and not any(module.children())
        )
        return is_layer or super().is_leaf_module(module, name)


def _is_sum(node: fx.Node) -> bool:
    return node.target is operator.add


def _classify_pixels(model: MSResNet, example: Tensor) -> nn.Module:
    """The network from the encoder's sequence to the logits of every step, with layers only."""
    with torch.no_grad():
        height, width = model.forward_features(example).shape[-2:]
    parts: OrderedDict[str, nn.Module] = OrderedDict(stages=model.stages, lif=model.lif)
    if isinstance(model.head, nn.Linear):
        classes, features = model.head.weight.shape
        parts["head"] = head = layer.Conv2d(features, classes, 1, step_mode="m")
        head.weight = nn.Parameter(model.head.weight.detach()[..., None, None])
        head.bias = model.head.bias
    if model.global_pool:
        parts["pool"] = layer.AvgPool2d((height, width), step_mode="m")
        parts["flatten"] = layer.Flatten(step_mode="m")
    return nn.Sequential(parts)


def _replace_layer(plain: fx.GraphModule, node: fx.Node, dtype: torch.dtype) -> None:
    name, source = str(node.target), node.all_input_nodes[0]
    module = plain.get_submodule(name)
    vars(module)["_is_leaf_module"] = True  # for nirtorch, which otherwise searches layers that it does not know
    if isinstance(module, _IDENTITIES):
        node.replace_all_uses_with(source)
        plain.graph.erase_node(node)
    elif type(module) is LIFNode:
        plain.set_submodule(name, _spikingjelly_lif(module, dtype))
    elif isinstance(module, nn.AdaptiveAvgPool2d):
        before, after = (of.meta["tensor_meta"].shape[-2:] for of in (source, node))
        if any(old % new for old, new in zip(before, after)):
            raise UsageError(
                f"must have a height and a width for which the windows of {name} are of equal size, as in NIR, got "
                f"{list(before)} pixels there for {list(after)}",
                argument="example",
            )
        window = tuple(old // new for old, new in zip(before, after))
        plain.set_submodule(name, layer.AvgPool2d(window, step_mode="m"))


def _spikingjelly_lif(node: LIFNode, dtype: torch.dtype) -> neuron.LIFNode:
    """SpikingJelly's neuron that spikes as ours in this type does."""
    threshold = node.v_threshold
    if getattr(node.surrogate_function, "strict", False):
        bounds = torch.tensor([threshold, float("inf")], dtype=torch.promote_types(dtype, torch.float32))
        threshold = torch.nextafter(*bounds).item()
    return neuron.LIFNode(
        tau=node.tau, decay_input=node.decay_input, v_threshold=threshold, v_reset=node.v_reset, step_mode="m"
    )
