"""The attention modules of Gated Attention Coding: they hold weights, the mathematics is in ``functional``."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from gac_sj._utils.validation import positive
from gac_sj.nn import functional

__all__ = ["GatedAttentionUnit", "SpatialChannelAttention", "TemporalAttention"]


class TemporalAttention(nn.Module):
    """Temporal attention: a bias-free network ``T -> T // reduction -> T`` on the mean and the maximum of each step.

    Source: GAC (arXiv 2308.06582), main figure and code. T = 1 has one hidden unit (the published code has none).

    Args:
        T: number of time steps.
        reduction: ratio of ``T`` to the hidden units; at least one remains.

    Shapes:
        ``[N, C, H, W]`` (the same at every step) or ``[T, N, C, H, W]`` -> ``[T, N, 1, 1, 1]``.

    Raises:
        ValueError: an argument is not a positive whole number; on the call, a sequence of another T.
    """

    def __init__(self, T: int, reduction: int = 2):
        super().__init__()
        self.T = T = positive("T", T)
        hidden = max(1, T // positive("reduction", reduction))
        self.squeeze = nn.Linear(T, hidden, bias=False)
        self.excite = nn.Linear(hidden, T, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 5 and x.shape[0] != self.T:
            raise ValueError(f"TemporalAttention(T={self.T}) got {x.shape[0]} steps; feed {self.T} or build it anew.")
        return functional.temporal_attention(x, self.squeeze.weight, self.excite.weight)


class SpatialChannelAttention(nn.Module):
    """Spatial-channel attention: ``depth`` square convolutions with ReLU between them, no bias.

    Source: GAC (arXiv 2308.06582): the code has two 4x4 convolutions (the default), the main figure draws one.

    Args:
        channels: channels in and out.
        kernel_size: side of the kernels; an even one is padded by one pixel more to the right and below.
        reduction: ratio of ``channels`` to the hidden channels; at least one remains.
        depth: number of convolutions; 1 has no hidden channels.

    Shapes:
        ``[N, C, H, W]`` or ``[T, N, C, H, W]`` -> the same.

    Raises:
        ValueError: an argument is not a positive whole number.
    """

    def __init__(self, channels: int, kernel_size: int = 4, reduction: int = 1, depth: int = 2):
        super().__init__()
        positive("kernel_size", kernel_size)
        hidden = max(1, positive("channels", channels) // positive("reduction", reduction))
        widths = [channels, *[hidden] * (positive("depth", depth) - 1), channels]
        # functional pads, so that even kernels keep the size without torch's padding warning
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size, bias=False) for before, after in pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.spatial_channel_attention(x, [convolution.weight for convolution in self.convolutions])


class GatedAttentionUnit(nn.Module):
    """The gate, ``gain * sigmoid(temporal attention * spatial-channel attention)``, or a sequence that it weighs.

    Source: GAC (arXiv 2308.06582), main figure; the gain is ours.

    Args:
        T: number of time steps.
        channels: channels of the features.
        kernel_size, depth: of the spatial-channel branch.
        temporal_reduction, channel_reduction: reduction ratios of the two branches.
        gain: the largest value of the gate, above 0. 1 is published; 2 makes the gate about 1 at initialisation.
        attention: "both" (published), or for ablations the "temporal" or the "spatial" part alone (ours): the gate is
            ``gain * sigmoid`` of it, ``[T, N, 1, 1, 1]`` or of the features' shape.

    Shapes:
        features ``[N, C, H, W]`` (the same at every step) or ``[T, N, C, H, W]`` -> the gate ``[T, N, C, H, W]``, in
        (0, gain); with a sequence ``[T, N, C, H, W]`` as the second argument, gate times sequence.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        T: int,
        channels: int,
        kernel_size: int = 4,
        temporal_reduction: int = 2,
        channel_reduction: int = 1,
        depth: int = 2,
        gain: float = 1.0,
        attention: str = "both",
    ):
        super().__init__()
        if attention not in ("both", "temporal", "spatial"):
            raise ValueError(f"attention is {attention!r}; choose both, temporal or spatial.")
        if not 0 < gain < float("inf"):
            raise ValueError(f"gain is {gain}; a gate needs a finite gain above 0; give 1 for the published one.")
        self.attention = attention
        self.temporal = self.spatial_channel = None
        if attention != "spatial":
            self.temporal = TemporalAttention(T, temporal_reduction)
        if attention != "temporal":
            self.spatial_channel = SpatialChannelAttention(channels, kernel_size, channel_reduction, depth)
        self.gain = float(gain)

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Temporal ``[T, N, 1, 1, 1]`` and spatial-channel attention (of the shape of ``x``), or None for either."""
        return tuple(part and part(x) for part in (self.temporal, self.spatial_channel))

    def forward(self, x: Tensor, sequence: Tensor | None = None) -> Tensor:
        temporal, spatial_channel = self.parts(x)
        if sequence is None:
            return functional.gate(temporal, spatial_channel, self.gain)
        return functional.weigh(sequence, temporal, spatial_channel, self.gain)

    def extra_repr(self) -> str:
        return f"gain={self.gain:g}, attention={self.attention!r}"
