"""Moving shapes as an event camera records them: a labelled data set that is generated, without a download (ours).

A circle, square, triangle or cross moves up or down over 32 x 32 pixels and drifts sideways. Wherever it covers or
uncovers a pixel there is an event, ON where the pixel gets brighter and OFF where it gets darker, and noise adds events
anywhere. Shape and direction make the class, so both must be seen.

**The direction is in the order of the frames alone.** Half of the shapes are brighter than their background, half are
darker, and a bright shape that moves up leaves the events of a dark one that moves down, in reverse order: the frames
of one class, shuffled or averaged, are as probable in the other. A network without memory gets 50 % at best.

A horizontally mirrored sequence keeps its class, so horizontal flips are valid augmentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from gac_sj._utils.errors import UsageError
from gac_sj._utils.validation import positive
from gac_sj.data.datasets import DataSet
from gac_sj.data.info import DatasetInfo

__all__ = ["DIRECTIONS", "SHAPES", "MovingShapes", "events_of", "read_moving_shapes"]

SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = ("up", "down")
#: height and width in pixels, time steps of a sequence before it is cut into frames, and mean number of noise events
SIDE, STEPS, NOISE = 32, 48, 40


def read_moving_shapes(info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
    """2,048 training and 512 test sequences.

    Args:
        info: the record of the data set.
        folder: not used.
        T: frames of each sequence.
        download: not used.

    Raises:
        UsageError: more frames than a sequence has steps.
    """
    train = MovingShapes(2048, T)
    test = MovingShapes(512, T, first=len(train))
    return DataSet(train, train.targets, train.classes, info), DataSet(test, test.targets, test.classes, info)


def events_of(shape: str, radius: float, centre: Any, path: Any, contrast: int) -> np.ndarray:
    """Events ``[48, 2, 32, 32]`` (bool; ON, then OFF) of one shape on a straight path, without noise.

    Args:
        shape: a name in :data:`SHAPES`.
        radius: half of its height, in pixels.
        centre: (x, y) in the middle of the path, in pixels from the upper left one.
        path: (x, y), in pixels from the first position to the last; y counts downwards.
        contrast: 1 for a shape brighter than the background, -1 for a darker one.
    """
    time = (2 * np.arange(STEPS + 1) - STEPS) / (2 * STEPS)  # exactly opposite when reversed
    x, y = (np.arange(SIDE) - (middle + length * time)[:, None] for middle, length in zip(centre, path))
    x, y = x[:, None, :] / radius, y[:, :, None] / radius
    covered = _inside(shape, x, y)
    brighter, darker = covered[1:] & ~covered[:-1], covered[:-1] & ~covered[1:]
    return np.stack((brighter, darker)[::contrast], 1)


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in a shape of radius 1 around 0; every shape equals its mirror image to the left."""
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.9
    if shape == "triangle":
        return (2 * abs(x) <= y + 1) & (y <= 1)
    return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1)


class MovingShapes(Dataset[tuple[np.ndarray, int]]):
    """Sequences of event counts ``[T, 2, 32, 32]`` (bytes) and their classes, all in memory.

    Item i is a function of ``seed`` and ``first + i``, and its class is ``(first + i) % 8``, so that classes are
    balanced; another T cuts the same events into other frames, as equally long as whole steps allow.

    Args:
        count: number of sequences.
        T: frames of each, at most 48.
        first: number of the first sequence; training and test set have ranges that do not overlap.
        seed: seed of all sequences.

    Raises:
        UsageError: ``count`` or ``T`` is not a positive integer, or ``T`` is larger than the number of steps.
    """

    classes = tuple(f"{shape}_{direction}" for shape in SHAPES for direction in DIRECTIONS)

    def __init__(self, count: int, T: int, first: int = 0, seed: int = 0):
        count = positive("count", count)
        if positive("T", T) > STEPS:
            raise UsageError(f"must be from 1 to {STEPS}, the steps of a sequence, got {T}", argument="T")
        numbers = range(first, first + count)
        self.targets = tuple(number % len(self.classes) for number in numbers)
        starts = np.arange(T) * STEPS // T
        self.data = np.zeros((count, T, 2, SIDE, SIDE), np.uint8)
        for frames, number in zip(self.data, numbers):
            np.add.reduceat(_draw(seed, number), starts, 0, out=frames)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, item: int) -> tuple[np.ndarray, int]:
        return self.data[item], self.targets[item]


def _draw(seed: int, number: int) -> np.ndarray:
    """Events ``[48, 2, 32, 32]`` (bytes) of sequence ``number``, noise included."""
    rng = np.random.default_rng((seed, number))
    shape, direction = divmod(number % len(MovingShapes.classes), len(DIRECTIONS))
    radius, x, y, drift, length = rng.uniform((5, 12, 13, -5, 10), (7, 19, 18, 5, 16))
    path = (drift, length if DIRECTIONS[direction] == "down" else -length)
    events = events_of(SHAPES[shape], radius, (x, y), path, int(rng.choice((1, -1)))).astype(np.uint8)
    np.add.at(events.reshape(-1), rng.integers(events.size, size=rng.poisson(NOISE)), 1)
    return events
