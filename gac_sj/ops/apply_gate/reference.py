"""The definition of a gated sequence, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["apply_gate"]


def apply_gate(
    sequence: Tensor,
    temporal: Tensor | None,
    spatial_channel: Tensor | None,
    gain: float,
    gate: Callable[[Tensor | None, Tensor | None, float], Tensor],
) -> Tensor:
    """``sequence * gate(temporal, spatial_channel, gain)`` (GAC, main figure).

    Args:
        sequence: ``[T, N, C, H, W]``, or a shape that broadcasts to it.
        temporal: temporal attention ``[T, N, 1, 1, 1]`` or ``[T, 1, C, 1, 1]``, or None.
        spatial_channel: spatial-channel attention ``[N, C, H, W]`` or ``[T, N, C, H, W]``, or None.
        gain: the largest value of the gate.
        gate: the definition of the gate, :func:`gac_sj.nn.functional.gate`.

    Returns:
        ``[T, N, C, H, W]``.
    """
    return sequence * gate(temporal, spatial_channel, gain)
