"""Attention on membrane potentials, which stands in every block of a network (MA-SNN, arXiv 2209.13929).

Over ``[T, N, C, H, W]`` there is one weight per step (T), per channel (C) or per pixel (S) of an image, each in (0, 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gac_sj._utils.validation import positive
from gac_sj.nn.attention import TemporalAttention

__all__ = ["ATTENTIONS", "ChannelAttention", "MembraneAttention", "SpatialAttention", "block_attention"]

#: The names of the paper: which of the temporal, channel and spatial attention there are.
ATTENTIONS = ("TA", "CA", "SA", "TCA", "TSA", "CSA", "TCSA")


class ChannelAttention(nn.Module):
    """``W_m ReLU(W_n avg(x)) + W_m ReLU(W_n max(x))``: avg and max pool each channel over steps and pixels.

    Source: MA-SNN (arXiv 2209.13929), channel attention.

    Args:
        channels: channels of the input.
        reduction: ratio of ``channels`` to the hidden units; at least one remains.

    Shapes:
        ``[T, N, C, H, W]`` -> ``[N, C, 1, 1]``, any real number.

    Raises:
        ValueError: an argument is not a positive whole number.
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
        ValueError: ``kernel_size`` is even, or no positive whole number.
    """

    def __init__(self, kernel_size: int = 3):
        super().__init__()
        if positive("kernel_size", kernel_size) % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; the map keeps its size where it is odd; give 3 or 7.")
        self.convolution = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(torch.stack([x.mean((0, 2)), x.amax((0, 2))], 1))


class MembraneAttention(nn.Module):
    """Weighs potentials by sigmoids of temporal, channel and spatial attention, one after the other, then ReLU.

    Each attention sees what the one before it has weighed. Source: MA-SNN (arXiv 2209.13929), published code.

    Args:
        attention: a name in :data:`ATTENTIONS`.
        T, channels: of the input.
        temporal_reduction, channel_reduction: ratios of T and channels to the hidden units; at least one remains.
        kernel_size: of the spatial attention's convolution, odd.

    Shapes:
        ``[T, N, C, H, W]`` -> the same, at least 0.

    Raises:
        ValueError: an unknown attention, or a number out of its range; on the call, a sequence of another T.
    """

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
            raise ValueError(f"The attention {attention!r} does not exist; choose one of {', '.join(ATTENTIONS)}.")
        self.attention = attention
        self.temporal = self.channel = self.spatial = None
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
    """:class:`MembraneAttention` of a name and further arguments, or for "none" the identity.

    Raises:
        ValueError: see :class:`MembraneAttention`.
    """
    return nn.Identity() if attention == "none" else MembraneAttention(attention, *arguments)
