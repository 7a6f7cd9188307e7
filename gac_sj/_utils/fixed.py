"""Attributes that are fixed at construction, because layers were built for them."""

from __future__ import annotations

from typing import Any

from gac_sj._utils.errors import UsageError

__all__ = ["fixed"]


def fixed(name: str) -> Any:
    """A class attribute that instances set once, at construction; later only to an equal value.

    Args:
        name: of the attribute.

    Raises:
        UsageError: on the assignment of another value.
    """

    def get(self: Any) -> Any:
        return self.__dict__[name]

    def set_once(self: Any, value: Any) -> None:
        before = self.__dict__.setdefault(name, value)
        if before != value:
            cls = type(self).__name__
            raise UsageError(
                f"is fixed at {before!r} when {cls} is built, got {value!r}", f"build a new {cls}", argument=name
            )

    return property(get, set_once)
