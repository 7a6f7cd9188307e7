"""Launches of ``kernel.cu``, registered with PyTorch as ``torch.ops.gac_sj.norm_lif``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gac_sj.ops.channels import Layout, dense
from gac_sj.ops.launching import canonical, no_second_derivative
from gac_sj.ops.neuron import Derivative, LIFDynamics, neuron_macros, neuron_numbers
from gac_sj.ops.norm_add.kernel import correct, line
from gac_sj.ops.source import Macros

__all__ = ["norm_lif_kernel"]


def _macros(layout: Layout, of_batch: bool, dynamics: LIFDynamics, surrogate: Derivative) -> Macros:
    return *layout.macros, ("OF_BATCH", int(of_batch)), *neuron_macros(dynamics, surrogate)


@torch.library.custom_op("gac_sj::norm_lif", mutates_args=(), device_types=("cpu", "cuda"))
def norm_lif_kernel(
    x_seq: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    v: Tensor | None,
    mean: Tensor,
    inverse_std: Tensor,
    of_batch: bool,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    strict: bool,
    derivative: str,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Fused :func:`gac_sj.ops.norm_lif.reference.norm_lif`, with flat arguments, as ``torch.library`` needs them.

    Args:
        x_seq: input ``[T, N, C, H, W]``, float32, float16 or bfloat16.
        weight: scale of each channel, float32 ``[C]``; None: 1.
        bias: shift of each channel, float32 ``[C]``; None: 0.
        v: membrane potential before the first step ``[N, C, H, W]``, float32; None: the resting potential.
        mean: float32 ``[C]``; nothing flows back to it.
        inverse_std: float32 ``[C]``; nothing flows back to it.
        of_batch: whether mean and standard deviation are those of ``x_seq``; then its gradient flows through them.
        tau: see :class:`LIFDynamics`.
        decay_input: see :class:`LIFDynamics`.
        v_threshold: see :class:`LIFDynamics`.
        v_reset: see :class:`LIFDynamics`.
        detach_reset: see :class:`LIFDynamics`.
        strict: see :class:`Derivative`.
        derivative: the expression, see :class:`Derivative`.
        numbers: see :class:`Derivative`.

    Returns:
        Spikes and the last potential.
    """
    dynamics = LIFDynamics(tau, decay_input, v_threshold, v_reset, detach_reset)
    surrogate = Derivative(strict, derivative, numbers)
    x_seq = dense(x_seq)
    layout = Layout.of(x_seq)
    spikes = torch.empty_like(x_seq)
    v_last = torch.empty_like(x_seq[0], dtype=torch.float32)
    layout.launch(x_seq)(
        "norm_lif",
        "norm_lif_forward",
        _macros(layout, of_batch, dynamics, surrogate),
        (
            x_seq,
            *line(weight, bias, mean, inverse_std),
            None if v is None else canonical(v, v_last),
            spikes,
            v_last,
            v_last.numel(),
            layout.segment,
            layout.channels,
            *neuron_numbers(dynamics, surrogate),
        ),
    )
    return spikes, v_last


@norm_lif_kernel.register_fake
def _(x_seq: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    spikes = torch.empty_like(dense(x_seq))
    return spikes, torch.empty_like(spikes[0], dtype=torch.float32)


@torch.library.custom_op("gac_sj::norm_lif_backward", mutates_args=(), device_types=("cpu", "cuda"))
def norm_lif_backward(
    grad_spikes: Tensor | None,
    grad_v: Tensor | None,
    x_seq: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    v: Tensor | None,
    mean: Tensor,
    inverse_std: Tensor,
    of_batch: bool,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    strict: bool,
    derivative: str,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the input, the weight, the bias and the first potential (empty if that was not given)."""
    dynamics = LIFDynamics(tau, decay_input, v_threshold, v_reset, detach_reset)
    surrogate = Derivative(strict, derivative, numbers)
    x_seq = dense(x_seq)
    layout = Layout.of(x_seq)
    macros = _macros(layout, of_batch, dynamics, surrogate)
    like = torch.empty_like(x_seq[0], dtype=torch.float32, device="meta")
    grad_x = torch.empty_like(x_seq)
    first = None if v is None else torch.empty_like(like, device=x_seq.device)
    parts = layout.sums(like.numel(), 2, x_seq)
    scale, shift = line(weight, bias, mean, inverse_std)
    layout.launch(x_seq, held=2)(
        "norm_lif",
        "norm_lif_backward",
        macros,
        (
            None if grad_spikes is None else canonical(grad_spikes, grad_x),
            None if grad_v is None else canonical(grad_v, like),
            *(x_seq, mean, scale, shift),
            None if v is None else canonical(v, like),
            *(grad_x, first, *parts, like.numel(), layout.segment, layout.channels),
            *neuron_numbers(dynamics, surrogate),
        ),
    )
    grad_bias, products = layout.by_channel(parts).sum(1)
    grad_weight = products * inverse_std
    if of_batch:
        correct(layout, grad_x, grad_x, x_seq, mean, inverse_std, scale, grad_bias, grad_weight)
    empty = mean.new_empty(0)
    return grad_x, grad_weight.float(), grad_bias.float(), empty if first is None else first


@norm_lif_backward.register_fake
def _(
    grad_spikes: Tensor | None,
    grad_v: Tensor | None,
    x_seq: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    v: Tensor | None,
    mean: Tensor,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(dense(x_seq))
    first = mean.new_empty(0) if v is None else torch.empty_like(grad_x[0], dtype=torch.float32)
    return grad_x, torch.empty_like(mean), torch.empty_like(mean), first


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x_seq, weight, bias, v, mean, inverse_std, *ctx.settings = inputs
    ctx.save_for_backward(x_seq, weight, bias, v, mean, inverse_std)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None) -> tuple:
    saved = ctx.saved_tensors  # once: checkpointing unpacks each tensor only once
    grad_x, *others = norm_lif_backward(grad_spikes, grad_v, *saved, *ctx.settings)
    _, *given, _, _ = saved
    found = [None if tensor is None else grad for tensor, grad in zip(given, others, strict=True)]
    return grad_x, *found, None, None, *[None] * len(ctx.settings)


norm_lif_kernel.register_autograd(_backward, setup_context=_save)
norm_lif_backward.register_autograd(no_second_derivative)
