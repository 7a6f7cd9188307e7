"""Attention on membrane potentials, used in every block of a network (MA-SNN, arXiv 2209.13929).

For ``[T, N, C, H, W]`` it has one weight per step (T), per channel (C) or per pixel (S) of an image, each in (0, 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj._utils.validation import positive
from gac_sj.nn.attention import TemporalAttention

__all__ = ["ATTENTIONS", "ChannelAttention", "MembraneAttention", "SpatialAttention", "block_attention"]

#: The names of the paper, for combinations of temporal, channel and spatial attention.
ATTENTIONS = ("TA", "CA", "SA", "TCA", "TSA", "CSA", "TCSA")


class ChannelAttention(nn.Module):
    """``W_m ReLU(W_n avg(x)) + W_m ReLU(W_n max(x))``: avg and max pool each channel over steps and pixels.

    Source: MA-SNN (arXiv 2209.13929), channel attention.

    Args:
        channels: channels of the input.
        reduction: ratio of ``channels`` to the hidden units, of which there is at least one.

    Shapes:
        ``[T, N, C, H, W]`` -> ``[N, C, 1, 1]``, any real number.

    Raises:
        UsageError: an argument is not a positive integer.
    """

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        hidden = max(1, positive("channels", channels) // positive("reduction", reduction))
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.mean((0, 3, 4)), x.amax((0, 3, 4))])  # [2, N, C]
        return self.excite(torch.relu(self.squeeze(pooled)).sum(0))[..., None, None]


class SpatialAttention(nn.Module):
    """A convolution of two maps, the mean and the maximum of each pixel over steps and channels.

    Source: MA-SNN (arXiv 2209.13929), spatial attention.

    Args:
        kernel_size: side of the kernel, odd.

    Shapes:
        ``[T, N, C, H, W]`` -> ``[N, 1, H, W]``, any real number.

    Raises:
        UsageError: ``kernel_size`` is not a positive odd integer.
    """

    def __init__(self, kernel_size: int = 3):
        super().__init__()
        if positive("kernel_size", kernel_size) % 2 == 0:
            raise UsageError(f"must be odd, got {kernel_size}", "pass 3 or 7", argument="kernel_size")
        self.convolution = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(torch.stack([x.mean((0, 2)), x.amax((0, 2))], 1))


class MembraneAttention(nn.Module):
    """Multiplies potentials by sigmoids of temporal, channel and spatial attention, one after the other, then ReLU.

    The input of each attention is the output of the one before it. Source: MA-SNN (arXiv 2209.13929), published code.

    Args:
        attention: a name in :data:`ATTENTIONS`.
        T: time steps of the input.
        channels: channels of the input.
        temporal_reduction: ratio of T to the hidden units of the temporal attention, of which there is at least one.
        channel_reduction: ratio of channels to the hidden units of the channel attention, of which there is at least
            one.
        kernel_size: side of the kernel of the spatial attention, odd.

    Shapes:
        ``[T, N, C, H, W]`` -> the same, at least 0.

    Raises:
        UsageError: the attention is unknown, or a number is out of range; on the call, a sequence has another number of
            steps.
    """

    attention = fixed()

    def __init__(
        self,
        attention: str,
        T: int,
        channels: int,
        temporal_reduction: int = 1,
        channel_reduction: int = 8,
        kernel_size: int = 3,
    ):
        super().__init__()
        if attention not in ATTENTIONS:
            raise UsageError(
                f"must be a membrane attention, got {attention!r}",
                argument="attention",
                options=ATTENTIONS,
                given=attention,
            )
        self.attention = attention
        self.temporal: TemporalAttention | None = None
        self.channel: ChannelAttention | None = None
        self.spatial: SpatialAttention | None = None
        if "T" in attention:
            self.temporal = TemporalAttention(T, temporal_reduction)
        if "C" in attention:
            self.channel = ChannelAttention(channels, channel_reduction)
        if "S" in attention:
            self.spatial = SpatialAttention(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        for attention in (self.temporal, self.channel, self.spatial):
            if attention is not None:
                x = x * torch.sigmoid(attention(x))
        return F.relu(x)

    def extra_repr(self) -> str:
        return f"attention={self.attention!r}"


def block_attention(attention: str, *arguments: int) -> nn.Module:
    """The attention of a block by name.

    Args:
        attention: a name in :data:`ATTENTIONS`, or "none".
        arguments: further arguments of :class:`MembraneAttention`.

    Returns:
        A :class:`MembraneAttention`, or for "none" the identity.

    Raises:
        UsageError: see :class:`MembraneAttention`.
    """
    return nn.Identity() if attention == "none" else MembraneAttention(attention, *arguments)
