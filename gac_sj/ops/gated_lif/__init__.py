"""Spikes and gate of the encoder at once: the definition, and kernels that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gac_sj.ops import dispatch
from gac_sj.ops.channel_gate.kernel import channel_gate_kernel
from gac_sj.ops.gated_lif import reference
from gac_sj.ops.gated_lif.kernel import gated_lif_kernel
from gac_sj.ops.launching import require_one_device
from gac_sj.ops.neuron import LIFDynamics
from gac_sj.ops.source import BuildError
from gac_sj.ops.surrogates import cuda_derivative

__all__ = ["gated_lif"]


def gated_lif(
    z: Tensor,
    temporal: Tensor,
    spatial_channel: Tensor,
    gain: float,
    dynamics: LIFDynamics,
    surrogate: Callable[[Tensor], Tensor],
    *,
    gate: Callable[[Tensor, Tensor, float], Tensor],
    before: bool = False,
    path: str | None = None,
) -> Tensor:
    """:func:`gac_sj.ops.gated_lif.reference.gated_lif` on the fastest path (:mod:`gac_sj.ops.dispatch`).

    The kernels compute in float32 and differ from the definition by the rounding of sigmoid and of sums. They have no
    second derivative.

    Args:
        z: input current ``[N, C, H, W]``, the same at every step, or ``[T, N, C, H, W]``.
        temporal: temporal attention ``[T, N, 1, 1, 1]`` or ``[T, 1, C, 1, 1]``.
        spatial_channel: spatial-channel attention, of the shape of ``z``.
        gain: the largest value of the gate.
        dynamics: of the neuron.
        surrogate: its surrogate function.
        gate: the definition of the gate, :func:`gac_sj.nn.functional.gate`, for the path without kernels; the kernels
            contain the same formula.
        before: whether the gate weighs the current, not the spikes; kernels do that with ``[T, 1, C, 1, 1]``.
        path: "cupy", "cpp" or "torch"; None: that of ``GAC_SJ_OPS``, or the fastest one.

    Returns:
        ``[T, N, C, H, W]``: 0, or where the neuron fires a value in (0, gain), with the gate before the neuron 1.

    Raises:
        ValueError: the tensors are on two devices or of two lengths, or ``path`` or ``GAC_SJ_OPS`` requests a path that
            is not available.
    """
    require_one_device("gated_lif", z, temporal, spatial_channel)
    T = len(temporal)
    unsupported = dispatch.why_not_numbers(gain, *dynamics)
    attention = torch.promote_types(temporal.dtype, spatial_channel.dtype)
    if torch.promote_types(attention, z.dtype) != z.dtype:
        unsupported = "the attention has a wider dtype than the current"
    by_channel = temporal.shape[1:] == (1, z.shape[-3], 1, 1)
    if before and not by_channel:
        unsupported = "the gate before the neuron has a number for each image, not for each channel"
    choose = partial(dispatch.choose, "gated_lif", z, surrogate, path, T, unsupported)
    if (chosen := choose()) in dispatch.KERNELS:
        derivative, _ = cuda_derivative(surrogate)
        assert derivative is not None  # choose makes sure of it
        try:
            z, spatial_channel = _same_steps(z, spatial_channel, T)
            if by_channel:
                numbers = temporal.flatten(1).float()
                return channel_gate_kernel(z, numbers, spatial_channel, gain, before, *dynamics, *derivative)
            by_image = temporal.flatten(1).expand(T, z.shape[-4]).float()
            return gated_lif_kernel(z, by_image, spatial_channel, gain, *dynamics, *derivative)
        except BuildError as error:
            dispatch.remember_failure(chosen, derivative, error)
            choose()  # reports it, or raises for an explicit request
    return reference.gated_lif(z, temporal, spatial_channel, gain, dynamics, surrogate, gate, before)


def _same_steps(z: Tensor, spatial_channel: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Both of one shape and dtype: with the same steps, or without steps."""
    if z.dim() != spatial_channel.dim():  # only one of them changes over time
        z, spatial_channel = (x if x.dim() == 5 else x.expand(T, *x.shape) for x in (z, spatial_channel))
    if z.dim() == 5 and len(z) != T:
        raise ValueError(f"z must have as many steps as temporal ({T}), got {len(z)}.")
    return z, spatial_channel.expand(z.shape).to(z.dtype)
