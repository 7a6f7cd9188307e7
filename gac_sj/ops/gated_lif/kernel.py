"""Launches of ``kernel.cu``, registered with PyTorch as ``torch.ops.gac_sj.gated_lif``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gac_sj.ops.gated_lif.closed_form import first_currents
from gac_sj.ops.launching import Launch, canonical, neuron_numbers, no_second_derivative
from gac_sj.ops.source import neuron_macros

__all__ = ["gated_lif_kernel"]

# Threads that share an image: enough to fill a GPU, few enough for their sums to be small beside the tensors.
_MOST = 4096
# Steps whose first currents fit into the kernel's arguments.
_FIRST = 8


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
    numbers: list[float],
) -> Tensor:
    """Fused :func:`gac_sj.ops.gated_lif.reference.gated_lif`.

    Args:
        z, spatial_channel: ``[N, C, H, W]`` or ``[T, N, C, H, W]``, of one type: float32, float16 or bfloat16.
        temporal: ``[T, N]`` float32.
        derivative, numbers, strict: of the surrogate function (:mod:`gac_sj.ops.surrogates`).
        others: as in the definition.

    Returns:
        ``[T, N, C, H, W]`` of the type of ``z``.
    """
    gated = _empty_result(z, temporal)
    z, spatial_channel = _as_steps(gated, z), _as_steps(gated, spatial_channel)
    images, size = gated.shape[1], gated[0, 0].numel() if gated.shape[1] else 0
    shape = images, size, gain
    macros = ("STATIC", int(z.dim() == 4)), *neuron_macros(decay_input, v_reset, detach_reset, strict, derivative)
    first = ()
    if z.dim() == 4 and not decay_input and v_reset == 0.0 and v_threshold > 0.0 and len(gated) <= _FIRST:
        macros = *macros, ("CLOSED_FORM", "")
        first = (*first_currents(len(gated), tau, v_threshold, strict), *[0.0] * _FIRST)[:_FIRST]
    neuron = neuron_numbers(tau, v_threshold, v_reset, numbers)
    arguments = z, temporal.contiguous(), spatial_channel, gated, *shape, *neuron, *first
    Launch(gated, size, images)("gated_lif", "gated_lif_forward", macros, arguments)
    return gated


@gated_lif_kernel.register_fake
def _(z, temporal, *settings):
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
    numbers: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``z``, ``temporal`` and ``spatial_channel``."""
    like = _empty_result(z, temporal, "meta")
    grad, z, spatial_channel = canonical(grad, like), _as_steps(like, z), _as_steps(like, spatial_channel)
    grad_z, grad_spatial = torch.empty_like(z), torch.empty_like(z)
    images, size = like.shape[1], like[0, 0].numel() if like.shape[1] else 0
    shape = images, size, gain
    inputs = z, temporal.contiguous(), spatial_channel
    launch = Launch(grad, size, images, _MOST, held=2)
    sums = temporal.new_zeros(launch.threads, images, len(temporal))
    launch(
        "gated_lif",
        "gated_lif_backward",
        (("STATIC", int(z.dim() == 4)), *neuron_macros(decay_input, v_reset, detach_reset, strict, derivative)),
        (grad, *inputs, grad_z, sums, grad_spatial, *shape, *neuron_numbers(tau, v_threshold, v_reset, numbers)),
    )
    return grad_z, sums.sum(0).t().contiguous(), grad_spatial


@_gated_lif_backward.register_fake
def _(grad, z, temporal, spatial_channel, *settings):
    laid_out = _as_steps(_empty_result(z, temporal, "meta"), z)
    return torch.empty_like(laid_out), torch.empty_like(temporal).contiguous(), torch.empty_like(laid_out)


def _empty_result(z: Tensor, temporal: Tensor, device: str | None = None) -> Tensor:
    """``[T, N, C, H, W]``, images behind each other, channels in the memory format of ``z``."""
    image = torch.empty_like(z[(0,) * (z.dim() - 3)] if z.numel() else z.new_empty(z.shape[-3:]), device="meta")
    shape = (len(temporal), *z.shape[-4:])
    strides = (shape[1] * image.numel(), image.numel(), *image.stride())
    return torch.empty_strided(shape, strides, dtype=z.dtype, device=device or z.device)


def _as_steps(gated: Tensor, x: Tensor) -> Tensor:
    """``x`` laid out as the result, or as one step of it."""
    return canonical(x, gated if x.dim() == 5 else gated[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.settings = *inputs[:3], inputs[3:]
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    return *_gated_lif_backward(grad, *ctx.saved_tensors, *ctx.settings), *[None] * len(ctx.settings)


gated_lif_kernel.register_autograd(_backward, setup_context=_save)
_gated_lif_backward.register_autograd(no_second_derivative)
