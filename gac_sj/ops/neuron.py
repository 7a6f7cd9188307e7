"""The numbers of a LIF neuron, and what ``neuron.cuh`` gets of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Derivative", "LIFDynamics", "neuron_macros", "neuron_numbers"]


class LIFDynamics(NamedTuple):
    """The dynamics of a LIF neuron, without its surrogate function.

    With decay ``b = 1 - 1 / tau`` and resting potential ``r = v_reset`` (0 where that is None), at every step

    - charge: ``h = r + b (v - r) + x``, or with ``decay_input`` ``h = v + (x - (v - r)) / tau``
    - fire: ``s = [h >= v_threshold]``, with the surrogate's derivative in the backward pass
    - reset: ``v = (1 - s) h + s v_reset`` (hard), or where ``v_reset`` is None ``v = h - s v_threshold`` (soft)

    Source: SpikingJelly's ``LIFNode``; the order of operations is ours. It has methods and no properties, because
    torch.compile cannot trace properties of named tuples before PyTorch 2.12.

    Args:
        tau: membrane time constant in steps, above 1.
        decay_input: whether the input is divided by ``tau`` as well.
        v_threshold: threshold of the membrane potential.
        v_reset: potential after a hard reset; None for the soft reset.
        detach_reset: whether the backward pass ignores the spike in the reset.
    """

    tau: float
    decay_input: bool
    v_threshold: float
    v_reset: float | None
    detach_reset: bool

    def rest(self) -> float:
        """The resting potential."""
        return 0.0 if self.v_reset is None else self.v_reset

    def decay(self) -> float:
        """The part of the membrane potential that is left after one step."""
        return 1.0 - 1.0 / self.tau


class Derivative(NamedTuple):
    """What kernels need to know about a surrogate function.

    Args:
        strict: whether the neuron fires above the threshold only, not at it too.
        expression: the derivative, a CUDA C expression of ``x`` (the potential minus the threshold) and ``a``, ``b``,
            ``c``.
        numbers: ``a``, ``b`` and ``c``, or the first ones of them.
    """

    strict: bool
    expression: str
    numbers: Sequence[float]


def neuron_macros(dynamics: LIFDynamics, derivative: Derivative) -> tuple[tuple[str, str | int], ...]:
    """What ``neuron.cuh`` needs at compile time: names and values of macros.

    Args:
        dynamics: of the neuron.
        derivative: of its surrogate function.
    """
    return (
        ("DECAY_INPUT", int(dynamics.decay_input)),
        ("SOFT_RESET", int(dynamics.v_reset is None)),
        ("DETACH_RESET", int(dynamics.detach_reset)),
        ("STRICT", int(derivative.strict)),
        ("DERIVATIVE", derivative.expression),
    )


def neuron_numbers(dynamics: LIFDynamics, derivative: Derivative) -> tuple[float, ...]:
    """What ``neuron.cuh`` needs at run time: the members of its ``Neuron``, tau to c.

    Args:
        dynamics: of the neuron.
        derivative: of its surrogate function.
    """
    numbers = (*derivative.numbers, 0.0, 0.0, 0.0)[:3]
    return dynamics.tau, dynamics.decay(), dynamics.v_threshold, dynamics.rest(), *numbers
