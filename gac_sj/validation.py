"""Checks of the numbers that users give."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

__all__ = ["positive", "positives"]


def positive(name: str, value: int) -> int:
    """``value`` as an int.

    Raises:
        ValueError: it is no whole number of at least 1.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number; give at least 1.")
    return int(value)


def positives(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """``values`` as ints.

    Raises:
        ValueError: no list, an empty one, or a number that is no whole number of at least 1.
    """
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{name} is {values!r}; it needs one number or more, in a list; give at least 1 each.")
    return tuple(positive(name, value) for value in values)
