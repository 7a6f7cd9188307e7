"""Gated Attention Coding, and its forms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj.encoders.base import AttentionMaps, Encoder
from gac_sj.encoders.registry import DEFAULT_ENCODER, REFERENCE_FORM, register_encoder
from gac_sj.nn import functional
from gac_sj.nn.attention import BOTH, SPATIAL, TEMPORAL, FreeTemporalAttention, GatedAttentionUnit
from gac_sj.nn.neuron import LIFNode, is_plain_lif
from gac_sj.nn.presets import lif_preset
from gac_sj.ops.channels import pays
from gac_sj.ops.dispatch import KERNELS, choose, why_not_numbers
from gac_sj.ops.gated_lif import gated_lif
from gac_sj.ops.shortcuts import does_only

__all__ = ["DEFAULT_FORM", "FORMS", "Form", "GatedAttentionCoding"]


#: What the encoder outputs: what the neuron makes, or the stem's current, which then has none.
SPIKES, CURRENT = OUTPUTS = ("spikes", "current")
#: Where the gate stands: behind the neuron, whose spikes it weighs, or in front of it.
AFTER, BEFORE = PLACES = ("after", "before")


@dataclass(frozen=True)
class Form:
    """A form of Gated Attention Coding.

    Args:
        gain: largest value of the gate.
        threshold_scale: factor on the threshold of the encoder's neuron.
        output: what the gate weighs: "spikes" of the neuron, or the stem's "current" without a neuron.
        strict: whether the neuron fires only above the threshold, as in the published code, and not at it.
        kernel_size: side of the kernels of the spatial-channel attention.
        depth: number of its convolutions.
        depthwise: whether they are depthwise.
        batch_norm: whether BatchNorm follows the last one.
        free_temporal: whether the temporal attention is a free parameter for every step and channel.
    """

    gain: float
    threshold_scale: float = 1.0
    output: str = SPIKES
    strict: bool = False
    kernel_size: int = 4
    depth: int = 2
    depthwise: bool = False
    batch_norm: bool = False
    free_temporal: bool = False

    def neuron(self, name: str) -> LIFNode:
        """The encoder's neuron: a preset with the changes of this form."""
        node = lif_preset(name, self.strict)
        node.v_threshold *= self.threshold_scale
        return node


#: Forms of the encoder: the published one, and ours. docs/benchmarks/forms.md says which is the default, and why.
FORMS: dict[str, Form] = {
    REFERENCE_FORM: Form(gain=1.0, strict=True),
    "unit_gate": Form(gain=2.0),
    "low_threshold": Form(gain=2.0, threshold_scale=0.5),
    "current": Form(gain=2.0, output=CURRENT),
    "lite": Form(gain=2.0, kernel_size=3, depth=1, depthwise=True, batch_norm=True, free_temporal=True),
}
DEFAULT_FORM = "low_threshold"


@register_encoder(
    DEFAULT_ENCODER,
    neuron="optional",
    forms=FORMS,
    options={"form": DEFAULT_FORM},
    shorthands={part: {"attention": part} for part in (TEMPORAL, SPATIAL)},
    help="gated spikes of the stem",
)
class GatedAttentionCoding(Encoder):
    """Gated Attention Coding: spikes of a convolutional stem, weighed at every step by a gate in (0, gain).

    With ``z = stem(x)`` the output is ``gate(z) * LIF(z)``, ``gate = gain * sigmoid(TA(z) * SCA(z))``; with the gate
    before the neuron it is ``LIF(gate(z) * z)``, spikes only. Source: GAC (arXiv 2308.06582), main figure and code; the
    gain, changed neurons, other attentions, and the gate before the neuron or without one are ours. On a static image
    the stem and the spatial-channel attention run once; a sequence, or a stem that is random or stateful, takes the
    general path. Both agree, running statistics included. Where a kernel fuses neuron and gate (:mod:`gac_sj.ops`),
    neither module is called; a hook on one of them or on the surrogate function, or a replaced method, brings the
    modules back.

    Args:
        T: see :class:`Encoder`.
        in_channels: see :class:`Encoder`.
        channels: see :class:`Encoder`.
        stem: see :class:`Encoder`.
        neuron: name of a preset (:func:`gac_sj.lif_preset`), which the form may change, or a multi-step neuron module,
            which is used as it is.
        form: a name in :data:`FORMS`; "reference" is the published encoder.
        gain: largest value of the gate; None: that of the form.
        output: "spikes", or "current" of the stem without a neuron; None: that of the form.
        gate: "after" the neuron, where it weighs spikes (published), or "before" it, where it weighs the current, so
            that the encoder outputs spikes only.
        kernel_size: side of the kernels of the spatial-channel attention; None: that of the form.
        depth: number of convolutions of the spatial-channel attention; None: that of the form.
        temporal_reduction: reduction ratio of the temporal attention.
        channel_reduction: reduction ratio of the spatial-channel attention.
        attention: "both", or for ablations "temporal" or "spatial" alone
            (:class:`gac_sj.nn.attention.GatedAttentionUnit`).
        depthwise: whether the convolutions of the spatial-channel attention are depthwise; None: as the form says.
        batch_norm: whether BatchNorm follows the last of them; None: as the form says.
        free_temporal: whether the temporal attention is a free parameter for every step and channel, not a network on
            the features; None: as the form says.
        step_mode: see :class:`Encoder`.

    Raises:
        UsageError: an unknown form, output, place of the gate or preset; a neuron, or a gate before it, where the
            output is the current; a number out of its range; on the call, a stem with other channels.
    """

    form, output, gate, attention = fixed(), fixed(), fixed(), fixed()
    kernel_size, depth = fixed(), fixed()
    temporal_reduction, channel_reduction = fixed(), fixed()
    without_neuron = MappingProxyType({"output": CURRENT})
    attention_names = ("gau",)

    @classmethod
    def takes_neuron(cls, form: str = DEFAULT_FORM, output: str | None = None, **options: Any) -> bool:
        return (output or (FORMS[form].output if form in FORMS else SPIKES)) != CURRENT

    def __init__(
        self,
        T: int = 4,
        in_channels: int = 3,
        channels: int = 64,
        *,
        stem: nn.Module | None = None,
        neuron: nn.Module | str = "cifar",
        form: str = DEFAULT_FORM,
        gain: float | None = None,
        output: str | None = None,
        gate: str = AFTER,
        kernel_size: int | None = None,
        depth: int | None = None,
        temporal_reduction: int = 2,
        channel_reduction: int = 1,
        attention: str = BOTH,
        depthwise: bool | None = None,
        batch_norm: bool | None = None,
        free_temporal: bool | None = None,
        step_mode: str = "m",
    ):
        super().__init__(T, in_channels, channels, stem=stem, step_mode=step_mode)
        if form not in FORMS:
            raise UsageError(f"must be a form of GAC, got {form!r}", argument="form", options=FORMS, given=form)
        given: dict[str, Any] = dict(
            gain=gain,
            output=output,
            kernel_size=kernel_size,
            depth=depth,
            depthwise=depthwise,
            batch_norm=batch_norm,
            free_temporal=free_temporal,
        )
        chosen = replace(FORMS[form], **{name: value for name, value in given.items() if value is not None})
        if chosen.output not in OUTPUTS:
            raise UsageError(f"must be spikes or a current, got {output!r}", argument="output", options=OUTPUTS)
        if gate not in PLACES:
            raise UsageError(f"must be a place of the gate, got {gate!r}", argument="gate", options=PLACES)
        if chosen.output == CURRENT and isinstance(neuron, nn.Module):
            raise UsageError(
                f"has no place where the gate weighs the {CURRENT}",
                "leave it out or pass output='spikes'",
                argument="neuron",
            )
        if chosen.output == CURRENT and gate == BEFORE:
            raise UsageError(
                f"must be {AFTER!r} where the output is the {CURRENT} and there is no neuron, got {gate!r}",
                "leave it out or pass output='spikes'",
                argument="gate",
            )
        self.form, self.output, self.gate, self.attention = form, chosen.output, gate, attention
        self.kernel_size, self.depth = chosen.kernel_size, chosen.depth
        self.temporal_reduction, self.channel_reduction = temporal_reduction, channel_reduction
        self.gau = GatedAttentionUnit(
            T,
            channels,
            chosen.kernel_size,
            temporal_reduction,
            channel_reduction,
            chosen.depth,
            chosen.gain,
            attention,
            chosen.free_temporal,
            chosen.depthwise,
            chosen.batch_norm,
        )
        # built in either case, so that an unknown preset is always an error
        node = neuron if isinstance(neuron, nn.Module) else chosen.neuron(neuron)
        self.neuron = node if chosen.output != CURRENT else None

    @property
    def gain(self) -> float:
        """Largest value of the gate, which ``gau.gain`` may change."""
        return self.gau.gain

    @property
    def is_reference(self) -> bool:
        """Whether this is the published form, with its gain, both attentions and its output."""
        strict = getattr(getattr(self.neuron, "surrogate_function", None), "strict", False)
        published = self.gau.attention == BOTH and self.gate == AFTER
        return self.form == REFERENCE_FORM and self.gau.gain == 1.0 and strict and published

    def attention_maps(self, x: Tensor) -> AttentionMaps:
        z = self.features(x)
        temporal, spatial_channel = self.gau.parts(z)
        return AttentionMaps(self.over_time(self.gau(z)), temporal, spatial_channel)

    def encode(self, x: Tensor) -> Tensor:
        z = self.features(x)
        if z.dim() < 4 or z.shape[-3] != self.channels:
            raise UsageError(
                f"must return {self.channels} channels of two dimensions each, got a tensor of shape {list(z.shape)}",
                "change the stem or channels=",
                argument="stem",
            )
        node = self._fusable_neuron(z)
        if node is not None:
            temporal, spatial_channel = self.gau.parts(z)
            assert temporal is not None and spatial_channel is not None  # BOTH
            return gated_lif(
                z,
                temporal,
                spatial_channel,
                self.gau.gain,
                node.dynamics,
                node.surrogate_function,
                gate=functional.gate,
                before=self.gate == BEFORE,
            )
        current = self.over_time(z)
        if self.neuron is None:
            return self.gau(z, current)
        return self.neuron(self.gau(z, current)) if self.gate == BEFORE else self.gau(z, self.neuron(current))

    def _fusable_neuron(self, z: Tensor) -> LIFNode | None:
        """The neuron, if one kernel can do what it and the gate do, from rest; the kernel calls neither."""
        node, gau = self.neuron, self.gau
        if not (is_plain_lif(node) and does_only(gau, GatedAttentionUnit) and gau.attention == BOTH):
            return None
        by_channel = isinstance(gau.temporal, FreeTemporalAttention)
        if not (pays(z if z.dim() == 5 else z.unsqueeze(0)) if by_channel else self.gate == AFTER):
            return None
        if node.store_v_seq or node.outputs_bytes or node.potential_before(z if z.dim() == 4 else z[0]) is not None:
            return None
        unsupported = why_not_numbers(gau.gain, *node.dynamics)
        path = choose("gated_lif", z, node.surrogate_function, steps=self.T, unsupported=unsupported)
        return node if path in KERNELS else None

    def extra_repr(self) -> str:
        output = CURRENT if self.neuron is None else SPIKES
        return f"{super().extra_repr()}, form={self.form!r}, output={output!r}, gate={self.gate!r}"
