"""Small image sets, whole in memory: digits, CIFAR-10, CIFAR-100 and image folders."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2

__all__ = ["DATASETS", "ImageSet", "load_image_sets"]

#: Mean and standard deviation per channel of pixels in [0, 1]: digits and folder ours (measured; ImageNet's), CIFAR as
#: the published code of GAC has them.
DATASETS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3760,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "folder": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class ImageSet:
    """Images ``[n, C, H, W]`` as bytes and their labels ``[n]`` in ``0 ... len(classes) - 1``."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def balanced(self, limit: int) -> ImageSet:
        """The first images of each class, ``limit`` in all; classes differ by one image at most.

        Raises:
            ValueError: fewer images than that, or a class has too few.
        """
        counts = [
            limit // len(self.classes) + (label < limit % len(self.classes)) for label in range(len(self.classes))
        ]
        chosen = []
        for label, count in enumerate(counts):
            members = (self.labels == label).nonzero().flatten()
            if len(members) < count:
                raise ValueError(
                    f"{limit} training images need {count} of the class {self.classes[label]!r}, which has "
                    f"{len(members)}; ask for fewer."
                )
            chosen.append(members[:count])
        index = torch.cat(chosen).sort().values
        return ImageSet(self.images[index], self.labels[index], self.classes)


def load_image_sets(name: str, data_dir: Path | None = None, image_size: int = 32) -> tuple[ImageSet, ImageSet]:
    """Training and test set.

    Args:
        name: "digits" (scikit-learn's 1,797 digits of 8x8, grey; a fixed, stratified fifth is the test set), "cifar10",
            "cifar100" or "folder".
        data_dir: for CIFAR a folder in torchvision's layout, into which torchvision downloads what is missing (None:
            ``data``), or an image folder; for "folder" an image folder: ``train/<class>/*`` and ``test/<class>/*``.
        image_size: side in pixels to which images of an image folder are scaled and cropped.

    Raises:
        ValueError: an unknown name, or a folder that is empty or half-written.
        OSError: a folder that cannot be read, a download that fails.
    """
    if name not in DATASETS:
        raise ValueError(f"The data set {name!r} does not exist; choose one of {', '.join(DATASETS)}.")
    if name == "digits":
        return _digits()
    if name == "folder" and data_dir is None:
        raise ValueError("The data set 'folder' needs --data-dir, a folder with train/<class>/* and test/<class>/*.")
    if name == "folder" or (data_dir is not None and any((data_dir / split).is_dir() for split in ("train", "test"))):
        return _image_folder(data_dir, image_size)
    return _cifar(name, data_dir)


def _digits() -> tuple[ImageSet, ImageSet]:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ValueError("The data set 'digits' comes with scikit-learn; pip install 'gac_sj[benchmark]'.") from error
    digits = load_digits()
    classes = tuple(str(name) for name in digits.target_names)
    parts = train_test_split(digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=0)

    def image_set(images: np.ndarray, labels: np.ndarray) -> ImageSet:
        # grey levels 0 ... 16 as bytes
        pixels = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8)
        return ImageSet(pixels.unsqueeze(1), torch.from_numpy(labels).long(), classes)

    return image_set(parts[0], parts[2]), image_set(parts[1], parts[3])


def _cifar(name: str, data_dir: Path | None) -> tuple[ImageSet, ImageSet]:
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    root = Path("data") if data_dir is None else data_dir
    sets = []
    for train in (True, False):
        try:
            try:
                part = kind(root, train=train)
            except RuntimeError:  # torchvision: not there, or damaged
                with _network_timeout(30):
                    part = kind(root, train=train, download=True)
        except Exception as error:
            raise OSError(
                f"{name} is not whole in {root} (torchvision's layout, or train/<class>/* and test/<class>/*) and "
                f"cannot be downloaded ({error}); give --data-dir a folder that holds it."
            ) from error
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        sets.append(ImageSet(images, torch.tensor(part.targets), tuple(part.classes)))
    return sets[0], sets[1]


def _image_folder(root: Path, image_size: int) -> tuple[ImageSet, ImageSet]:
    fit = v2.Compose([v2.PILToTensor(), v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)])
    sets = []
    for split in ("train", "test"):
        try:
            listed = datasets.ImageFolder(str(root / split))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(
                f"The image folder {root} is not whole ({error}); it needs train/<class>/* and test/<class>/* with at "
                "least one image each; write it again."
            ) from error
        images = []
        for path, _ in listed.samples:
            try:
                with Image.open(path) as image:
                    images.append(fit(image.convert("RGB")))
            except (OSError, SyntaxError) as error:
                raise ValueError(f"The image {path} cannot be read ({error}); replace it or remove it.") from error
        sets.append(ImageSet(torch.stack(images), torch.tensor(listed.targets), tuple(listed.classes)))
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
