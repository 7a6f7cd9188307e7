"""Direct coding: the image's current at every step, with variants for comparison."""

from __future__ import annotations

from torch import Tensor, nn

from gac_sj._compat import attention_layer
from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj._utils.validation import positive
from gac_sj.encoders.base import Encoder
from gac_sj.encoders.registry import BASELINE_ENCODER, register_encoder
from gac_sj.nn.attention import SpatialChannelAttention
from gac_sj.nn.presets import lif_preset

__all__ = ["AttendedDirectCoding", "DirectCoding", "MatchedDirectCoding"]


@register_encoder("direct_lif", neuron="required", options={"neuron": "cifar"}, help="spikes of the stem")
@register_encoder(BASELINE_ENCODER, neuron="optional", help="the stem's current, the same at every step")
class DirectCoding(Encoder):
    """Direct coding: the stem's current is the same at every step; with a neuron, its spikes.

    Source: GAC's and MS-ResNet's published codes (the current); the stem with its neuron is SpikingJelly's usual form.
    Without a neuron, the steps of an image share memory: copy the sequence before changing it in place.

    Args:
        T: see :class:`Encoder`.
        in_channels: see :class:`Encoder`.
        channels: see :class:`Encoder`.
        stem: see :class:`Encoder`.
        neuron: None for the current itself, as in MS-ResNet, a multi-step neuron module, or the name of a preset.
        step_mode: see :class:`Encoder`.
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
        self.neuron = lif_preset(neuron) if isinstance(neuron, str) else neuron

    def encode(self, x: Tensor) -> Tensor:
        z = self.over_time(self.features(x))
        return z if self.neuron is None else self.neuron(z)


@register_encoder(
    "direct_matched",
    neuron="required",
    help="spikes of the stem plus GAC's convolutions: its parameters without its gate",
)
class MatchedDirectCoding(Encoder):
    """Direct coding with the parameters of GAC but no gate, to separate capacity from gating (ours).

    ``LIF(z + SCA(z))`` with ``z = stem(x)`` and GAC's spatial-channel convolutions, added to the current.

    Args:
        T: see :class:`Encoder`.
        in_channels: see :class:`Encoder`.
        channels: see :class:`Encoder`.
        stem: see :class:`Encoder`.
        neuron: a multi-step neuron module, or the name of a preset.
        kernel_size: side of the kernels, as in :class:`gac_sj.GatedAttentionCoding`.
        depth: number of convolutions.
        channel_reduction: ratio of ``channels`` to the hidden channels.
        step_mode: see :class:`Encoder`.
    """

    kernel_size, depth, channel_reduction = fixed(), fixed(), fixed()

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
        self.kernel_size, self.depth, self.channel_reduction = kernel_size, depth, channel_reduction
        self.spatial_channel = SpatialChannelAttention(channels, kernel_size, channel_reduction, depth)
        self.neuron: nn.Module = lif_preset(neuron) if isinstance(neuron, str) else neuron

    def encode(self, x: Tensor) -> Tensor:
        z = self.features(x)
        return self.neuron(self.over_time(z + self.spatial_channel(z)))


@register_encoder(
    "multi_dimensional",
    options={"attention": "multi_dimensional"},
    in_comparison=False,  # SpikingJelly 0.0.0.0.14 lacks a usable layer
    help="the current through SpikingJelly's MultiDimensionalAttention (2.0.0)",
)
@register_encoder(
    "temporal_wise",
    options={"attention": "temporal_wise"},
    in_comparison=False,
    help="the current through SpikingJelly's TemporalWiseAttention (2.0.0)",
)
class AttendedDirectCoding(Encoder):
    """Direct coding followed by one of SpikingJelly's attention layers: a gate on the current other than GAC's.

    SpikingJelly's ``TemporalWiseAttention`` (TA-SNN, arXiv 2107.11711) has one weight per step;
    ``MultiDimensionalAttention`` (MA-SNN, arXiv 2209.13929) has temporal, channel and spatial ones, and a ReLU.

    Args:
        T: see :class:`Encoder`.
        in_channels: see :class:`Encoder`.
        channels: see :class:`Encoder`.
        stem: see :class:`Encoder`.
        attention: "temporal_wise" or "multi_dimensional".
        temporal_reduction: ratio of T to the layer's hidden units; at least one remains.
        channel_reduction: ratio of ``channels`` to the layer's hidden units; at least one remains.
        step_mode: see :class:`Encoder`.

    Raises:
        UsageError: an unknown attention, or a SpikingJelly whose layer cannot be called (0.0.0.0.14).
    """

    temporal_reduction = fixed()
    attention_names = ("attention",)

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
        self.temporal_reduction = positive("temporal_reduction", temporal_reduction)
        temporal_reduction = min(T, temporal_reduction)
        channel_reduction = min(channels, positive("channel_reduction", channel_reduction))
        if attention == "temporal_wise":
            self.attention = attention_layer("TemporalWiseAttention", T, reduction=temporal_reduction)
        elif attention == "multi_dimensional":
            self.attention = attention_layer(
                "MultiDimensionalAttention", T, channels, reduction_t=temporal_reduction, reduction_c=channel_reduction
            )
        else:
            raise UsageError(
                f"must be one of SpikingJelly's attention layers, got {attention!r}",
                argument="attention",
                options=("temporal_wise", "multi_dimensional"),
            )

    def encode(self, x: Tensor) -> Tensor:
        return self.attention(self.over_time(self.features(x)))
