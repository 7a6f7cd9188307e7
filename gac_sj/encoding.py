"""Gated Attention Coding, direct coding, and all encoders by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gac_sj._compat import attention_layer, has_other_backend
from gac_sj.attention import GatedAttentionUnit, SpatialChannelAttention
from gac_sj.encoder import Encoder
from gac_sj.neuron import LIFNode, preset
from gac_sj.ops.dispatch import KERNELS, choose, require_numbers
from gac_sj.ops.gated_lif import gated_lif
from gac_sj.pixel_coding import LatencyCoding, PoissonCoding, WeightedPhaseCoding
from gac_sj.validation import positive

__all__ = [
    "DEFAULT_RECIPE",
    "ENCODERS",
    "RECIPES",
    "AttendedDirectCoding",
    "DirectCoding",
    "GatedAttentionCoding",
    "MatchedDirectCoding",
    "Recipe",
    "create_encoder",
]


@dataclass(frozen=True)
class Recipe:
    """A form of Gated Attention Coding.

    Args:
        gain: the largest value of the gate.
        threshold_scale: factor on the threshold of the encoder's neuron.
        output: what the gate weighs: "spikes" of the neuron, or the stem's "current" (then there is no neuron).
        strict: whether the neuron fires above the threshold only, as the published code, not at it too.
    """

    gain: float
    threshold_scale: float = 1.0
    output: str = "spikes"
    strict: bool = False

    def neuron(self, name: str) -> LIFNode:
        """The encoder's neuron: a preset as this recipe changes it."""
        node = preset(name, self.strict)
        node.v_threshold *= self.threshold_scale
        return node


#: Forms of the encoder: the published one, and ours. The default measured best of those with gated spikes (README).
RECIPES: dict[str, Recipe] = {
    "reference": Recipe(gain=1.0, strict=True),
    "unit_gate": Recipe(gain=2.0),
    "low_threshold": Recipe(gain=2.0, threshold_scale=0.5),
    "current": Recipe(gain=2.0, output="current"),
}
DEFAULT_RECIPE = "low_threshold"


class GatedAttentionCoding(Encoder):
    """Gated Attention Coding: spikes of a convolutional stem, weighed at every step by a gate in (0, gain).

    ``z = stem(x)``; output ``gate(z) * LIF(z)`` with ``gate = gain * sigmoid(TA(z) * SCA(z))``. Source: GAC (arXiv
    2308.06582), main figure and code; gain, changed neurons and the gate on the current are ours. On a static image
    the stem and the spatial-channel attention run once; a sequence, or a stem that is random or stateful, takes the
    general path. Both agree, running statistics included. Where a kernel fuses neuron and gate (:mod:`gac_sj.ops`),
    neither module is called; a hook on one of them brings the modules back.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`.
        neuron: the name of a preset (:func:`gac_sj.neuron.preset`), which the recipe may change, or a multi-step neuron
            module, which is used as it is.
        recipe: a name in :data:`RECIPES`; "reference" is the published encoder.
        gain, output: override the recipe's.
        kernel_size, depth: of the spatial-channel branch.
        temporal_reduction, channel_reduction: reduction ratios of the two branches.
        attention: "both", or "temporal" or "spatial" alone (:class:`gac_sj.attention.GatedAttentionUnit`).

    Raises:
        ValueError: an unknown recipe, output or preset, a neuron where the gate is on the current, a number out of its
            range; on the call, a stem with other channels.
    """

    def __init__(
        self,
        T: int = 4,
        in_channels: int = 3,
        channels: int = 64,
        *,
        stem: nn.Module | None = None,
        neuron: nn.Module | str = "cifar",
        recipe: str = DEFAULT_RECIPE,
        gain: float | None = None,
        output: str | None = None,
        kernel_size: int = 4,
        depth: int = 2,
        temporal_reduction: int = 2,
        channel_reduction: int = 1,
        attention: str = "both",
        step_mode: str = "m",
    ):
        super().__init__(T, in_channels, channels, stem=stem, step_mode=step_mode)
        if recipe not in RECIPES:
            raise ValueError(f"The recipe {recipe!r} does not exist; choose one of {', '.join(RECIPES)}.")
        form = RECIPES[recipe]
        gain = form.gain if gain is None else gain
        output = form.output if output is None else output
        if output not in ("spikes", "current"):
            raise ValueError(f"output is {output!r}; the gate weighs 'spikes' or the 'current'; choose one of the two.")
        if output == "current" and isinstance(neuron, nn.Module):
            raise ValueError(
                "output='current' has no neuron, and one was given; leave neuron= out or use output='spikes'."
            )
        self.recipe = recipe
        self.gau = GatedAttentionUnit(
            T, channels, kernel_size, temporal_reduction, channel_reduction, depth, gain, attention
        )
        # built in either case, so that an unknown preset is always an error
        node = neuron if isinstance(neuron, nn.Module) else form.neuron(neuron)
        self.neuron = node if output == "spikes" else None

    @property
    def is_reference(self) -> bool:
        """Whether this is the published recipe, and its gate, parts and output are not overridden."""
        strict = getattr(getattr(self.neuron, "surrogate_function", None), "strict", False)
        return self.recipe == "reference" and self.gau.gain == 1.0 and strict and self.gau.attention == "both"

    def encode(self, x: Tensor) -> Tensor:
        z = self.features(x)
        if z.dim() < 4 or z.shape[-3] != self.channels:
            raise ValueError(
                f"The stem put out a tensor of shape {list(z.shape)}; the gate needs {self.channels} channels of two "
                "dimensions each; change channels= or the stem."
            )
        if self._fuses(z):
            return gated_lif(z, *self.gau.parts(z), gain=self.gau.gain, **self.neuron.dynamics)
        current = self.over_time(z)
        return self.gau(z, current if self.neuron is None else self.neuron(current))

    def _fuses(self, z: Tensor) -> bool:
        """Whether one kernel does what the neuron and the gate do. Nobody may watch them, for it calls neither."""
        return (
            type(self.neuron) is LIFNode
            and type(self.gau) is GatedAttentionUnit
            and self.gau.attention == "both"
            and not (self.neuron.store_v_seq or has_other_backend(self.neuron))
            and not any(map(_is_watched, (self.neuron, self.neuron.surrogate_function, self.gau)))
            and choose("gated_lif", z, self.neuron.surrogate_function, steps=self.T, unfit=self._unfit()) in KERNELS
        )

    def _unfit(self) -> str | None:
        return require_numbers(self.gau.gain, self.neuron.tau, self.neuron.v_threshold, self.neuron.v_reset)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, recipe={self.recipe!r}, output={'current' if self.neuron is None else 'spikes'!r}"
        )


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody would miss a call: by a hook, or because its ``forward`` was replaced."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    everywhere = torch.nn.modules.module
    return (
        "forward" in vars(module)
        or any(getattr(module, name) for name in hooks)
        or any(getattr(everywhere, f"_global{name}") for name in hooks)
    )


class DirectCoding(Encoder):
    """Direct coding: the stem's current is the same at every step; with a neuron, its spikes.

    Source: GAC's and MS-ResNet's published codes (the current); the stem with its neuron is SpikingJelly's usual form.
    Without a neuron the steps of an image share one memory: copy the sequence before changing it in place.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`.
        neuron: None (the current itself, as MS-ResNet does), a multi-step neuron module, or the name of a preset.
    """

    def __init__(
        self,
        T: int = 4,
        in_channels: int = 3,
        channels: int = 64,
        *,
        stem: nn.Module | None = None,
        neuron: nn.Module | str | None = None,
        step_mode: str = "m",
    ):
        super().__init__(T, in_channels, channels, stem=stem, step_mode=step_mode)
        self.neuron = preset(neuron) if isinstance(neuron, str) else neuron

    def encode(self, x: Tensor) -> Tensor:
        z = self.over_time(self.features(x))
        return z if self.neuron is None else self.neuron(z)


class MatchedDirectCoding(Encoder):
    """Direct coding with the parameters of GAC but no gate, so that capacity and gating can be told apart (ours).

    ``LIF(z + SCA(z))`` with ``z = stem(x)`` and GAC's spatial-channel convolutions, which here add to the current.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`.
        neuron: a multi-step neuron module, or the name of a preset.
        kernel_size, depth, channel_reduction: of the convolutions, as in :class:`GatedAttentionCoding`.
    """

    def __init__(
        self,
        T: int = 4,
        in_channels: int = 3,
        channels: int = 64,
        *,
        stem: nn.Module | None = None,
        neuron: nn.Module | str = "cifar",
        kernel_size: int = 4,
        depth: int = 2,
        channel_reduction: int = 1,
        step_mode: str = "m",
    ):
        super().__init__(T, in_channels, channels, stem=stem, step_mode=step_mode)
        self.spatial_channel = SpatialChannelAttention(channels, kernel_size, channel_reduction, depth)
        self.neuron = preset(neuron) if isinstance(neuron, str) else neuron

    def encode(self, x: Tensor) -> Tensor:
        z = self.features(x)
        return self.neuron(self.over_time(z + self.spatial_channel(z)))


class AttendedDirectCoding(Encoder):
    """Direct coding behind one of SpikingJelly's attention layers: a gate on the current that is no GAC.

    SpikingJelly's ``TemporalWiseAttention`` (TA-SNN, arXiv 2107.11711) has one weight per step;
    ``MultiDimensionalAttention`` (MA-SNN, arXiv 2209.13929) has temporal, channel and spatial ones, and a ReLU.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`.
        attention: "temporal_wise" or "multi_dimensional".
        temporal_reduction, channel_reduction: ratios of T and channels to the layer's hidden units; at least one
            remains.

    Raises:
        ValueError: an unknown attention, or a SpikingJelly whose layer cannot be called (0.0.0.0.14).
    """

    def __init__(
        self,
        T: int = 4,
        in_channels: int = 3,
        channels: int = 64,
        *,
        stem: nn.Module | None = None,
        attention: str = "temporal_wise",
        temporal_reduction: int = 2,
        channel_reduction: int = 16,
        step_mode: str = "m",
    ):
        super().__init__(T, in_channels, channels, stem=stem, step_mode=step_mode)
        temporal_reduction = min(T, positive("temporal_reduction", temporal_reduction))
        channel_reduction = min(channels, positive("channel_reduction", channel_reduction))
        if attention == "temporal_wise":
            self.attention = attention_layer("TemporalWiseAttention", T, reduction=temporal_reduction)
        elif attention == "multi_dimensional":
            self.attention = attention_layer(
                "MultiDimensionalAttention", T, channels, reduction_t=temporal_reduction, reduction_c=channel_reduction
            )
        else:
            raise ValueError(f"attention is {attention!r}; choose temporal_wise or multi_dimensional.")

    def encode(self, x: Tensor) -> Tensor:
        return self.attention(self.over_time(self.features(x)))


#: The names that ``create_encoder`` and the models' ``encoder=`` know.
ENCODERS: dict[str, type[Encoder]] = {
    "gac": GatedAttentionCoding,
    "direct": DirectCoding,
    "direct_lif": DirectCoding,
    "direct_matched": MatchedDirectCoding,
    "temporal_wise": AttendedDirectCoding,
    "multi_dimensional": AttendedDirectCoding,
    "poisson": PoissonCoding,
    "latency": LatencyCoding,
    "weighted_phase": WeightedPhaseCoding,
}


def create_encoder(name: str, **options: Any) -> Encoder:
    """Build an encoder by name.

    Args:
        name: a key of :data:`ENCODERS`.
        options: keywords of the encoder's class. The neuron of "direct_lif" is the preset "cifar" where none is given.

    Raises:
        ValueError: no encoder of that name.
    """
    if name not in ENCODERS:
        raise ValueError(f"The encoder {name!r} does not exist; choose one of {', '.join(ENCODERS)}.")
    if name == "direct_lif":
        options.setdefault("neuron", "cifar")
    if ENCODERS[name] is AttendedDirectCoding:
        options.setdefault("attention", name)
    return ENCODERS[name](**options)
