"""Checks of the numbers that users pass."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

from gac_sj._utils.errors import UsageError

__all__ = ["positive", "positives", "rate"]


def positive(name: str, value: int) -> int:
    """``value`` as an int.

    Args:
        name: of the argument, for the message.
        value: to be checked.

    Raises:
        UsageError: it is not an integer of at least 1.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise UsageError(f"must be a positive integer, got {value!r}", argument=name)
    return int(value)


def positives(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """``values`` as ints.

    Args:
        name: of the argument, for the message.
        values: to be checked.

    Raises:
        UsageError: it is not a list or tuple, it is empty, or one of its items is not an integer of at least 1.
    """
    if not isinstance(values, list | tuple) or not values:
        raise UsageError(f"must be a list of positive integers, got {values!r}", argument=name)
    return tuple(positive(name, value) for value in values)


def rate(name: str, value: float) -> float:
    """``value``, a probability below 1.

    Args:
        name: of the argument, for the message.
        value: to be checked.

    Raises:
        UsageError: it is not a number of at least 0 and less than 1.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value < 1:
        raise UsageError(f"must be at least 0 and less than 1, got {value!r}", argument=name)
    return float(value)
