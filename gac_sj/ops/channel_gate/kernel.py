"""Launches of ``kernel.cu``, registered with PyTorch as ``torch.ops.gac_sj.channel_gate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gac_sj.ops.channels import Layout, dense
from gac_sj.ops.launching import canonical, no_second_derivative
from gac_sj.ops.neuron import Derivative, LIFDynamics, neuron_macros, neuron_numbers
from gac_sj.ops.source import Macros

__all__ = ["channel_gate_kernel"]


@torch.library.custom_op("gac_sj::channel_gate", mutates_args=(), device_types=("cpu", "cuda"))
def channel_gate_kernel(
    z: Tensor,
    temporal: Tensor,
    spatial_channel: Tensor,
    gain: float,
    before: bool,
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
        temporal: temporal attention ``[T, C]``, float32.
        spatial_channel: spatial-channel attention of the shape and dtype of ``z``.
        gain: the largest value of the gate.
        before: whether the gate weighs the current, not the spikes.
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
    current = _dense(z)
    output = _result(current, temporal)
    layout = Layout.of(output)
    layout.launch(output, held=2)(
        "channel_gate",
        "channel_gate_forward",
        _macros(layout, z, before, dynamics, surrogate),
        (
            current,
            temporal.contiguous(),
            canonical(_dense(spatial_channel), current),
            output,
            output[0].numel(),
            layout.segment,
            layout.channels,
            gain,
            *neuron_numbers(dynamics, surrogate),
        ),
    )
    return output


@channel_gate_kernel.register_fake
def _(z: Tensor, temporal: Tensor, *settings: Any) -> Tensor:
    return _result(_dense(z), temporal)


@torch.library.custom_op("gac_sj::channel_gate_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _channel_gate_backward(
    grad: Tensor,
    z: Tensor,
    temporal: Tensor,
    spatial_channel: Tensor,
    gain: float,
    before: bool,
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
    current = _dense(z)
    like = _result(current, temporal, "meta")
    grad, layout, neurons = canonical(grad, like), Layout.of(like), like[0].numel()
    grad_z, grad_spatial = torch.empty_like(current), torch.empty_like(current)
    sums = layout.sums(neurons, len(like), current)
    layout.launch(grad, held=3)(
        "channel_gate",
        "channel_gate_backward",
        _macros(layout, z, before, dynamics, surrogate),
        (
            grad,
            current,
            temporal.contiguous(),
            canonical(_dense(spatial_channel), current),
            grad_z,
            sums,
            grad_spatial,
            sums[0].numel(),
            neurons,
            layout.segment,
            layout.channels,
            gain,
            *neuron_numbers(dynamics, surrogate),
        ),
    )
    grad_temporal = layout.by_channel(sums).sum(1).float()
    return grad_z.view(z.shape), grad_temporal, grad_spatial.view(z.shape)


@_channel_gate_backward.register_fake
def _(
    grad: Tensor, z: Tensor, temporal: Tensor, spatial_channel: Tensor, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    current = _dense(z)
    return (
        torch.empty_like(current).view(z.shape),
        torch.empty_like(temporal).contiguous(),
        torch.empty_like(current).view(z.shape),
    )


def _macros(layout: Layout, z: Tensor, before: bool, dynamics: LIFDynamics, surrogate: Derivative) -> Macros:
    """The same forward and backward, so that on a CPU one library holds both."""
    return *layout.macros, ("STATIC", int(z.dim() == 4)), ("BEFORE", int(before)), *neuron_macros(dynamics, surrogate)


def _dense(x: Tensor) -> Tensor:
    """As a dense sequence; a static image is a sequence of one step."""
    return dense(x if x.dim() == 5 else x.unsqueeze(0))


def _result(current: Tensor, temporal: Tensor, device: str | None = None) -> Tensor:
    """``[T, N, C, H, W]``, one step after the other in memory, each in the memory format of the current's steps."""
    step = current[0]
    return torch.empty_strided(
        (len(temporal), *step.shape),
        (step.numel(), *step.stride()),
        dtype=current.dtype,
        device=device or current.device,
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.settings = *inputs[:3], inputs[3:]
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    return *_channel_gate_backward(grad, *ctx.saved_tensors, *ctx.settings), *[None] * len(ctx.settings)


channel_gate_kernel.register_autograd(_backward, setup_context=_save)
_channel_gate_backward.register_autograd(no_second_derivative)
