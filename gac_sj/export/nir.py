"""Backbones as NIR graphs (Neuromorphic Intermediate Representation), through SpikingJelly's exporter.

That exporter follows plain layers only. What differs here is rewritten first, to what computes the same:

- BatchNorms are folded into convolutions (:func:`gac_sj.fold_batch_norm`), dropout and identities are left out.
- :class:`gac_sj.LIFNode` becomes SpikingJelly's: surrogates matter in training only. NIR says whether the input decays.
  A strict neuron (form "reference": fires above the threshold only) gets the next larger number as its threshold,
  which is the same.
- A network of :mod:`gac_sj.models` classifies every pixel, by a convolution, and averages behind it; other adaptive
  means become means over windows of the example's size.
- A sum that is added to another one (behind two blocks with plain shortcuts), or put out, passes a Flatten of one
  dimension, which changes nothing: NIR adds whatever meets at a layer, in any order, and the order decides how three
  numbers round.

A decay that is no power of two, as the preset "imagenet" with tau = 4/3, rounds otherwise in SpikingJelly
(``v - v / tau`` in place of ``(1 - 1 / tau) v``): there a potential within a rounding of its threshold may decide
otherwise than ours. What is read back still equals SpikingJelly's network spike by spike.
"""

from __future__ import annotations

import copy
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
from gac_sj.analysis import measure_energy
from gac_sj.encoders.base import Encoder
from gac_sj.export.checks import reason, run, writable, write
from gac_sj.models import MSResNet
from gac_sj.nn.attention import GatedAttentionUnit
from gac_sj.nn.folding import fold_batch_norm
from gac_sj.nn.membrane_attention import MembraneAttention
from gac_sj.nn.neuron import LIFNode, reset_states

if TYPE_CHECKING:
    from nir import NIRGraph

__all__ = ["to_nir"]

_NOTHING_TO_DO = (nn.Identity, nn.Dropout, nn.Dropout2d, layer.Dropout, layer.Dropout2d)


def to_nir(
    backbone: nn.Module,
    example: Tensor,
    path: str | os.PathLike | None = None,
    *,
    dt: float = 1e-4,
    spikes_only: bool = True,
) -> NIRGraph:
    """A backbone as a NIR graph: the encoder's sequence in, the logits of every step out.

    ``spikingjelly.activation_based.nir_exchange.import_from_nir(path, step_mode="m")`` reads it back: a network from
    the sequence ``[T, N, C, H, W]`` to a pair of logits ``[T, N, K]`` and states, with the same spikes in every layer
    at every step. Height and width are fixed by the example; T and N are not. The graph is read back and compared on
    the example before it is written.

    Example::

        encoder, backbone = split(model.eval())  # of a network of spike_driven=True
        to_nir(backbone, encoder(images), "backbone.nir")
        chip = import_from_nir("backbone.nir", step_mode="m")
        logits = chip(encoder(images))[0].mean(0)

    Args:
        backbone: the second of :func:`gac_sj.export.split`, or another SpikingJelly network of convolutions, linear
            layers, means, LIF and IF neurons with hard reset, and sums; in evaluation mode and step mode "m".
        example: a sequence ``[T, N, C, H, W]``, best a real one: with it is found which layers receive spikes.
        path: of the file to write (``.nir``, HDF5); None writes none.
        dt: seconds of a time step.
        spikes_only: False for simulators: layers may receive something else than spikes.

    Raises:
        ValueError: the network has its encoder still, a gate, or attention in its blocks; a layer receives something
            else than spikes, or has no NIR node; a function other than a sum of two layers; a network in training mode,
            or one that does not take the example; SpikingJelly 0.0.0.0.14; the extra ``nir`` is missing; a file that
            cannot be written.
    """
    path = None if path is None else writable(path)
    attended = [name or "itself" for name, module in backbone.named_modules() if isinstance(module, MembraneAttention)]
    if attended:
        raise ValueError(
            f"{type(backbone).__name__} has attention on membrane potentials ({attended[0]}), for which NIR has no "
            "node, so that no part behind its encoder fits NIR; create it with block_attention='none'."
        )
    for name, module in backbone.named_modules():
        if isinstance(module, (Encoder, GatedAttentionUnit)):
            given = f"{type(module).__name__}{f' ({name})' if name else ''}"
            if any(isinstance(part, GatedAttentionUnit) for part in module.modules()):
                given = f"NIR has no node for the gate of {given}, which"
            raise ValueError(f"{given} stays on the host; give the backbone of gac_sj.export.split(model).")
    exchange = nir_exchange()
    if example.dim() != 5:
        raise ValueError(
            f"The example has the shape {list(example.shape)}; a backbone takes the encoder's sequence "
            "[T, N, C, H, W]; give encoder(images)."
        )
    if not isinstance(run(backbone, example), Tensor):
        raise ValueError(f"{type(backbone).__name__} puts out more than a tensor; a NIR graph has one output here.")
    if spikes_only:
        _require_spikes(backbone, example)
    network = _plain(backbone, example)
    try:
        with torch.no_grad():
            graph = exchange.export_to_nir(network, example, dt=dt)
            read = exchange.import_from_nir(graph, dt=dt, device=example.device, dtype=example.dtype, step_mode="m")
            same = torch.allclose(read(example)[0], network(example))
    except KeyError as error:  # nirtorch looks the class of each layer up
        missing = error.args[0]
        names = [name for name, module in network.named_modules() if type(module) is missing]
        raise ValueError(f"NIR has no node for {missing.__name__} ({', '.join(names)}); replace it.") from error
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"SpikingJelly cannot write {type(backbone).__name__} as NIR ({reason(error)}); replace what it names."
        ) from error
    if not same:
        raise ValueError(
            f"{type(backbone).__name__} is not the same as a NIR graph, which adds two layers, but no number, no "
            "parameter and no layer to itself; use layers in their place."
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
        raise ValueError(
            f"{', '.join(floats[:4])}{more} of {type(backbone).__name__} get something else than spikes, and a chip "
            "adds weights where spikes arrive; create the network with spike_driven=True (your own: with neurons in "
            "front of them), or pass spikes_only=False for a simulator."
        )


def _plain(backbone: nn.Module, example: Tensor) -> fx.GraphModule:
    """A copy, of layers and sums only, with the names of the backbone's layers."""
    has_norms = any(isinstance(module, _BatchNorm) for module in backbone.modules())
    network = (fold_batch_norm(backbone) if has_norms else copy.deepcopy(backbone)).eval()
    if type(network) is MSResNet:  # a subclass is traced as what it is
        expected = run(network, example)
        network = _classify_pixels(network, example).eval()
        difference = (run(network, example).mean(0) - expected).abs().max()
        if difference > torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max():  # more than rounding
            raise ValueError("This MSResNet's forward or a hook was changed, which NIR would lose; export it as built.")
    try:
        plain = fx.GraphModule(network, _Tracer().trace(network))
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(
            f"{type(backbone).__name__} decides by its input what it computes ({reason(error)}), and NIR holds one "
            "graph; give a network whose forward only calls layers and adds."
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
            raise ValueError(
                f"{type(backbone).__name__} calls {getattr(node.target, '__name__', node.target)} ({node.name}), and "
                "NIR has layers and sums (a + b) only; use a layer in its place."
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
    parts = OrderedDict(stages=model.stages, lif=model.lif)
    if isinstance(model.head, nn.Linear):
        parts["head"] = head = layer.Conv2d(*reversed(model.head.weight.shape), 1, step_mode="m")
        head.weight = nn.Parameter(model.head.weight.detach()[..., None, None])
        head.bias = model.head.bias
    parts["pool"] = layer.AvgPool2d((height, width), step_mode="m")
    parts["flatten"] = layer.Flatten(step_mode="m")
    return nn.Sequential(parts)


def _replace_layer(plain: fx.GraphModule, node: fx.Node, dtype: torch.dtype) -> None:
    module = plain.get_submodule(node.target)
    module._is_leaf_module = True  # for nirtorch, which would look for its parts where it does not know the layer
    if isinstance(module, _NOTHING_TO_DO):
        node.replace_all_uses_with(node.args[0])
        plain.graph.erase_node(node)
    elif type(module) is LIFNode:
        plain.set_submodule(node.target, _stock(module, dtype))
    elif isinstance(module, nn.AdaptiveAvgPool2d):
        before, after = (of.meta["tensor_meta"].shape[-2:] for of in (node.args[0], node))
        if any(old % new for old, new in zip(before, after)):
            raise ValueError(
                f"{node.target} makes {list(after)} pixels of {list(before)}, by windows of unequal size, and NIR has "
                "one size; give an example whose height and width it divides."
            )
        window = tuple(old // new for old, new in zip(before, after))
        plain.set_submodule(node.target, layer.AvgPool2d(window, step_mode="m"))


def _stock(node: LIFNode, dtype: torch.dtype) -> neuron.LIFNode:
    threshold = node.v_threshold
    if getattr(node.surrogate_function, "strict", False):
        bounds = torch.tensor([threshold, float("inf")], dtype=torch.promote_types(dtype, torch.float32))
        threshold = torch.nextafter(*bounds).item()
    return neuron.LIFNode(
        tau=node.tau, decay_input=node.decay_input, v_threshold=threshold, v_reset=node.v_reset, step_mode="m"
    )
