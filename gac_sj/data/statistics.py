"""Size, mean and standard deviation of images as settings state them, and as they are measured on a training set."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gac_sj._utils.errors import UsageError

if TYPE_CHECKING:
    from gac_sj.data.datasets import DataSet

__all__ = ["AUTO", "SAMPLE_BYTES", "as_numbers", "as_size", "evenly", "measure", "numbers_text", "size_text"]

#: The value of ``mean`` and ``std`` that stands for measuring them.
AUTO = "auto"
#: Of a large data set, as many items as have this many bytes are measured and fingerprinted, evenly spaced.
SAMPLE_BYTES = 2**28


def size_text(value: Any) -> str | None:
    """The setting ``img_size`` in its one form: "64", or "64x96" (height x width).

    Args:
        value: a number, a list of two, or such a text; None stays.

    Raises:
        UsageError: it is something else, or a side is below 1.
    """
    if value is None:
        return None
    sides = value.split("x") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    texts = [str(side).strip() for side in sides]
    if not (len(texts) in (1, 2) and all(re.fullmatch(r"0*[1-9]\d{0,5}", text) for text in texts)):
        raise UsageError(
            f"must be a side in pixels, or HEIGHTxWIDTH, got {value!r}", "such as 64 or 64x96", argument="img_size"
        )
    height, width = (int(text) for text in (texts * 2)[:2])
    return str(height) if height == width else f"{height}x{width}"


def as_size(text: str) -> tuple[int, int]:
    """Height and width of the text of :func:`size_text`."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def numbers_text(name: str, value: Any) -> str | None:
    """The settings ``mean`` and ``std`` in their one form: "auto", or numbers with commas between them.

    Args:
        name: of the setting.
        value: a number, a list of numbers, or such a text; None stays.

    Raises:
        UsageError: it is something else, a number is not finite, or a standard deviation is not positive.
    """
    if value is None or value == AUTO:
        return value
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        numbers = [float(part) for part in parts if not isinstance(part, bool)]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != len(parts) or not numbers or not all(map(math.isfinite, numbers)):
        raise UsageError(
            f"must be one number for each channel, or {AUTO}, got {value!r}",
            "separate numbers by commas, such as 0.5,0.5,0.5",
            argument=name,
        )
    if name == "std" and min(numbers) <= 0:
        raise UsageError(f"must be positive, got {value!r}", argument=name)
    return ",".join(map(str, numbers))


def as_numbers(text: str) -> tuple[float, ...]:
    """The numbers of the text of :func:`numbers_text`."""
    return tuple(map(float, text.split(",")))


def evenly(items: Sequence[int], item_bytes: int) -> list[int]:
    """The items themselves, or of many as many as have :data:`SAMPLE_BYTES`, but at least 100, evenly spaced.

    Args:
        items: numbers of items.
        item_bytes: size of one.
    """
    count = min(len(items), max(100, SAMPLE_BYTES // max(1, item_bytes)))
    return [items[place * len(items) // count] for place in range(count)]


def measure(dataset: DataSet, skip_corrupt: bool = False) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels (and frames), rounded to four decimal places.

    Pixels of images count as they are read, from 0 to 1, before they are resized or augmented; events are counts. Of a
    large data set a sample is measured (:func:`evenly`).

    Args:
        dataset: a training set.
        skip_corrupt: leave out items that cannot be read.

    Raises:
        CorruptImageError: an item cannot be read.
        UsageError: a channel is the same in all pixels, or no item can be read.
    """
    total, squares, count = np.zeros(dataset.channels), np.zeros(dataset.channels), 0
    for item in evenly(range(len(dataset)), dataset.item_bytes()):
        try:
            pixels = dataset.pixels(item)
        except UsageError:
            if not skip_corrupt:
                raise
            continue
        by_channel = pixels.astype(np.float64).swapaxes(0, -3).reshape(dataset.channels, -1)
        total += by_channel.sum(1)
        squares += (by_channel**2).sum(1)
        count += by_channel.shape[1]
    if not count:
        raise UsageError("No item of the training set can be read", "check its files")
    scale = 1 if dataset.is_events else 255
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    found = tuple(tuple(round(float(value) / scale, 4) for value in values) for values in (mean, std))
    if not all(found[1]):
        raise UsageError(
            f"cannot be measured: channel {found[1].index(0)} of {dataset.info.name!r} is the same in all pixels",
            "give numbers",
            argument="std",
        )
    return found[0], found[1]
