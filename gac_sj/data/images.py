"""Data sets of images: scikit-learn's digits, CIFAR through torchvision or from archives, image folders, generated."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.datasets import FakeData

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.data.archives import Archive, find_archives, read_zipped_images, unpacked
from gac_sj.data.datasets import DataSet
from gac_sj.data.image_files import ImageFiles, find_images
from gac_sj.data.info import DatasetInfo

__all__ = ["IMAGE_FOLDER", "generate_images", "read_cifar", "read_digits", "read_image_folder", "read_synthetic"]

#: What an image folder holds.
IMAGE_FOLDER = "train/<class>/* and test/<class>/* (or val)"
_TEST_FOLDERS = ("test", "val", "validation")


class _Arrays(Dataset[tuple[Image.Image, int]]):
    """Images ``[n, H, W]`` or ``[n, H, W, 3]`` of bytes in memory as PIL images, as torchvision's CIFAR has them."""

    def __init__(self, data: np.ndarray, targets: np.ndarray):
        self.data, self.targets = data, targets.tolist()

    def __getitem__(self, item: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[item]), self.targets[item]


def read_digits(info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
    """scikit-learn's 1,797 grey digits; a fixed, stratified fifth is the test set.

    Args:
        info: the record of the data set.
        folder: not used.
        T: not used.
        download: not used.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UsageError(f"must not be {info.name!r} without scikit-learn", "pip install 'gac_sj[benchmark]'",
                         argument="dataset") from error  # fmt: skip
    digits = load_digits()
    classes = tuple(str(name) for name in digits.target_names)
    # grey levels 0 ... 16 as bytes
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train, test, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    return (
        DataSet(_Arrays(train, train_labels), tuple(train_labels.tolist()), classes, info),
        DataSet(_Arrays(test, test_labels), tuple(test_labels.tolist()), classes, info),
    )


def read_synthetic(info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
    """Generated images (:func:`generate_images`).

    Args:
        info: the record; without a number of classes and a size, 10 classes of 32 x 32 pixels.
        folder: not used.
        T: not used.
        download: not used.
    """
    return generate_images(info)


def generate_images(info: DatasetInfo) -> tuple[DataSet, DataSet]:
    """Noise in the shape of a data set: a function of the item; labels in turn, so that every class occurs.

    Args:
        info: the record; without a number of classes and a size, 10 classes of 32 x 32 pixels.
    """
    classes = 10 if info.classes is None else info.classes
    shape = (info.channels, *(info.size or (32, 32)))
    sets = []
    for count, offset in ((max(256, 2 * classes), 0), (max(64, classes), 10**6)):
        source = FakeData(count, shape, classes, random_offset=offset)
        labels = tuple(item % classes for item in range(count))
        sets.append(DataSet(_Relabelled(source, labels), labels, tuple(map(str, range(classes))), info))
    return sets[0], sets[1]


@dataclass(frozen=True)
class _Relabelled(Dataset[tuple[Any, int]]):
    source: Any
    labels: tuple[int, ...]

    def __getitem__(self, item: int) -> tuple[Any, int]:
        return self.source[item][0], self.labels[item]


def read_cifar(info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
    """CIFAR in torchvision's layout, as an image folder, or in archives of either (:mod:`gac_sj.data.archives`).

    Args:
        info: the record of the data set; torchvision knows it by the same name.
        folder: torchvision's folder, an image folder, or a folder of archives.
        T: not used.
        download: whether torchvision downloads what is missing.

    Raises:
        UsageError: an image folder that is incomplete.
        OSError: files are missing or damaged and cannot be downloaded.
    """
    assert folder is not None
    if any((folder / split).is_dir() for split in ("train", *_TEST_FOLDERS)):
        return read_image_folder(info, folder, T, download)
    if not (folder / getattr(datasets, info.name.upper()).base_folder).is_dir():
        archives = find_archives(folder, info.name)
        if zipped := [archive for archive in archives if archive.is_zip]:
            return _read_zipped(info, folder, zipped)
        if archives:
            with unpacked(archives) as content:
                return _read_torchvision(info, content, False, f"the archives in {folder}")
    return _read_torchvision(info, folder, download, str(folder))


def _read_torchvision(info: DatasetInfo, folder: Path, download: bool, place: str) -> tuple[DataSet, DataSet]:
    """CIFAR in torchvision's layout, in memory; messages name the place."""
    sets = []
    for split in ("train", "validation"):
        try:
            part = _torchvision(info.name, folder, split, download)
        except Exception as error:
            raise OSError(
                f"{info.name} is not complete in {place} (torchvision's layout, {IMAGE_FOLDER}, or archives of either) "
                f"and {'cannot be' if download else 'is not'} downloaded ({first_sentence(error)}); give the data "
                "folder that holds it."
            ) from error
        sets.append(DataSet(part, tuple(part.targets), tuple(part.classes), info))
    return sets[0], sets[1]


def _read_zipped(info: DatasetInfo, folder: Path, archives: list[Archive]) -> tuple[DataSet, DataSet]:
    """The training and the test set of an image folder in zip archives, in memory."""
    found = read_zipped_images(archives, "L" if info.channels == 1 else "RGB")
    parts = [found.get("train"), next((found[name] for name in _TEST_FOLDERS if name in found), None)]
    classes = sorted({name for part in parts if part for name in part[1]})
    sets = []
    for part in parts:
        if part is None or set(part[1]) != set(classes):
            names = ", ".join(archive.path.name for archive in archives)
            raise UsageError(
                f"{info.name} is not complete in the archives {names} in {folder}",
                f"together they need {IMAGE_FOLDER} with the same classes in both",
            )
        labels = np.array([classes.index(name) for name in part[1]])
        sets.append(DataSet(_Arrays(part[0], labels), tuple(labels.tolist()), tuple(classes), info))
    return sets[0], sets[1]


def _torchvision(name: str, folder: Path, split: str, download: bool) -> Any:
    try:
        return create_dataset(f"torch/{name}", root=str(folder), split=split)
    except RuntimeError:  # torchvision: missing or damaged
        if not download:
            raise
        with _network_timeout(30):
            return create_dataset(f"torch/{name}", root=str(folder), split=split, download=True)


def read_image_folder(info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
    """An image folder with a subfolder for each class; :mod:`gac_sj.data.image_files` says how images are read.

    Args:
        info: the record of the data set.
        folder: it has ``train/<class>/*``, and ``test/<class>/*`` or ``val/<class>/*``.
        T: not used.
        download: not used.

    Raises:
        UsageError: the folder is incomplete, its two parts have other classes, or it links to a folder around it.
        OSError: a folder in it cannot be read.
    """
    assert folder is not None
    tests = [folder / name for name in _TEST_FOLDERS]
    sets = []
    for path in (folder / "train", next((test for test in tests if test.is_dir()), tests[0])):
        classes = find_images(path) if path.is_dir() else {}
        if not all(classes.values()) or not classes:
            empty = ", ".join(name for name, files in classes.items() if not files)
            raise UsageError(
                f"The image folder {folder} is not complete (no images in {path}{empty and ': '}{empty})",
                f"it needs {IMAGE_FOLDER} with at least one image in each class",
            )
        files = tuple(file for files in classes.values() for file in files)
        labels = tuple(label for label, files in enumerate(classes.values()) for _ in files)
        images = ImageFiles(files, labels, "L" if info.channels == 1 else "RGB")
        sets.append(DataSet(images, labels, tuple(classes), info, files))
    train, test = sets
    if train.classes != test.classes:
        differing = ", ".join(sorted(set(train.classes) ^ set(test.classes))[:5])
        raise UsageError(
            f"The image folder {folder} has classes in only one of train and test: {differing}", "add the missing ones"
        )
    return train, test


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
