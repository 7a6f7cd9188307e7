"""Backbones as NIR graphs (Neuromorphic Intermediate Representation), through SpikingJelly's exporter.

That exporter follows plain layers only. What differs here is rewritten first, to what computes the same:

- BatchNorms are folded into convolutions (:func:`gac_sj.fold_batch_norm`), dropout and identities are left out.
- :class:`gac_sj.LIFNode` becomes SpikingJelly's: surrogates matter in training only. NIR says whether the input decays.
  A strict neuron (recipe "reference": fires above the threshold only) gets the next larger number as its threshold,
  which is the same.
- A network of :mod:`gac_sj.models` classifies every pixel, by a convolution, and averages behind it; other adaptive
  means become means over windows of the example's size.
- A sum of a sum (behind two blocks with plain shortcuts) passes a Flatten of one dimension, which changes nothing: NIR
  adds whatever meets at a node, in any order, and the order decides how three numbers round.

A decay that is no power of two, as the preset "imagenet" with tau = 4/3, rounds otherwise in SpikingJelly
(``v - v / tau`` in place of ``(1 - 1 / tau) v``): there a potential within a rounding of its threshold may decide
otherwise than ours. What is read back still equals SpikingJelly's network spike by spike.
"""

from __future__ import annotations

import copy
import io
import operator
import os
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from spikingjelly.activation_based import base, layer, neuron
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

from gac_sj._compat import nir_exchange
from gac_sj.analysis import non_spiking_layers
from gac_sj.export.checks import reason, run, writable, write
from gac_sj.export.split import encoders_in
from gac_sj.folding import fold_batch_norm
from gac_sj.models import MSResNet
from gac_sj.neuron import LIFNode, reset_states

if TYPE_CHECKING:
    from nir import NIRGraph

__all__ = ["to_nir"]

_NOTHING_TO_DO = (nn.Identity, nn.Dropout, nn.Dropout2d, layer.Dropout, layer.Dropout2d)


def to_nir(
    backbone: nn.Module, example: Tensor, path: str | os.PathLike | None = None, *, dt: float = 1e-4
) -> NIRGraph:
    """A backbone as a NIR graph: the encoder's sequence in, the logits of every step out.

    ``spikingjelly.activation_based.nir_exchange.import_from_nir(path, step_mode="m")`` reads it back: a network from
    the sequence ``[T, N, C, H, W]`` to a pair of logits ``[T, N, K]`` and states, with the same spikes in every layer
    at every step. Height and width are fixed by the example; T and N are not.

    Args:
        backbone: the second of :func:`gac_sj.export.split`, or another SpikingJelly network of convolutions, linear
            layers, means, LIF and IF neurons with hard reset, and sums; in evaluation mode and step mode "m".
        example: a sequence ``[T, N, C, H, W]``, best a real one: with it is found which layers receive spikes.
        path: of the file to write (``.nir``, HDF5); None writes none.
        dt: seconds of a time step.

    Warns:
        UserWarning: layers receive something else than spikes.

    Raises:
        ValueError: the network has its encoder still, or a layer that NIR has no node for; it is in training mode, or
            does not take the example; SpikingJelly 0.0.0.0.14; the extra ``nir`` is missing; a file that cannot be
            written.
    """
    path = None if path is None else writable(path)
    for name, encoder in encoders_in(backbone).items():
        has_gate = getattr(encoder, "gau", None) is not None
        raise ValueError(
            f"{type(backbone).__name__} has the encoder {type(encoder).__name__}{f' ({name})' if name else ''}, "
            f"{'whose gate has no NIR node' if has_gate else 'which stays on the host'}; give the backbone of "
            "gac_sj.export.split(model)."
        )
    exchange = nir_exchange()
    if example.dim() != 5:
        raise ValueError(
            f"The example has the shape {list(example.shape)}; a backbone takes the encoder's sequence "
            "[T, N, C, H, W]; give encoder(images)."
        )
    run(backbone, example)
    floats = non_spiking_layers(backbone, example)
    if floats:
        warnings.warn(
            f"{', '.join(floats)} receive{'s' * (len(floats) == 1)} something else than spikes, which a chip that adds "
            "weights where spikes arrive cannot run; create the network with spike_driven=True.",
            stacklevel=2,
        )
    network = _plain(backbone, example)
    try:
        with torch.no_grad():
            graph = exchange.export_to_nir(network, example, dt=dt)
    except KeyError as error:  # nirtorch looks the class of each layer up
        missing = error.args[0]
        names = [name for name, module in network.named_modules() if type(module) is missing]
        raise ValueError(f"NIR has no node for {missing.__name__} ({', '.join(names)}); replace it.") from error
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"SpikingJelly cannot write {type(backbone).__name__} as NIR ({reason(error)}); replace what it names."
        ) from error
    if path is not None:
        import nir

        buffer = io.BytesIO()
        nir.write(buffer, graph)
        write(path, buffer.getvalue())
    return graph


def _plain(backbone: nn.Module, example: Tensor) -> fx.GraphModule:
    """A copy, of layers and sums only, with the names of the backbone's layers."""
    has_norms = any(isinstance(module, _BatchNorm) for module in backbone.modules())
    network = fold_batch_norm(backbone) if has_norms else copy.deepcopy(backbone)
    if isinstance(network, MSResNet):
        network = _classify_pixels(network, example)
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
        elif _is_sum(node):
            for term in filter(_is_sum, list(node.all_input_nodes)):
                with plain.graph.inserting_after(term):
                    junction = f"{term.name}_sum"
                    plain.add_submodule(junction, layer.Flatten(1, 1, step_mode="m"))
                    node.replace_input_with(term, plain.graph.call_module(junction, (term,)))
        elif node.op in ("call_function", "call_method"):
            raise ValueError(
                f"{type(backbone).__name__} calls {getattr(node.target, '__name__', node.target)} ({node.name}), and "
                "NIR has layers and sums only; use a layer in its place."
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
    return node.target in (operator.add, "add")


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
