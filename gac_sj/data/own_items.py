"""The items of a user's data set: what is accepted as an image, as event frames and as a label."""

from __future__ import annotations

import operator
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gac_sj._utils.user_code import load_from_file
from gac_sj.data.image_files import convert

__all__ = ["Form", "Items", "as_item", "as_label", "image_and_label"]


@dataclass(frozen=True)
class Form:
    """What all items of a data set have in common.

    Args:
        channels: of images or frames.
        T: number of frames; None for images.
        size: height and width of frames; None for images, which may differ and are resized.
    """

    channels: int
    T: int | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, item: Image.Image | np.ndarray) -> Form:
        """The form of an item of :func:`as_item`."""
        if isinstance(item, np.ndarray):
            return cls(item.shape[1], item.shape[0], item.shape[2:])
        return cls(len(item.getbands()))

    def __str__(self) -> str:
        if self.T is None or self.size is None:
            return f"images of {self.channels} channel{'s' * (self.channels > 1)}"
        return f"{self.T} frames of {self.channels} x {self.size[0]} x {self.size[1]} values"


class Items(Dataset[tuple[Any, int]]):
    """The items of a user's data set as this package has them; each is checked when it is read.

    Args:
        source: the user's data set.
        labels: of all items.
        form: of all items.
        place: ``FILE.py:FUNCTION`` that made it, with the path of the file, which workers that start anew run first.
    """

    def __init__(self, source: Any, labels: tuple[int, ...], form: Form, place: str):
        self.source, self.labels, self.form, self.place = source, labels, form, place

    def __getitem__(self, item: int) -> tuple[Image.Image | np.ndarray, int]:
        image, label = image_and_label(self.source[item])
        found, label = as_item(image), as_label(label)
        if isinstance(found, Image.Image) and self.form.T is None:
            found = convert(found, "L" if self.form.channels == 1 else "RGB")
        elif (form := Form.of(found)) != self.form:
            raise ValueError(f"it has {form}, and the first item has {self.form}")
        if label != self.labels[item]:
            raise ValueError(f"its label is {label}, and the data set says {self.labels[item]}")
        return found, label

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.place, pickle.dumps(self.source), self.labels, self.form)


def _restore(place: str, content: bytes, labels: tuple[int, ...], form: Form) -> Items:
    """The items in a process that may not have run the file yet."""
    load_from_file(place, "dataset")
    return Items(pickle.loads(content), labels, form, place)


def as_item(value: Any) -> Image.Image | np.ndarray:
    """An image of a user as a grey or RGB image, or frames as an array ``[T, C, H, W]`` in float32.

    Args:
        value: what :mod:`gac_sj.data.own` lists.

    Raises:
        ValueError: it is something else; a predicate about "it", without a full stop.
    """
    if isinstance(value, Image.Image):
        has_colour = value.mode in ("P", "PA") or len(value.getbands()) > 2
        return convert(value, "RGB" if has_colour else "L")
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray):
        raise ValueError(f"it is a {type(value).__name__}, not a PIL image, an array or a tensor")
    shape = list(value.shape)
    if value.dtype.kind not in "buif":
        raise ValueError(f"it has values of the type {value.dtype}, not numbers")
    if 0 in shape:
        raise ValueError(f"it has the shape {shape}, without values")
    if value.ndim == 4:
        return value.astype(np.float32)
    if value.ndim != 3 or value.shape[0] not in (1, 3):
        raise ValueError(
            f"it has the shape {shape}: images are [C, H, W] with 1 or 3 channels, and event frames [T, C, H, W]"
        )
    if value.dtype.kind == "f":
        if not (value.min() >= 0 and value.max() <= 1):
            raise ValueError(f"it has floats from {value.min():g} to {value.max():g}, and they must be in [0, 1]")
        value = np.round(value * 255).astype(np.uint8)
    elif value.dtype != np.uint8:
        raise ValueError(f"it has pixels of the type {value.dtype}: they must be bytes (uint8), or floats in [0, 1]")
    return Image.fromarray(value[0] if len(value) == 1 else np.ascontiguousarray(value.transpose(1, 2, 0)))


def image_and_label(item: Any) -> tuple[Any, Any]:
    """The two parts of an item.

    Args:
        item: of a user's data set.

    Raises:
        ValueError: it is not a pair.
    """
    if not (isinstance(item, tuple | list) and len(item) == 2):
        what = f"{len(item)} values" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
        raise ValueError(f"it must be an image and its label, and is {what}")
    return item[0], item[1]


def as_label(value: Any) -> int:
    """A label as an integer.

    Args:
        value: of a user: an integer of Python, numpy or torch.

    Raises:
        ValueError: it is not an integer from 0; a predicate about the item.
    """
    try:
        if isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype is torch.bool):
            raise TypeError
        label = operator.index(value)
    except (TypeError, ValueError, RuntimeError) as error:
        text = " ".join(repr(value).split())
        raise ValueError(f"has the label {text[:40]}, which is not an integer") from error
    if label < 0:
        raise ValueError(f"has the label {label}, which is below 0")
    return label
