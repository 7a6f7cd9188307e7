"""BatchNorm and LIF in one pass inside a network of SpikingJelly's layers (ours)."""

from __future__ import annotations

from itertools import pairwise, zip_longest
from typing import TypeVar

from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj.nn.norm_lif import can_fuse, norm_then_fire
from gac_sj.ops.shortcuts import does_only, overrides

__all__ = ["FusedSequential", "fuse_norm_lif"]

_Network = TypeVar("_Network", bound=nn.Module)


class FusedSequential(nn.Sequential):
    """``nn.Sequential`` that runs a BatchNorm and the LIF neuron behind it as one operator, where it can.

    Every call decides anew (:func:`gac_sj.nn.norm_lif.norm_then_fire`). The BatchNorm may also be the last layer of a
    ``SeqToANNContainer``.
    """

    @property
    def norm_lif_pairs(self) -> tuple[tuple[str, str], ...]:
        """Names of BatchNorms and of the neurons that directly follow them."""
        return _pairs(self)

    def forward(self, x: Tensor) -> Tensor:
        layers = iter(zip_longest(self, [*self][1:]))
        for module, following in layers:
            norm = None if following is None else _last(module)
            if norm is None or not can_fuse(norm, following):
                x = module(x)
                continue
            if isinstance(module, nn.Sequential) and len(module) > 1:  # the layers before the BatchNorm
                x = functional.seq_to_ann_forward(x, [*module][:-1])
            x = norm_then_fire(norm, following, x)
            next(layers)
        return x


def _pairs(module: nn.Sequential) -> tuple[tuple[str, str], ...]:
    found = []
    for (name, child), (following, node) in pairwise(module.named_children()):
        norm = _last(child)
        if norm is not None and can_fuse(norm, node):
            own = next(own for own, part in child.named_modules() if part is norm)
            found.append((f"{name}.{own}".rstrip("."), following))
    return tuple(found)


def _last(module: nn.Module) -> nn.Module | None:
    """The BatchNorm that a module is or ends with."""
    if isinstance(module, layer.SeqToANNContainer):
        if not len(module) or not does_only(module, layer.SeqToANNContainer):
            return None
        return module[-1] if type(module[-1]) is nn.BatchNorm2d else None
    return module if type(module) is layer.BatchNorm2d else None


def fuse_norm_lif(network: _Network) -> _Network:
    """Make every ``nn.Sequential`` of a network run BatchNorm and the LIF neuron behind it in one pass.

    Training and evaluation give the same results up to rounding, which can flip spikes near the threshold, in less time
    and memory: the normalised values are computed again in the backward pass, not kept. For float16 and bfloat16 input
    they and the potentials are float32 inside. Parameters, buffers, their names and all modules stay; only the class of
    those ``nn.Sequential`` changes.

    A pair is SpikingJelly's ``layer.BatchNorm2d`` in step mode "m" (or ``nn.BatchNorm2d`` at the end of a
    ``SeqToANNContainer``) directly followed by SpikingJelly's or this package's ``LIFNode``. What has a hook, a
    replaced method, ``store_v_seq`` or a subclass runs as before, and so do the surrogate functions, types and sizes
    that no kernel supports. Networks of this package need no call.

    Args:
        network: changed in place.

    Returns:
        The network.

    Raises:
        UsageError: it has no such pair.
    """
    found = False
    for module in network.modules():
        if type(module) is nn.Sequential and not overrides(module, nn.Sequential, "forward") and _pairs(module):
            module.__class__ = FusedSequential
        found = found or isinstance(module, FusedSequential)
    if not found:
        raise UsageError(
            f"must have a BatchNorm2d directly followed by a LIFNode in an nn.Sequential, both in step mode 'm', got "
            f"{type(network).__name__} without one",
            "call functional.set_step_mode(network, 'm') first, or leave fuse_norm_lif out",
            argument="network",
        )
    return network
