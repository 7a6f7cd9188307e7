"""The definition of the gate of Gated Attention Coding, and of the spikes that it weighs, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gac_sj.ops.lif.reference import lif

__all__ = ["gate", "gated_lif"]


def gate(temporal: Tensor | None, spatial_channel: Tensor | None, gain: float = 1.0) -> Tensor:
    """``gain * sigmoid(temporal * spatial_channel)`` (GAC, main figure; the gain is ours, 1 as published).

    Args:
        temporal: ``[T, N, 1, 1, 1]``, or None for the other part alone (ours, for ablations).
        spatial_channel: ``[N, C, H, W]`` or ``[T, N, C, H, W]``, or None for the other part alone.
        gain: the largest value that the gate can take.

    Returns:
        ``[T, N, C, H, W]``, strictly between 0 and ``gain`` (up to rounding); of one part alone its shape.
    """
    if temporal is None or spatial_channel is None:
        return gain * torch.sigmoid(spatial_channel if temporal is None else temporal)
    return gain * torch.sigmoid(temporal * spatial_channel)


def gated_lif(
    z: Tensor,
    temporal: Tensor,
    spatial_channel: Tensor,
    *,
    gain: float,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    surrogate: Callable[[Tensor], Tensor],
) -> Tensor:
    """Spikes of a LIF neuron from rest, weighed by the gate: ``LIF(z) * gate(temporal, spatial_channel)`` (GAC).

    Args:
        z: input current ``[N, C, H, W]``, the same at every step, or ``[T, N, C, H, W]``.
        temporal: ``[T, N, 1, 1, 1]``.
        spatial_channel: of the shape of ``z``.
        gain: see :func:`gate`.
        others: of the neuron (:func:`gac_sj.ops.lif.reference.lif`).

    Returns:
        ``[T, N, C, H, W]``, 0 or (where the neuron fires) in (0, gain).
    """
    spikes, _, _ = lif(
        z if z.dim() == 5 else z.expand(len(temporal), *z.shape),
        tau=tau,
        decay_input=decay_input,
        v_threshold=v_threshold,
        v_reset=v_reset,
        detach_reset=detach_reset,
        surrogate=surrogate,
    )
    return spikes * gate(temporal, spatial_channel, gain)
