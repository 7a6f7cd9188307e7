"""The definition of spikes and gate in Gated Attention Coding, in plain PyTorch."""

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
    before: bool = False,
) -> Tensor:
    """Spikes of a LIF neuron from rest times the gate: ``LIF(z) * gate(temporal, spatial_channel, gain)`` (GAC).

    With the gate before the neuron they are ``LIF(z * gate(temporal, spatial_channel, gain))`` (ours).

    Args:
        z: input current ``[N, C, H, W]``, the same at every step, or ``[T, N, C, H, W]``.
        temporal: temporal attention ``[T, N, 1, 1, 1]`` or ``[T, 1, C, 1, 1]``.
        spatial_channel: spatial-channel attention, of the shape of ``z``.
        gain: the largest value of the gate.
        dynamics: of the neuron.
        surrogate: its surrogate function.
        gate: the definition of the gate, :func:`gac_sj.nn.functional.gate`.
        before: whether the gate weighs the current, not the spikes.

    Returns:
        ``[T, N, C, H, W]``: 0, or where the neuron fires a value in (0, gain), with the gate before the neuron 1.
    """
    x_seq = z if z.dim() == 5 else z.expand(len(temporal), *z.shape)
    opened = gate(temporal, spatial_channel, gain)
    spikes, _, _ = reference.lif(x_seq * opened if before else x_seq, dynamics, surrogate)
    return spikes if before else spikes * opened
