"""Weights of a linear layer behind feature maps, for maps of another size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["resize_linear"]


def resize_linear(weight: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Resize weights as images, bilinearly, and scale them, so that maps with equal pixels keep their output (ours).

    Args:
        weight: ``[units, C * h * w]``.
        before: h and w; a weight that does not fit them is returned as it is.
        after: height and width of the new maps.

    Shapes:
        ``[units, C * height * width]``.
    """
    if before == after or weight.shape[1] % (before[0] * before[1]):
        return weight
    maps = F.interpolate(weight.unflatten(1, (-1, *before)), after, mode="bilinear")
    return maps.flatten(1) * (before[0] * before[1] / (after[0] * after[1]))
