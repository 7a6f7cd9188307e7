"""The stems of the published networks."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.encoders.stem import conv_bn

__all__ = ["build_stem"]

#: Their names, and the ratio of the image's side to that of their output.
REDUCTION = {"conv3": 1, "conv7": 2, "three": 2}


def build_stem(name: str, in_channels: int, channels: int) -> nn.Sequential:
    """Build a stem: convolutions and one BatchNorm.

    Args:
        name: "conv3" (3x3), "conv7" (7x7, stride 2) or "three" (three 3x3 with bias, the first with stride 2).
        in_channels: channels of the images.
        channels: channels of the output.

    Raises:
        UsageError: another name.
    """
    if name not in REDUCTION:
        raise UsageError(f"must be a known stem, got {name!r}", argument="stem", options=REDUCTION)
    if name == "conv3":
        return conv_bn(in_channels, channels)
    if name == "conv7":
        return conv_bn(in_channels, channels, kernel_size=7, stride=2)
    widths = [in_channels, channels, channels, channels]
    convs = [nn.Conv2d(i, o, 3, 1 if at else 2, 1) for at, (i, o) in enumerate(pairwise(widths))]
    return nn.Sequential(*convs, nn.BatchNorm2d(channels))
