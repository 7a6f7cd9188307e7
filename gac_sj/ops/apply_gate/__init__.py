"""A sequence times the gate: the definition, and the same with less memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gac_sj.ops.apply_gate import reference
from gac_sj.ops.apply_gate.recompute import ApplyGate
from gac_sj.ops.dispatch import is_transformed

__all__ = ["apply_gate"]


def apply_gate(
    sequence: Tensor,
    temporal: Tensor | None,
    spatial_channel: Tensor | None,
    gain: float = 1.0,
    *,
    gate: Callable[[Tensor | None, Tensor | None, float], Tensor],
) -> Tensor:
    """:func:`gac_sj.ops.apply_gate.reference.apply_gate` with one tensor of T steps in memory instead of four.

    Args:
        sequence: ``[T, N, C, H, W]``, or a shape that broadcasts to it.
        temporal: temporal attention ``[T, N, 1, 1, 1]`` or ``[T, 1, C, 1, 1]``, or None.
        spatial_channel: spatial-channel attention ``[N, C, H, W]`` or ``[T, N, C, H, W]``, or None.
        gain: the largest value of the gate.
        gate: the definition of the gate, :func:`gac_sj.nn.functional.gate`; the memory-saving path contains the same
            formula.

    Returns:
        ``[T, N, C, H, W]``.
    """
    # the gate of one part is small, so there is nothing to save; transforms need the definition
    if temporal is None or spatial_channel is None or is_transformed():
        return reference.apply_gate(sequence, temporal, spatial_channel, gain, gate)
    shape = (len(temporal), *spatial_channel.shape[-4:])
    return ApplyGate.apply(sequence.expand(shape), temporal, spatial_channel, gain, gate)
