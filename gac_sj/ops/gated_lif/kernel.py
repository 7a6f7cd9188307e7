"""Launches of ``kernel.cu``, registered with PyTorch as ``torch.ops.gac_sj.gated_lif``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gac_sj.ops.gated_lif.closed_form import first_currents, has_closed_form
from gac_sj.ops.launching import Launch, canonical, no_second_derivative
from gac_sj.ops.neuron import Derivative, LIFDynamics, neuron_macros, neuron_numbers
from gac_sj.ops.source import Macros

__all__ = ["gated_lif_kernel"]

# Maximum number of threads that share an image: enough to fill a GPU, and few enough to keep their sums small compared
# with the tensors.
_MAX_THREADS = 4096
# Maximum number of steps whose first currents fit into the kernel's arguments.
_MAX_FIRST = 8
_CLOSED_FORM = ("CLOSED_FORM", "")


@torch.library.custom_op("gac_sj::gated_lif", mutates_args=(), device_types=("cpu", "cuda"))
def gated_lif_kernel(
    z: Tensor,
    temporal: Tensor,
    spatial_channel: Tensor,
    gain: float,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    strict: bool,
    derivative: str,
    numbers: Sequence[float],
) -> Tensor:
    """Fused :func:`gac_sj.ops.gated_lif.reference.gated_lif`, with flat arguments, as ``torch.library`` needs them.

    Args:
        z: input current ``[N, C, H, W]`` or ``[T, N, C, H, W]``, float32, float16 or bfloat16.
        temporal: temporal attention ``[T, N]``, float32.
        spatial_channel: spatial-channel attention of the shape and dtype of ``z``.
        gain: the largest value of the gate.
        tau: see :class:`LIFDynamics`.
        decay_input: see :class:`LIFDynamics`.
        v_threshold: see :class:`LIFDynamics`.
        v_reset: see :class:`LIFDynamics`.
        detach_reset: see :class:`LIFDynamics`.
        strict: see :class:`Derivative`.
        derivative: the expression, see :class:`Derivative`.
        numbers: see :class:`Derivative`.

    Returns:
        ``[T, N, C, H, W]`` of the dtype of ``z``.
    """
    dynamics = LIFDynamics(tau, decay_input, v_threshold, v_reset, detach_reset)
    surrogate = Derivative(strict, derivative, numbers)
    gated = _empty_result(z, temporal)
    z, spatial_channel = _as_steps(gated, z), _as_steps(gated, spatial_channel)
    images, size = gated.shape[1], gated[0, 0].numel() if gated.shape[1] else 0
    macros = _macros(z, len(gated), dynamics, surrogate)
    first: tuple[float, ...] = ()
    if _CLOSED_FORM in macros:
        first = (*first_currents(len(gated), dynamics, strict), *[0.0] * _MAX_FIRST)[:_MAX_FIRST]
    tensors = z, temporal.contiguous(), spatial_channel, gated
    neuron = neuron_numbers(dynamics, surrogate)
    launch = Launch(gated, size, images)
    launch("gated_lif", "gated_lif_forward", macros, (*tensors, images, size, gain, *neuron, *first))
    return gated


@gated_lif_kernel.register_fake
def _(z: Tensor, temporal: Tensor, *settings: Any) -> Tensor:
    return _empty_result(z, temporal)


@torch.library.custom_op("gac_sj::gated_lif_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _gated_lif_backward(
    grad: Tensor,
    z: Tensor,
    temporal: Tensor,
    spatial_channel: Tensor,
    gain: float,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    strict: bool,
    derivative: str,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``z``, ``temporal`` and ``spatial_channel``."""
    dynamics = LIFDynamics(tau, decay_input, v_threshold, v_reset, detach_reset)
    surrogate = Derivative(strict, derivative, numbers)
    like = _empty_result(z, temporal, "meta")
    grad, z, spatial_channel = canonical(grad, like), _as_steps(like, z), _as_steps(like, spatial_channel)
    grad_z, grad_spatial = torch.empty_like(z), torch.empty_like(z)
    images, size = like.shape[1], like[0, 0].numel() if like.shape[1] else 0
    inputs = z, temporal.contiguous(), spatial_channel
    launch = Launch(grad, size, images, max_threads=_MAX_THREADS, held=2)
    sums = temporal.new_zeros(launch.threads, images, len(temporal))
    launch(
        "gated_lif",
        "gated_lif_backward",
        _macros(z, len(like), dynamics, surrogate),
        (grad, *inputs, grad_z, sums, grad_spatial, images, size, gain, *neuron_numbers(dynamics, surrogate)),
    )
    return grad_z, sums.sum(0).t().contiguous(), grad_spatial


@_gated_lif_backward.register_fake
def _(
    grad: Tensor, z: Tensor, temporal: Tensor, spatial_channel: Tensor, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    laid_out = _as_steps(_empty_result(z, temporal, "meta"), z)
    return torch.empty_like(laid_out), torch.empty_like(temporal).contiguous(), torch.empty_like(laid_out)


def _macros(z: Tensor, T: int, dynamics: LIFDynamics, surrogate: Derivative) -> Macros:
    """The same forward and backward, so that on a CPU one library holds both."""
    macros: Macros = ("STATIC", int(z.dim() == 4)), *neuron_macros(dynamics, surrogate)
    closed = z.dim() == 4 and has_closed_form(dynamics) and T <= _MAX_FIRST
    return (*macros, _CLOSED_FORM) if closed else macros


def _empty_result(z: Tensor, temporal: Tensor, device: str | None = None) -> Tensor:
    """``[T, N, C, H, W]``, one image after the other in memory, channels in the memory format of ``z``."""
    image = torch.empty_like(z[(0,) * (z.dim() - 3)] if z.numel() else z.new_empty(z.shape[-3:]), device="meta")
    shape = (len(temporal), *z.shape[-4:])
    strides = (shape[1] * image.numel(), image.numel(), *image.stride())
    return torch.empty_strided(shape, strides, dtype=z.dtype, device=device or z.device)


def _as_steps(gated: Tensor, x: Tensor) -> Tensor:
    """``x`` in the memory layout of the result, or of one step of it."""
    return canonical(x, gated if x.dim() == 5 else gated[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.settings = *inputs[:3], inputs[3:]
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    return *_gated_lif_backward(grad, *ctx.saved_tensors, *ctx.settings), *[None] * len(ctx.settings)


gated_lif_kernel.register_autograd(_backward, setup_context=_save)
_gated_lif_backward.register_autograd(no_second_derivative)
