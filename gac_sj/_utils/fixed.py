"""Attributes that are fixed at construction, because layers were built for them."""

from __future__ import annotations

from typing import Any

from gac_sj._utils.errors import UsageError

__all__ = ["fixed"]


def fixed() -> Any:
    """A class attribute that instances set once, at construction; later only to an equal value.

    Raises:
        UsageError: on the assignment of another value.
    """
    return _Fixed()


class _Fixed:
    """A descriptor without ``__get__``, so that reading finds the instance's own value, also under torch.compile."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, instance: Any, value: Any) -> None:
        before = instance.__dict__.setdefault(self.name, value)
        if before != value:
            cls = type(instance).__name__
            raise UsageError(
                f"is fixed at {before!r} when {cls} is built, got {value!r}", f"build a new {cls}", argument=self.name
            )
