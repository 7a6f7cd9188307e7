"""Labelled items of a data set, read one by one."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.data.image_files import convert
from gac_sj.data.info import DatasetInfo
from gac_sj.data.statistics import evenly

__all__ = ["CorruptImageError", "DataSet"]

#: An index of all items, however many there are.
ALL = range(sys.maxsize)


class CorruptImageError(UsageError):
    """An image that cannot be read; the message names its file."""


@dataclass(frozen=True)
class DataSet(Dataset[tuple[Any, int]]):
    """Labelled items: item i is a PIL image (event data sets: frames ``[T, C, H, W]``) and its label.

    Args:
        source: a map-style data set of such pairs.
        labels: of every item of the source.
        classes: names of the classes.
        info: what the data set is; its number of classes becomes that of ``classes``.
        files: paths of the items where they are files.
        index: the items of the source that belong to this set; a range is cut to the items that there are.
    """

    source: Any
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    info: DatasetInfo
    files: tuple[str, ...] | None = None
    index: Sequence[int] = ALL

    def __post_init__(self) -> None:
        index = self.index[: len(self.labels)] if isinstance(self.index, range) else tuple(self.index)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "info", replace(self.info, classes=len(self.classes)))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def channels(self) -> int:
        """Channels of an image or frame."""
        return self.info.channels

    @property
    def mode(self) -> str:
        """Pillow's mode of the images that the network receives: "L" (grey) or "RGB"."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def is_events(self) -> bool:
        """Whether items are sequences of event frames, not images."""
        return self.info.is_events

    @property
    def targets(self) -> list[int]:
        """The label of every item of this set."""
        return [self.labels[place] for place in self.index]

    def __getitem__(self, item: int) -> tuple[Any, int]:
        """An item and its label.

        Args:
            item: its number in this set.

        Raises:
            CorruptImageError: it cannot be read.
        """
        place = self.index[item]
        try:
            image, label = self.source[place]
        except Exception as error:  # PIL raises many kinds on broken files
            name = self.files[place] if self.files else f"number {place}"
            problem = f"The image {name} cannot be read ({first_sentence(error)})"
            raise CorruptImageError(problem, "replace it or remove it") from error
        return image, int(label)

    def pixels(self, item: int) -> np.ndarray:
        """An item as an array: the bytes of an image ``[C, H, W]``, or frames ``[T, C, H, W]`` in float32.

        Args:
            item: its number in this set.

        Raises:
            CorruptImageError: it cannot be read.
        """
        image, _ = self[item]
        if self.is_events:
            return np.asarray(image, np.float32)
        pixels = np.asarray(convert(image, self.mode))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def item_bytes(self) -> int:
        """The size of the first item's array (:meth:`pixels`); 1 if it cannot be read."""
        try:
            return self.pixels(0).nbytes
        except CorruptImageError:
            return 1

    def balanced(self, limit: int) -> DataSet:
        """The first items of each class; numbers of items differ by at most one between classes.

        Args:
            limit: number of items.

        Raises:
            UsageError: a class has too few.
        """
        labels = np.asarray(self.targets)
        chosen: list[int] = []
        for label, name in enumerate(self.classes):
            count = limit // len(self.classes) + (label < limit % len(self.classes))
            members = np.flatnonzero(labels == label)
            if len(members) < count:
                raise UsageError(
                    f"{limit} class-balanced images need {count} of the class {name!r}, which has {len(members)}",
                    "ask for fewer",
                )
            chosen += members[:count].tolist()
        return replace(self, index=tuple(self.index[place] for place in sorted(chosen)))

    def fingerprint(self) -> str:
        """First 12 hex digits of the SHA-256 of labels and pixels in memory, or of labels, names and sizes of files.

        Of a user's data set, the labels of all items count, and the pixels of all or of a large sample
        (:func:`gac_sj.data.statistics.evenly`).
        """
        items = None if isinstance(self.index, range) else self.index  # rows of results hold this digest
        digest = hashlib.sha256(repr((self.labels, self.classes, items)).encode())
        if self.files:
            for file in self.files:
                path = Path(file)
                try:
                    size = str(path.stat().st_size)
                except OSError:  # such as a link to itself; reading the item says so
                    size = "unreadable"
                digest.update(f"{path.parent.name}/{path.name} {size}\n".encode(errors="surrogateescape"))
        elif self.info.source is not None:
            for item in evenly(range(len(self)), self.item_bytes()):
                try:
                    pixels = self.pixels(item)
                except CorruptImageError:  # reading the item says so
                    digest.update(b"unreadable")
                else:
                    digest.update(str(pixels.shape).encode() + pixels.tobytes())
        elif isinstance(data := getattr(self.source, "data", None), np.ndarray):
            digest.update(data.tobytes())
        return digest.hexdigest()[:12]
