"""Neurons by name: those of four published codes, and one with a learnable time constant."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from spikingjelly.activation_based import functional
from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.nn.neuron import LIFNode, is_neuron
from gac_sj.nn.plif import ParametricLIFNode
from gac_sj.nn.surrogate import Rectangle, Triangle

__all__ = ["PRESETS", "lif_preset", "neuron_factory"]

#: Keyword arguments of :class:`LIFNode` in four published codes. GAC (arXiv 2308.06582, code): decay 0.5,
#: threshold 1, triangle, reset in the graph; and decay 0.25, threshold 0.5, rectangle, reset detached. Max-ResNet
#: (arXiv 2505.18608, code): SpikingJelly's defaults (tau 2, input decayed, threshold 1, sigmoid), reset detached.
#: MA-SNN (arXiv 2209.13929, as SpikingJelly 2.0.0 reads its code): decay 0.3, threshold 0.3, rectangle of half that
#: width, reset detached; after a spike the published code continues from the threshold, this one from 0. PLIF
#: (ours): the neuron of GAC's CIFAR code with a learnable time constant (arXiv 2007.05785).
PRESETS: dict[str, dict[str, Any]] = {
    "cifar": dict(tau=2.0, decay_input=False, v_threshold=1.0, detach_reset=False),
    "imagenet": dict(tau=4.0 / 3.0, decay_input=False, v_threshold=0.5, detach_reset=True),
    "sigmoid": dict(tau=2.0, decay_input=True, v_threshold=1.0, detach_reset=True),
    "ma_snn": dict(tau=10.0 / 7.0, decay_input=False, v_threshold=0.3, detach_reset=True),
    "plif": dict(tau=2.0, decay_input=False, v_threshold=1.0, detach_reset=False),
}
SURROGATES: dict[str, Callable[..., nn.Module]] = {
    "cifar": Triangle,
    "imagenet": Rectangle,
    "ma_snn": partial(Rectangle, alpha=2.0),
    "plif": Triangle,
}


def lif_preset(name: str, strict: bool = False, **changes: Any) -> LIFNode:
    """A new :class:`LIFNode` with the parameters of a published code, or a :class:`ParametricLIFNode`.

    Args:
        name: "cifar", "imagenet", "sigmoid", "ma_snn", or "plif", whose ``tau`` is where training starts.
        strict: fire above the threshold only, as the published code does; SpikingJelly fires at the threshold too. The
            difference matters when a potential equals the threshold, as it does when a saturated gate of 1 meets a
            spike.
        changes: keywords of :class:`LIFNode` that replace those of the preset.

    Raises:
        UsageError: the preset does not exist, or ``strict`` is set for "sigmoid", whose surrogate is SpikingJelly's.
    """
    if name not in PRESETS:
        raise UsageError(
            f"must be the name of a neuron preset, got {name!r}", argument="neuron", options=PRESETS, given=name
        )
    if name in SURROGATES:
        changes = {"surrogate_function": SURROGATES[name](strict=strict)} | changes
    elif strict:
        raise UsageError(
            f"must be a preset with a strict threshold (strict=True, the form 'reference'), got {name!r}",
            "or leave out strict or the form",
            argument="neuron",
            options=SURROGATES,
        )
    cls = ParametricLIFNode if name == "plif" else LIFNode
    return cls(**PRESETS[name] | changes)


def neuron_factory(neuron: str | Callable[[], nn.Module], strict: bool = False) -> Callable[[], Any]:
    """A function that builds the neurons of a network.

    Args:
        neuron: name of a preset, or a function or class that builds a neuron without arguments. It is put into step
            mode "m".
        strict: see :func:`lif_preset`; it needs a preset.

    Raises:
        UsageError: an unknown preset; neither a name nor callable; what is built is not a spiking neuron; ``strict``
            with a function.
    """
    if isinstance(neuron, str):
        return partial(lif_preset, neuron, strict)
    if strict:
        raise UsageError(
            f"must be the name of a preset where neurons are strict (the form 'reference'), got {neuron!r}",
            argument="neuron",
            options=SURROGATES,
        )
    if not callable(neuron) or isinstance(neuron, nn.Module):
        raise UsageError(
            f"must be the name of a preset, or a function that builds a neuron, got {neuron!r}",
            argument="neuron",
            options=PRESETS,
        )

    def make() -> nn.Module:
        node = neuron()
        if not (isinstance(node, nn.Module) and is_neuron(node)):
            raise UsageError(
                f"must build one of SpikingJelly's spiking neurons or a subclass, got a {type(node).__name__}",
                argument="neuron",
            )
        functional.set_step_mode(node, "m")
        return node

    return make
