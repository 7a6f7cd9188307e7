"""The definition of BatchNorm with the statistics of the batch and a sum behind it, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["norm_add"]


def norm_add(
    x_seq: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor, eps: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``BatchNorm(x_seq) + residual``, with the statistics of the batch over steps, images and pixels.

    Args:
        x_seq: input ``[T, N, C, H, W]``.
        weight: scale of each channel ``[C]``; None: 1.
        bias: shift of each channel ``[C]``; None: 0.
        residual: of the shape of ``x_seq``.
        eps: added to variances.

    Returns:
        The sum in the dtype of ``x_seq``, and the mean and the biased variance of each channel.
    """
    frames = x_seq.flatten(0, 1)
    y = F.batch_norm(frames, None, None, weight, bias, training=True, eps=eps).unflatten(0, x_seq.shape[:2])
    var, mean = torch.var_mean(frames.detach().double(), (0, 2, 3), correction=0)
    return y + residual, (mean, var)
