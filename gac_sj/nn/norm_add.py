"""BatchNorm and the sum behind it in one pass, where nobody could see a difference but the time (ours)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gac_sj.nn.plain_norm import accepts, is_plain_norm, is_seen_by_nobody, track
from gac_sj.ops.channels import pays
from gac_sj.ops.dispatch import choose
from gac_sj.ops.norm_add import norm_add

__all__ = ["norm_then_add"]


def norm_then_add(norm: Any, x_seq: Tensor, residual: Tensor) -> Tensor:
    """``norm(x_seq) + residual``, by one operator (:mod:`gac_sj.ops.norm_add`) where that does the same.

    In training on a CPU, where it has measured faster; otherwise, and wherever
    :func:`gac_sj.nn.norm_lif.norm_then_fire` would leave its operator out, the module is called.

    Args:
        norm: a BatchNorm.
        x_seq: ``[T, N, C, H, W]``.
        residual: of the shape of ``x_seq``.
    """
    if not (is_seen_by_nobody() and is_plain_norm(norm) and _fits(norm, x_seq, residual)):
        return norm(x_seq) + residual
    y, (mean, var) = norm_add(x_seq, norm.weight, norm.bias, residual, norm.eps)
    track(norm, mean, var, x_seq.numel() // len(mean))
    return y


def _fits(norm: Any, x_seq: Tensor, residual: Tensor) -> bool:
    """Whether the module is in training and accepts a sequence, and a kernel for it pays."""
    if not (norm.training and accepts(norm, x_seq) and x_seq.device.type == "cpu" and pays(x_seq)):
        return False
    if any(tensor is not None and tensor.dtype != torch.float32 for tensor in (norm.weight, norm.running_mean)):
        return False
    if type(residual) is not Tensor or (residual.dtype, residual.shape) != (x_seq.dtype, x_seq.shape):
        return False
    return choose("norm_add", x_seq, None) == "cpp"
