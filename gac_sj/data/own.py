"""A user's data set: a function in a Python file returns a training and a test set of images or event frames.

The function may have the parameters ``data_dir`` (a path) and ``T``. It returns a pair of map-style data sets,
as ``torch.utils.data.Dataset`` is one, whose items are pairs of

- an image: a PIL image, or an array or tensor ``[C, H, W]``, C = 1 or 3, of bytes (uint8) or of floats in [0, 1],
  which are rounded to bytes. Or event frames: an array or tensor ``[T, C, H, W]`` of numbers;
- a label: an integer from 0.

Labels are taken from ``targets`` or ``labels`` of the data set, as torchvision names them, or read once from the items.
Names of the classes are taken from ``classes``; without them they are numbers. Both are found through
``torch.utils.data.Subset`` too. An item must be the same at every read: augmentation is a setting.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Subset

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import as_utf8
from gac_sj._utils.randomness import seeded
from gac_sj._utils.user_code import files_run, load_from_file, loaded_before, source_of
from gac_sj.data.datasets import DataSet
from gac_sj.data.info import DatasetInfo
from gac_sj.data.own_items import Form, Items, as_item, as_label, image_and_label

__all__ = ["OwnDataset", "own_info"]

_logger = logging.getLogger(__name__)
#: Items that are read twice to see that they are the same.
_READ_TWICE = 3


def own_info(place: str, source: str | None = None) -> DatasetInfo:
    """The record of a user's data set before it is read: number of classes, kind, shape and statistics are not known.

    Args:
        place: ``FILE.py:FUNCTION``.
        source: the file's name and digest as they were recorded, by which the file is recognised among those that were
            run; None: the file is run now.

    Raises:
        UsageError: the file is run, and does not exist, raises, or does not define the function.
    """
    if source is None:
        load_from_file(place, "dataset")
        source = source_of(place.rpartition(":")[0])
    name = Path(place).name
    return DatasetInfo(
        name, (), (), folder="what its function takes as data_dir", source=source, read=OwnDataset(name, source)
    )


@dataclass(frozen=True)
class OwnDataset:
    """Reads a user's data set. The file has been run before, because a command named it.

    Args:
        place: ``FILE.py:FUNCTION``, without a folder.
        source: the file's name and digest.
    """

    place: str
    source: str

    def __call__(self, info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
        """Training and test set.

        Args:
            info: the record of the data set; without mean and std, it gets 0 and 1.
            folder: what the function gets as ``data_dir``.
            T: number of frames that items must have where they are frames.
            download: not used.

        Raises:
            UsageError: the file was not run or has changed, the function raises or returns something else, or an item,
                a label or the names of the classes cannot be used, or T, mean or std does not fit them.
        """
        function = loaded_before(self.place, self.source, "data set")
        train, test = self._pair(self._call(function, folder, T))
        parts = {"training": train, "test": test}
        firsts = {name: self._first(name, part) for name, part in parts.items()}
        if firsts["training"] != firsts["test"]:
            raise self._refuse(
                f"the training set has {firsts['training']}, and the test set has {firsts['test']}",
                "return two parts of one data set",
            )
        form = firsts["training"]
        if form.T is not None and form.T != T:
            raise UsageError(
                f"must be {form.T}, the number of frames of {self.place!r}, got {T}",
                "give this number, or let the function cut T frames: its parameter T has the number",
                argument="T",
            )
        labels = {name: self._labels(name, part) for name, part in parts.items()}
        classes = self._classes(parts, labels)
        given = {name: ",".join(map(str, getattr(info, name))) or None for name in ("mean", "std")}
        info = replace(
            info,
            kind="images" if form.T is None else "frames",
            size=form.size,
            natural_size=None if form.T is not None else self._size(train),
            mean=(0.0,) * form.channels,
            std=(1.0,) * form.channels,
        ).normalised(**given)
        place = str(files_run()[self.source].with_name(self.place))  # as the workers of a loader need it
        sets = [DataSet(Items(parts[name], labels[name], form, place), labels[name], classes, info) for name in parts]
        return sets[0], sets[1]

    @staticmethod
    def _size(part: Any) -> tuple[int, int]:
        """Height and width of the first image."""
        height, width, *_ = np.asarray(as_item(image_and_label(part[0])[0])).shape
        return height, width

    def _refuse(self, problem: str, advice: str) -> UsageError:
        return UsageError(f"cannot use {self.place}: {problem}", advice, argument="dataset")

    def _call(self, function: Any, folder: Path | None, T: int) -> Any:
        if not callable(function):
            raise self._refuse(f"it is of the type {type(function).__name__}, not a function", "name a function")
        try:
            parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
        except (TypeError, ValueError):  # of a built-in
            parameters = {}
        given: dict[str, Any] = {"T": T} if "T" in parameters else {}
        takes = parameters.get("data_dir")
        if folder is not None and takes is None:
            raise UsageError(
                f"must not be given for {self.place!r}, whose function has no parameter data_dir, got {folder}",
                "leave it out, or add the parameter",
                argument="data_dir",
            )
        if folder is None and takes is not None and takes.default is inspect.Parameter.empty:
            raise UsageError(f"must be given for {self.place!r}, whose function needs it", argument="data_dir")
        if folder is not None:
            given["data_dir"] = folder
        try:
            with seeded("dataset"):  # such as random_split, which would split otherwise at every start
                return function(**given)
        except Exception as error:  # a user's code raises whatever it likes
            reason = f"{type(error).__name__} ({first_sentence(error)})"
            raise self._refuse(f"it raises {reason}", "correct the function, or what it reads") from error

    def _pair(self, found: Any) -> tuple[Any, Any]:
        wanted = "a training and a test set, which have __len__ and __getitem__"
        if not (isinstance(found, tuple | list) and len(found) == 2):
            what = f"{len(found)} values" if isinstance(found, tuple | list) else f"a {type(found).__name__}"
            raise self._refuse(f"it must return {wanted}, and returns {what}", "return the pair")
        for name, part in zip(("training", "test"), found):
            if not (hasattr(part, "__len__") and hasattr(part, "__getitem__")) or isinstance(part, dict | str):
                raise self._refuse(
                    f"it must return {wanted}, and the {name} set is a {type(part).__name__}", "return data sets"
                )
            try:
                count = len(part)
            except Exception as error:
                raise self._refuse(f"the length of the {name} set is not known ({first_sentence(error)})",
                                   "return data sets with a length") from error  # fmt: skip
            if not count:
                raise self._refuse(f"the {name} set is empty", "return at least one item of each class")
        return found[0], found[1]

    def _first(self, name: str, part: Any) -> Form:
        """The form of the first item; the first ones must be the same at two reads."""
        form = None
        for number in range(min(_READ_TWICE, len(part))):
            reads = []
            try:
                for attempt in (0, 1):
                    with seeded("read", attempt):
                        reads.append(as_item(image_and_label(part[number])[0]))
            except Exception as error:
                raise self._refuse(
                    f"item {number} of the {name} set cannot be used ({first_sentence(error)})", "correct it"
                ) from error
            if form is None:
                form = Form.of(reads[0])
            if not np.array_equal(np.asarray(reads[0]), np.asarray(reads[1])):
                raise self._refuse(
                    f"item {number} of the {name} set differs between two reads",
                    "leave random augmentation to the settings, which resume bit by bit",
                )
        assert form is not None
        return form

    def _labels(self, name: str, part: Any) -> tuple[int, ...]:
        found = next((values for key in ("targets", "labels") if (values := _attribute(part, key)) is not None), None)
        if found is None:
            if len(part) > 10_000:
                _logger.info(
                    "The labels of %s items of the %s set are read from the items, which takes a moment; the attribute "
                    "targets would say them.", f"{len(part):,}", name,
                )  # fmt: skip
            found = self._read_labels(name, part)
        values = found.tolist() if isinstance(found, Tensor | np.ndarray) else list(found)
        if len(values) != len(part):
            raise self._refuse(
                f"the {name} set has {len(part)} items and {len(values)} labels", "give one label for each item"
            )
        labels = []
        for number, value in enumerate(values):
            try:
                labels.append(as_label(value))
            except ValueError as error:
                raise self._refuse(f"item {number} of the {name} set {error}", "give integers from 0") from error
        return tuple(labels)

    def _read_labels(self, name: str, part: Any) -> list[Any]:
        found = []
        for number in range(len(part)):
            try:
                found.append(image_and_label(part[number])[1])
            except Exception as error:
                raise self._refuse(
                    f"item {number} of the {name} set cannot be read ({first_sentence(error)})",
                    "correct it, or give the labels as the attribute targets",
                ) from error
        return found

    def _classes(self, parts: dict[str, Any], labels: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
        named = {name: self._names(part, name) for name, part in parts.items()}
        given = {names for names in named.values() if names is not None}
        if len(given) > 1:
            raise self._refuse("training and test set have other classes", "give both the same, in the same order")
        classes = given.pop() if given else tuple(map(str, range(max(labels["training"]) + 1)))
        for name, found in labels.items():
            present = set(found)
            if wrong := next((label for label in sorted(present) if label >= len(classes)), None):
                raise self._refuse(
                    f"item {found.index(wrong)} of the {name} set has the label {wrong}, and there are {len(classes)} "
                    f"classes, with the labels 0 to {len(classes) - 1}",
                    "correct the labels or the attribute classes",
                )
            if len(present) < len(classes):
                absent = next(label for label in range(len(classes)) if label not in present)
                raise self._refuse(
                    f"the class {classes[absent]!r} (label {absent}) has no item in the {name} set",
                    "give each class at least one, and count labels from 0",
                )
        return classes

    def _names(self, part: Any, name: str) -> tuple[str, ...] | None:
        found = _attribute(part, "classes")
        if found is None:
            return None
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise self._refuse(f"the classes of the {name} set are {found!r}, not a list of names", "give a list")
        names = tuple(as_utf8(str(each)).decode() for each in found)
        if len(set(names)) < len(names) or not names:
            raise self._refuse(f"the classes of the {name} set do not have names of their own", "give each another")
        return names


def _attribute(part: Any, name: str) -> Any:
    """An attribute of a data set; through subsets, those of whose items that belong to it."""
    if not isinstance(part, Subset):
        return getattr(part, name, None)
    values = _attribute(part.dataset, name)
    if values is None or name == "classes":
        return values
    values = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    return [values[item] for item in part.indices]
