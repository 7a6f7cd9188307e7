"""Launches of ``kernel.cu``, registered with PyTorch as ``torch.ops.gac_sj.lif``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gac_sj.ops.launching import Launch, canonical, empty_sequence, no_second_derivative, readable_steps
from gac_sj.ops.neuron import Derivative, LIFDynamics, neuron_macros, neuron_numbers

__all__ = ["lif_backward", "lif_kernel"]


@torch.library.custom_op("gac_sj::lif", mutates_args=(), device_types=("cpu", "cuda"))
def lif_kernel(
    x_seq: Tensor,
    v: Tensor | None,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    strict: bool,
    derivative: str,
    numbers: Sequence[float],
    store_v_seq: bool,
    as_bytes: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fused :func:`gac_sj.ops.lif.reference.lif`, with flat arguments, as ``torch.library`` needs them.

    Args:
        x_seq: input current ``[T, N, *]``, float32, float16 or bfloat16.
        v: membrane potential before the first step ``[N, *]``, float32; None: the resting potential.
        tau: see :class:`LIFDynamics`.
        decay_input: see :class:`LIFDynamics`.
        v_threshold: see :class:`LIFDynamics`.
        v_reset: see :class:`LIFDynamics`.
        detach_reset: see :class:`LIFDynamics`.
        strict: see :class:`Derivative`.
        derivative: the expression, see :class:`Derivative`.
        numbers: see :class:`Derivative`.
        store_v_seq: whether to return the potential of every step.
        as_bytes: whether spikes are uint8, which have no gradient, and not in the dtype of ``x_seq``.

    Returns:
        Spikes, the last potential, and the potentials of all steps (empty without ``store_v_seq``).
    """
    dynamics = LIFDynamics(tau, decay_input, v_threshold, v_reset, detach_reset)
    surrogate = Derivative(strict, derivative, numbers)
    spikes = empty_sequence(x_seq, torch.uint8 if as_bytes else None)
    x_seq, step = readable_steps(x_seq, spikes)
    v_last = torch.empty_like(spikes[0], dtype=torch.float32)
    v = None if v is None else canonical(v, v_last)
    v_seq = empty_sequence(x_seq, torch.float32) if store_v_seq else None
    Launch(x_seq, v_last.numel())(
        "lif",
        "lif_forward",
        (*neuron_macros(dynamics, surrogate), *([("SPIKE", "unsigned char")] if as_bytes else [])),
        (x_seq, v, spikes, v_last, v_seq, v_last.numel(), step, *neuron_numbers(dynamics, surrogate)),
    )
    return spikes, v_last, v_last.new_empty(0) if v_seq is None else v_seq


@lif_kernel.register_fake
def _(x_seq: Tensor, v: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, store_v_seq, as_bytes = settings
    spikes = empty_sequence(x_seq, torch.uint8 if as_bytes else None)
    v_last = torch.empty_like(spikes[0], dtype=torch.float32)
    return spikes, v_last, empty_sequence(x_seq, torch.float32) if store_v_seq else v_last.new_empty(0)


@torch.library.custom_op("gac_sj::lif_backward", mutates_args=(), device_types=("cpu", "cuda"))
def lif_backward(
    grad_spikes: Tensor | None,
    grad_v: Tensor | None,
    grad_v_seq: Tensor | None,
    x_seq: Tensor,
    v: Tensor | None,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    strict: bool,
    derivative: str,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the first potential (empty if that was not given)."""
    dynamics = LIFDynamics(tau, decay_input, v_threshold, v_reset, detach_reset)
    surrogate = Derivative(strict, derivative, numbers)
    grad_x = empty_sequence(x_seq)
    x_seq, step = readable_steps(x_seq, grad_x)
    like = torch.empty_like(grad_x[0], dtype=torch.float32, device="meta")
    like_seq = torch.empty_like(grad_x, dtype=torch.float32, device="meta")
    first = None if v is None else torch.empty_like(like, device=x_seq.device)
    Launch(grad_x, like.numel())(
        "lif",
        "lif_backward",
        neuron_macros(dynamics, surrogate),
        (
            canonical(grad_x.new_zeros(()) if grad_spikes is None else grad_spikes, grad_x),
            None if grad_v is None else canonical(grad_v, like),
            None if grad_v_seq is None else canonical(grad_v_seq, like_seq),
            x_seq,
            None if v is None else canonical(v, like),
            grad_x,
            first,
            like.numel(),
            step,
            *neuron_numbers(dynamics, surrogate),
        ),
    )
    return grad_x, grad_x.new_empty(0, dtype=torch.float32) if first is None else first


@lif_backward.register_fake
def _(
    grad_spikes: Tensor | None,
    grad_v: Tensor | None,
    grad_v_seq: Tensor | None,
    x_seq: Tensor,
    v: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    grad_x = empty_sequence(x_seq)
    first = torch.empty_like(grad_x[0], dtype=torch.float32)
    return grad_x, first.new_empty(0) if v is None else first


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x_seq, v, *ctx.settings, ctx.stores, _ = inputs
    ctx.save_for_backward(x_seq, v)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None, grad_v_seq: Tensor | None) -> tuple:
    x_seq, v = ctx.saved_tensors
    grad_v_seq = grad_v_seq if ctx.stores else None
    grad_x, first = lif_backward(grad_spikes, grad_v, grad_v_seq, x_seq, v, *ctx.settings)
    return grad_x, None if v is None else first, *[None] * (len(ctx.settings) + 2)


lif_kernel.register_autograd(_backward, setup_context=_save)
lif_backward.register_autograd(no_second_derivative)
