"""Launches of ``kernel.cu``: the statistics of a batch, and BatchNorm with a sum as a function of autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gac_sj.ops.channels import Layout, dense
from gac_sj.ops.launching import canonical

__all__ = ["NormAdd", "batch_statistics", "correct", "line"]


def batch_statistics(x_seq: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, float64 ``[C]``, in one pass over memory.

    The kernel sums the distances of short pieces from their own middles, and their squares; the pieces are combined in
    float64 (Chan, Golub and LeVeque 1983), which is stable for any mean.

    Args:
        x_seq: ``[T, N, C, H, W]``, float32, float16 or bfloat16, not empty.
    """
    x_seq = dense(x_seq.detach())
    layout, size = Layout.of(x_seq), x_seq.numel()
    parts = layout.sums(size, 4, x_seq)
    _launch(layout, x_seq, "norm_moments", x_seq, *parts)
    counts, middles, distances, squares = layout.by_channel(parts)
    n = size // layout.channels
    mean = (counts * middles + distances).sum(0) / n
    middles = middles - mean
    return mean, (squares + middles * (2.0 * distances + counts * middles)).sum(0) / n


def line(weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse_std: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel ``[C]``, in torch's order of operations.

    Args:
        weight: of BatchNorm; None: 1.
        bias: of BatchNorm; None: 0.
        mean: of each channel.
        inverse_std: of each channel.
    """
    scale = inverse_std if weight is None else inverse_std * weight
    return scale, -mean * scale if bias is None else bias - mean * scale


def correct(
    layout: Layout,
    grad: Tensor,
    grad_x: Tensor,
    x_seq: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    scale: Tensor,
    grad_bias: Tensor,
    grad_weight: Tensor,
) -> None:
    """Write the gradient of BatchNorm's input.

    Args:
        layout: of the tensors.
        grad: of the normalised value.
        grad_x: memory for the result, which may be ``grad``.
        x_seq: the input.
        mean: of each channel.
        inverse_std: of each channel.
        scale: of each channel, see :func:`line`.
        grad_bias: the sum of ``grad``, float64.
        grad_weight: the sum of its products with the standardised input, float64.
    """
    n = x_seq.numel() // layout.channels
    constant, slope = (grad_bias / n).float(), (grad_weight * inverse_std / n).float()
    _launch(layout, x_seq, "norm_correct", grad, grad_x, x_seq, mean, scale, constant, slope)


def _launch(layout: Layout, x_seq: Tensor, kernel: str, *tensors: Tensor) -> None:
    arguments: tuple[Tensor | int, ...] = (*tensors, x_seq.numel(), layout.segment, layout.channels)
    layout.launch(x_seq)("norm_add", kernel, layout.macros, arguments)


class NormAdd(torch.autograd.Function):
    """BatchNorm of ``[T, N, C, H, W]`` with the statistics of the batch, plus another sequence.

    :func:`gac_sj.nn.norm_add.norm_then_add` leaves compiled code alone, so this need not be an operator of
    ``torch.library``, which costs more time in a call.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_seq: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
    ) -> Tensor:
        layout, y = Layout.of(x_seq), torch.empty_like(x_seq)
        other = canonical(residual, x_seq)
        _launch(layout, x_seq, "norm_add_forward", x_seq, *line(weight, bias, mean, inverse_std), other, y)
        ctx.save_for_backward(x_seq, weight, bias, mean, inverse_std)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_seq, weight, bias, mean, inverse_std = ctx.saved_tensors
        layout, grad_x = Layout.of(x_seq), torch.empty_like(x_seq)
        own = canonical(grad, x_seq)
        parts = layout.sums(x_seq.numel(), 2, x_seq)
        _launch(layout, x_seq, "norm_add_sums", own, x_seq, mean, *parts)
        grad_bias, products = layout.by_channel(parts).sum(1)
        grad_weight = products * inverse_std
        scale, _ = line(weight, bias, mean, inverse_std)
        correct(layout, own, grad_x, x_seq, mean, inverse_std, scale, grad_bias, grad_weight)
        others = grad_weight.float(), grad_bias.float(), grad
        return (
            grad_x,
            *(each if needed else None for each, needed in zip(others, ctx.needs_input_grad[1:4])),
            None,
            None,
        )
