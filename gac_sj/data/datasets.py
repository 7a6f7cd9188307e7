"""Data sets by name: CIFAR, ImageNet and other image folders, digits, event-camera frames, generated images."""

from __future__ import annotations

import hashlib
import socket
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import Dataset
from torchvision.datasets import FakeData

from gac_sj.data.events import EVENT_SETS, load_events
from gac_sj.data.moving_shapes import MovingShapes

__all__ = ["DATASETS", "CorruptImageError", "DataSet", "load_datasets"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Mean and standard deviation per channel of values in [0, 1]: digits measured, CIFAR as the published code of GAC has
#: them, ImageNet's usual ones. Event counts and generated images stay as they are.
DATASETS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3760,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet": _IMAGENET,
    "folder": _IMAGENET,
    "synthetic": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    **dict.fromkeys(EVENT_SETS, ((0.0, 0.0), (1.0, 1.0))),
}


class CorruptImageError(ValueError):
    """An image that cannot be read; the message names its file."""


@dataclass(frozen=True)
class DataSet(Dataset):
    """Labelled images, read one by one: item i is a PIL image (event sets: frames ``[T, C, H, W]``) and its label.

    Args:
        source: a map-style data set of such pairs.
        labels: of every item of the source.
        classes: names of the classes.
        channels: of the images.
        files: paths of the items where they are files.
        index: the items of the source that belong to this set; None: all.
        is_events: whether items are frames in place of images.
    """

    source: Any
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    channels: int = 3
    files: tuple[str, ...] | None = None
    index: tuple[int, ...] | None = None
    is_events: bool = False

    def __len__(self) -> int:
        return len(self.labels) if self.index is None else len(self.index)

    def __getitem__(self, item: int) -> tuple[Any, int]:
        """Item of the set.

        Raises:
            CorruptImageError: it cannot be read.
        """
        place = (range(len(self)) if self.index is None else self.index)[item]
        try:
            image, label = self.source[place]
        except Exception as error:  # PIL raises many kinds on broken files
            name = self.files[place] if self.files else f"number {place}"
            raise CorruptImageError(f"The image {name} cannot be read ({error}); replace it or remove it.") from error
        return image, int(label)

    def balanced(self, limit: int) -> DataSet:
        """The first images of each class, ``limit`` in all; classes differ by one image at most.

        Raises:
            ValueError: fewer images than that, or a class has too few.
        """
        labels = np.asarray(self.labels) if self.index is None else np.asarray(self.labels)[list(self.index)]
        chosen: list[int] = []
        for label, name in enumerate(self.classes):
            count = limit // len(self.classes) + (label < limit % len(self.classes))
            members = np.flatnonzero(labels == label)
            if len(members) < count:
                raise ValueError(
                    f"{limit} training images need {count} of the class {name!r}, which has {len(members)}; "
                    "ask for fewer."
                )
            chosen += members[:count].tolist()
        places = sorted(chosen)
        return replace(self, index=tuple(places if self.index is None else (self.index[place] for place in places)))

    def fingerprint(self) -> str:
        """Twelve letters that stand for the content: of pixels in memory, or of names and sizes of files."""
        digest = hashlib.sha256(repr((self.labels, self.classes, self.index)).encode())
        if self.files:
            for file in self.files:
                path = Path(file)
                digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        elif isinstance(data := getattr(self.source, "data", None), np.ndarray):
            digest.update(data.tobytes())
        return digest.hexdigest()[:12]


def load_datasets(
    name: str,
    data_dir: str | Path | None = None,
    T: int = 4,
    generated: tuple[int, int, int] = (10, 3, 32),
    download: bool = True,
) -> tuple[DataSet, DataSet]:
    """Training and test set.

    Args:
        name: a key of :data:`DATASETS`. "digits": scikit-learn's 1,797 digits of 8x8, grey; a fixed, stratified fifth
            is the test set. "folder" and "imagenet": ``train/<class>/*`` and ``test/`` or ``val/<class>/*``.
            "dvs128_gesture", "cifar10_dvs": frames of SpikingJelly's data sets. "moving_shapes": frames of generated
            events (:mod:`gac_sj.data.moving_shapes`), 2,048 and 512 sequences. "synthetic": random images.
        data_dir: for CIFAR a folder in torchvision's layout, into which torchvision downloads what is missing (None:
            ``data``), or an image folder; for event sets SpikingJelly's folder; for the others the image folder.
        T: frames per recording of an event set.
        generated: classes, channels and side of synthetic images.
        download: whether CIFAR may be downloaded, and recordings be cut into frames.

    Raises:
        ValueError: an unknown name, or a folder that is empty or half-written.
        OSError: a folder that cannot be read, a download that fails.
    """
    if name not in DATASETS:
        raise ValueError(f"The data set {name!r} does not exist; choose one of {', '.join(DATASETS)}.")
    if name in ("digits", "moving_shapes", "synthetic") and data_dir is not None:
        raise ValueError(f"The data folder is {data_dir}, and {name} needs none; leave it out.")
    if name == "digits":
        return _digits()
    if name == "moving_shapes":
        return _moving_shapes(T)
    if name == "synthetic":
        return _generated(*generated)
    root = None if data_dir is None else Path(data_dir)
    if name in EVENT_SETS:
        return tuple(
            DataSet(
                part, tuple(part.targets), tuple(part.classes), 2, tuple(path for path, _ in part.samples), index, True
            )
            for part, index in load_events(name, root, T, prepare=download)
        )
    if name in ("folder", "imagenet") and root is None:
        raise ValueError(f"The data set {name!r} needs data_dir, a folder with train/<class>/* and test/<class>/*.")
    if name in ("folder", "imagenet") or (root is not None and _is_image_folder(root)):
        return _image_folder(root)
    return _cifar(name, Path("data") if root is None else root, download)


class _Arrays(Dataset):
    """Images ``[n, H, W]`` of bytes in memory as PIL images, as torchvision's CIFAR has them."""

    def __init__(self, data: np.ndarray, targets: np.ndarray):
        self.data, self.targets = data, targets.tolist()

    def __getitem__(self, item: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[item]), self.targets[item]


def _digits() -> tuple[DataSet, DataSet]:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ValueError("The data set 'digits' comes with scikit-learn; pip install 'gac_sj[benchmark]'.") from error
    digits = load_digits()
    classes = tuple(str(name) for name in digits.target_names)
    # grey levels 0 ... 16 as bytes
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(images, digits.target, test_size=0.2, stratify=digits.target, random_state=0)
    sets = (_Arrays(parts[0], parts[2]), _Arrays(parts[1], parts[3]))
    return tuple(DataSet(part, tuple(part.targets), classes, channels=1) for part in sets)


def _moving_shapes(T: int) -> tuple[DataSet, DataSet]:
    train = MovingShapes(2048, T)
    test = MovingShapes(512, T, first=len(train))
    return tuple(DataSet(part, part.targets, part.classes, channels=2, is_events=True) for part in (train, test))


def _generated(classes: int, channels: int, side: int) -> tuple[DataSet, DataSet]:
    """Noise, a function of the item; labels in turn, so that each class is there."""
    sets = []
    for count, offset in ((max(256, 2 * classes), 0), (max(64, classes), 10**6)):
        source = FakeData(count, (channels, side, side), classes, random_offset=offset)
        labels = tuple(item % classes for item in range(count))
        sets.append(DataSet(_Relabelled(source, labels), labels, tuple(map(str, range(classes))), channels))
    return sets[0], sets[1]


@dataclass(frozen=True)
class _Relabelled(Dataset):
    source: Any
    labels: tuple[int, ...]

    def __getitem__(self, item: int) -> tuple[Any, int]:
        return self.source[item][0], self.labels[item]


def _cifar(name: str, root: Path, download: bool) -> tuple[DataSet, DataSet]:
    def load(split: str) -> Any:
        try:
            return create_dataset(f"torch/{name}", root=str(root), split=split)
        except RuntimeError:  # torchvision: not there, or damaged
            if not download:
                raise
            with _network_timeout(30):
                return create_dataset(f"torch/{name}", root=str(root), split=split, download=True)

    sets = []
    for split in ("train", "validation"):
        try:
            part = load(split)
        except Exception as error:
            raise OSError(
                f"{name} is not whole in {root} (torchvision's layout, or train/<class>/* and test/<class>/*) and "
                f"{'cannot be' if download else 'is not'} downloaded ({error}); give the data folder that holds it."
            ) from error
        sets.append(DataSet(part, tuple(part.targets), tuple(part.classes)))
    return sets[0], sets[1]


def _is_image_folder(root: Path) -> bool:
    return any((root / split).is_dir() for split in ("train", "test", "val", "validation"))


def _image_folder(root: Path) -> tuple[DataSet, DataSet]:
    tests = [root / name for name in ("test", "val", "validation")]
    sets = []
    for path in (root / "train", next((test for test in tests if test.is_dir()), tests[0])):
        try:
            # torchvision's, as timm's own folder replaces unreadable images by their neighbours
            part = create_dataset("torch/image_folder", root=str(path), split="", search_split=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(
                f"The image folder {root} is not whole ({error}); it needs train/<class>/* and test/<class>/* (or val) "
                "with at least one image each; write it again."
            ) from error
        sets.append(
            DataSet(part, tuple(part.targets), tuple(part.classes), files=tuple(path for path, _ in part.samples))
        )
    train, test = sets
    if train.classes != test.classes:
        differing = ", ".join(sorted(set(train.classes) ^ set(test.classes))[:5])
        raise ValueError(
            f"The image folder {root} has classes in one of train and test only ({differing}); complete it."
        )
    return train, test


@contextmanager
def _network_timeout(seconds: float):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
