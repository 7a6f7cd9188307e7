"""Stochastic depth (arXiv 1603.09382): in training, whole branches are left out of some samples."""

from __future__ import annotations

from timm import layers
from torch import Tensor

from gac_sj._utils.validation import rate

__all__ = ["DropPath", "drop_path_rates"]


class DropPath(layers.DropPath):
    """timm's ``DropPath`` on a sequence: one mask for each sample, the same at all steps.

    Args:
        drop_prob: probability with which a sample loses the branch; the others are divided by ``1 - drop_prob``.
        scale_by_keep: whether they are divided.

    Shapes:
        ``[T, N, ...]`` -> the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1) if self.training else x


def drop_path_rates(drop_path_rate: float, depth: int) -> list[float]:
    """The rate of each block: linear from 0 at the first to ``drop_path_rate`` at the last, as in timm.

    Args:
        drop_path_rate: of the last block.
        depth: number of blocks.

    Raises:
        UsageError: the rate is not in [0, 1).
    """
    rate("drop_path_rate", drop_path_rate)
    return [drop_path_rate * block / max(depth - 1, 1) for block in range(depth)]
