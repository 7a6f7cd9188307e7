"""The attention modules of Gated Attention Coding: they hold the weights, ``functional`` holds the mathematics."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj._utils.validation import positive
from gac_sj.nn import functional
from gac_sj.nn.time_steps import hidden_units
from gac_sj.ops.apply_gate import apply_gate

__all__ = ["GatedAttentionUnit", "SpatialChannelAttention", "TemporalAttention"]

#: Which attention the gate is made of.
BOTH, TEMPORAL, SPATIAL = GATE_ATTENTIONS = ("both", "temporal", "spatial")


class TemporalAttention(nn.Module):
    """Temporal attention: a bias-free network ``T -> T // reduction -> T`` on the mean and the maximum of each step.

    Source: GAC (arXiv 2308.06582), main figure and code. T = 1 has one hidden unit (the published code has none).

    Args:
        T: number of time steps.
        reduction: ratio of ``T`` to the hidden units, of which there is at least one.

    Shapes:
        ``[N, C, H, W]`` (the same at every step) or ``[T, N, C, H, W]`` -> ``[T, N, 1, 1, 1]``.

    Raises:
        UsageError: an argument is not a positive integer; on the call, a sequence has another number of steps.
    """

    T, temporal_reduction = fixed(), fixed()

    def __init__(self, T: int, reduction: int = 2):
        super().__init__()
        self.T = T = positive("T", T)
        self.temporal_reduction = positive("reduction", reduction)
        hidden = hidden_units(T, reduction)
        self.squeeze = nn.Linear(T, hidden, bias=False)
        self.excite = nn.Linear(hidden, T, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 5 and x.shape[0] != self.T:
            raise UsageError(
                f"TemporalAttention was built for T={self.T}, got a sequence of {x.shape[0]} steps",
                f"pass {self.T} steps or build it with T={x.shape[0]}",
            )
        return functional.temporal_attention(x, self.T, self.squeeze, self.excite)


class SpatialChannelAttention(nn.Module):
    """Spatial-channel attention: ``depth`` square convolutions with ReLU between them, no bias.

    Source: GAC (arXiv 2308.06582): the code has two 4x4 convolutions (the default), the main figure draws one.

    Args:
        channels: channels of the input and the output.
        kernel_size: side of the kernels; even kernels are padded by one pixel more on the right and below.
        reduction: ratio of ``channels`` to the hidden channels, of which there is at least one.
        depth: number of convolutions; with 1 there are no hidden channels.

    Shapes:
        ``[N, C, H, W]`` or ``[T, N, C, H, W]`` -> the same.

    Raises:
        UsageError: an argument is not a positive integer.
    """

    kernel_size = fixed()

    def __init__(self, channels: int, kernel_size: int = 4, reduction: int = 1, depth: int = 2):
        super().__init__()
        self.kernel_size = positive("kernel_size", kernel_size)
        hidden = max(1, positive("channels", channels) // positive("reduction", reduction))
        widths = [channels, *[hidden] * (positive("depth", depth) - 1), channels]
        # padded by functional, which avoids torch's warning about even kernels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size, bias=False) for before, after in pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.spatial_channel_attention(x, self.convolutions, functional.same_padding(self.kernel_size))


class GatedAttentionUnit(nn.Module):
    """The gate, ``gain * sigmoid(temporal attention * spatial-channel attention)``, or a sequence times the gate.

    Source: GAC (arXiv 2308.06582), main figure; the gain is ours.

    Args:
        T: number of time steps.
        channels: channels of the features.
        kernel_size: side of the kernels of the spatial-channel attention.
        temporal_reduction: ratio of ``T`` to the hidden units of the temporal attention.
        channel_reduction: ratio of ``channels`` to the hidden channels of the spatial-channel attention.
        depth: number of convolutions of the spatial-channel attention.
        gain: the largest value of the gate, above 0. 1 is published; 2 makes the gate about 1 at initialisation.
        attention: "both" (published), or for ablations the "temporal" or the "spatial" part alone (ours). Then the gate
            is ``gain * sigmoid`` of that part, ``[T, N, 1, 1, 1]`` or of the shape of the features.

    Shapes:
        features ``[N, C, H, W]`` (the same at every step) or ``[T, N, C, H, W]`` -> the gate ``[T, N, C, H, W]``, in
        (0, gain); with a sequence ``[T, N, C, H, W]`` as the second argument, gate times sequence.

    Raises:
        UsageError: an argument is out of range.
    """

    attention = fixed()

    def __init__(
        self,
        T: int,
        channels: int,
        kernel_size: int = 4,
        temporal_reduction: int = 2,
        channel_reduction: int = 1,
        depth: int = 2,
        gain: float = 1.0,
        attention: str = BOTH,
    ):
        super().__init__()
        if attention not in GATE_ATTENTIONS:
            raise UsageError(
                f"must be an attention of the gate, got {attention!r}",
                argument="attention",
                options=GATE_ATTENTIONS,
                given=attention,
            )
        if not 0 < gain < float("inf"):
            raise UsageError(
                f"must be finite and above 0, got {gain}", "pass 1 for the published gate", argument="gain"
            )
        self.attention = attention
        self.temporal: TemporalAttention | None = None
        self.spatial_channel: SpatialChannelAttention | None = None
        if attention != SPATIAL:
            self.temporal = TemporalAttention(T, temporal_reduction)
        if attention != TEMPORAL:
            self.spatial_channel = SpatialChannelAttention(channels, kernel_size, channel_reduction, depth)
        self.gain = float(gain)

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Temporal ``[T, N, 1, 1, 1]`` and spatial-channel attention (of the shape of ``x``); None for a missing part.

        Args:
            x: features ``[N, C, H, W]`` or ``[T, N, C, H, W]``.
        """
        temporal = None if self.temporal is None else self.temporal(x)
        return temporal, None if self.spatial_channel is None else self.spatial_channel(x)

    def forward(self, x: Tensor, sequence: Tensor | None = None) -> Tensor:
        temporal, spatial_channel = self.parts(x)
        if sequence is None:
            return functional.gate(temporal, spatial_channel, self.gain)
        return apply_gate(sequence, temporal, spatial_channel, self.gain, gate=functional.gate)

    def extra_repr(self) -> str:
        return f"gain={self.gain:g}, attention={self.attention!r}"
