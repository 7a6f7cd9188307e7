"""The definition of gated spikes in Gated Attention Coding, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gac_sj.ops.lif import reference
from gac_sj.ops.neuron import LIFDynamics

__all__ = ["gated_lif"]


def gated_lif(
    z: Tensor,
    temporal: Tensor,
    spatial_channel: Tensor,
    gain: float,
    dynamics: LIFDynamics,
    surrogate: Callable[[Tensor], Tensor],
    gate: Callable[[Tensor, Tensor, float], Tensor],
) -> Tensor:
    """Spikes of a LIF neuron from rest times the gate: ``LIF(z) * gate(temporal, spatial_channel, gain)`` (GAC).

    Args:
        z: input current ``[N, C, H, W]``, the same at every step, or ``[T, N, C, H, W]``.
        temporal: temporal attention ``[T, N, 1, 1, 1]``.
        spatial_channel: spatial-channel attention, of the shape of ``z``.
        gain: the largest value of the gate.
        dynamics: of the neuron.
        surrogate: its surrogate function.
        gate: the definition of the gate, :func:`gac_sj.nn.functional.gate`.

    Returns:
        ``[T, N, C, H, W]``: 0, or where the neuron fires a value in (0, gain).
    """
    x_seq = z if z.dim() == 5 else z.expand(len(temporal), *z.shape)
    spikes, _, _ = reference.lif(x_seq, dynamics, surrogate)
    return spikes * gate(temporal, spatial_channel, gain)
