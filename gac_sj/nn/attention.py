"""The attention modules of Gated Attention Coding: they hold the weights, ``functional`` holds the mathematics."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj._utils.validation import positive
from gac_sj.nn import functional
from gac_sj.nn.running_statistics import repeated_images
from gac_sj.nn.time_steps import hidden_units
from gac_sj.ops.apply_gate import apply_gate

__all__ = ["FreeTemporalAttention", "GatedAttentionUnit", "SpatialChannelAttention", "TemporalAttention"]

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
        _check_steps(self, x)
        return functional.temporal_attention(x, self.T, self.squeeze, self.excite)


class FreeTemporalAttention(nn.Module):
    """Temporal attention that is a free parameter for every step and channel (ours): ``T * C`` numbers, no arithmetic.

    It starts from a normal distribution of mean 0 and standard deviation 0.01: so close to 0 that the gate is half its
    gain, and not 0, where the other attention would have no gradient.

    Args:
        T: number of time steps.
        channels: channels of the features.

    Shapes:
        ``[N, C, H, W]`` (the same at every step) or ``[T, N, C, H, W]`` -> ``[T, 1, C, 1, 1]``.

    Raises:
        UsageError: an argument is not a positive integer; on the call, a sequence has another number of steps.
    """

    T = fixed()

    def __init__(self, T: int, channels: int):
        super().__init__()
        self.T = positive("T", T)
        self.by_step = nn.Parameter(torch.empty(T, positive("channels", channels)))
        nn.init.normal_(self.by_step, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        _check_steps(self, x)
        return functional.free_temporal_attention(x, self.by_step)

    def extra_repr(self) -> str:
        return f"T={self.T}, channels={self.by_step.shape[1]}"


def _check_steps(attention: TemporalAttention | FreeTemporalAttention, x: Tensor) -> None:
    if x.dim() == 5 and x.shape[0] != attention.T:
        raise UsageError(
            f"{type(attention).__name__} was built for T={attention.T}, got a sequence of {x.shape[0]} steps",
            f"pass {attention.T} steps or build it with T={x.shape[0]}",
        )


class SpatialChannelAttention(nn.Module):
    """Spatial-channel attention: ``depth`` square convolutions with ReLU between them, no bias.

    Source: GAC (arXiv 2308.06582): the code has two 4x4 convolutions (the default), the main figure draws one.
    Depthwise convolutions and BatchNorm are ours.

    Args:
        channels: channels of the input and the output.
        kernel_size: side of the kernels; even kernels are padded by one pixel more on the right and below.
        reduction: ratio of ``channels`` to the hidden channels, of which there is at least one.
        depth: number of convolutions; with 1 there are no hidden channels.
        depthwise: whether each channel is convolved alone.
        batch_norm: whether BatchNorm follows the last convolution.

    Shapes:
        ``[N, C, H, W]`` or ``[T, N, C, H, W]`` -> the same.

    Raises:
        UsageError: an argument is not a positive integer; depthwise convolutions with fewer hidden channels.
    """

    kernel_size = fixed()

    def __init__(
        self,
        channels: int,
        kernel_size: int = 4,
        reduction: int = 1,
        depth: int = 2,
        depthwise: bool = False,
        batch_norm: bool = False,
    ):
        super().__init__()
        self.kernel_size = positive("kernel_size", kernel_size)
        hidden = max(1, positive("channels", channels) // positive("reduction", reduction))
        widths = [channels, *[hidden] * (positive("depth", depth) - 1), channels]
        if depthwise and hidden != channels and depth > 1:
            raise UsageError(
                f"must be 1 for depthwise convolutions, which keep the number of channels, got {reduction}",
                "leave it out or pass depthwise=False",
                argument="channel_reduction",
            )
        groups = channels if depthwise else 1
        # padded by functional, which avoids torch's warning about even kernels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size, groups=groups, bias=False) for before, after in pairwise(widths)
        )
        self.norm = nn.BatchNorm2d(channels) if batch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        padding = functional.same_padding(self.kernel_size)
        return functional.spatial_channel_attention(x, self.convolutions, padding, self.norm)


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
            is ``gain * sigmoid`` of that part, of the shape of that part.
        free_temporal: whether the temporal attention is a free parameter (:class:`FreeTemporalAttention`).
        depthwise: whether the convolutions of the spatial-channel attention are depthwise.
        batch_norm: whether BatchNorm ends the spatial-channel attention. An image that is the same at every step counts
            as T frames in its running statistics.

    Shapes:
        features ``[N, C, H, W]`` (the same at every step) or ``[T, N, C, H, W]`` -> the gate ``[T, N, C, H, W]``, in
        (0, gain); with a sequence ``[T, N, C, H, W]`` as the second argument, gate times sequence.

    Raises:
        UsageError: an argument is out of range.
    """

    T, attention = fixed(), fixed()

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
        free_temporal: bool = False,
        depthwise: bool = False,
        batch_norm: bool = False,
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
        self.T, self.attention = positive("T", T), attention
        self.temporal: TemporalAttention | FreeTemporalAttention | None = None
        self.spatial_channel: SpatialChannelAttention | None = None
        if attention != SPATIAL:
            self.temporal = (
                FreeTemporalAttention(T, channels) if free_temporal else TemporalAttention(T, temporal_reduction)
            )
        if attention != TEMPORAL:
            self.spatial_channel = SpatialChannelAttention(
                channels, kernel_size, channel_reduction, depth, depthwise, batch_norm
            )
        self.gain = float(gain)

    def parts(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Temporal attention ``[T, N, 1, 1, 1]`` and spatial-channel attention, of the shape of ``x``.

        Free temporal attention is ``[T, 1, C, 1, 1]``. A missing part is None.

        Args:
            x: features ``[N, C, H, W]`` or ``[T, N, C, H, W]``.
        """
        temporal = None if self.temporal is None else self.temporal(x)
        if self.spatial_channel is None:
            return temporal, None
        with repeated_images(self.spatial_channel, self.T if x.dim() == 4 else 1):
            return temporal, self.spatial_channel(x)

    def forward(self, x: Tensor, sequence: Tensor | None = None) -> Tensor:
        temporal, spatial_channel = self.parts(x)
        if sequence is None:
            return functional.gate(temporal, spatial_channel, self.gain)
        return apply_gate(sequence, temporal, spatial_channel, self.gain, gate=functional.gate)

    def extra_repr(self) -> str:
        return f"gain={self.gain:g}, attention={self.attention!r}"
