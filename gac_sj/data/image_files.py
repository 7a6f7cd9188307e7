"""Image files: how their pixels become bytes, for data sets and predictions alike, and those of a folder of classes.

As timm and torchvision do, transparency is ignored. Unlike there, 16 bits are scaled to 8 (Pillow clips them), EXIF
orientation is applied, and what is hidden is left out.
"""

from __future__ import annotations

import io
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset
from torchvision.datasets.folder import is_image_file

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_bytes

__all__ = ["ImageFiles", "convert", "find_images", "read_image"]

_logger = logging.getLogger(__name__)


def read_image(path: str | Path, mode: str) -> Image.Image:
    """Read an image file, upright as its EXIF orientation says.

    Args:
        path: the file.
        mode: "L" (grey) or "RGB".

    Raises:
        OSError: it cannot be read or is not an image; Pillow raises other classes too on damaged files.
        ValueError: its pixels have no defined range (:func:`convert`).
    """
    try:
        opened = Image.open(io.BytesIO(read_bytes(Path(path))))
    except UnidentifiedImageError as error:  # its message names the bytes' place in memory
        raise UnidentifiedImageError("Pillow knows no format that begins so") from error
    with opened as file:
        image = convert(file, mode)
    with suppress(Exception):  # damaged EXIF data says nothing
        ImageOps.exif_transpose(image, in_place=True)
    return image


def convert(image: Image.Image, mode: str) -> Image.Image:
    """An image of bytes. Of 16 bits the upper eight are kept, as Pillow does with those of colour images.

    Args:
        image: of any of Pillow's modes but 32-bit integers and numbers, whose range nothing defines.
        mode: "L" (grey) or "RGB".

    Raises:
        ValueError: it has 32-bit pixels.
    """
    # Pillow scales grey PNM files to 16 bits, and its earlier releases open grey PNG files in this mode
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(258, (16,))[0]  # a TIFF file may have 12
        grey = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
        if tags.get(262) == 0:  # white is zero
            grey = ImageOps.invert(grey)
        grey.info, image = image.info, grey
    elif image.mode in ("I", "F"):
        numbers = "integers" if image.mode == "I" else "floats"
        raise ValueError(f"its pixels are 32-bit {numbers}, whose range is not defined: save it with 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns otherwise
    return image.convert(mode)


@dataclass(frozen=True)
class ImageFiles(Dataset[tuple[Image.Image, int]]):
    """Image files and their labels.

    Args:
        files: their paths.
        labels: of each.
        mode: of the images (:func:`read_image`).
    """

    files: tuple[str, ...]
    labels: tuple[int, ...]
    mode: str

    def __getitem__(self, item: int) -> tuple[Image.Image, int]:
        return read_image(self.files[item], self.mode), self.labels[item]


def find_images(folder: Path) -> dict[str, list[str]]:
    """Paths of the images of each class, in torchvision's order.

    Hidden files and folders, whose names begin with a full stop, are left out with a warning.

    Args:
        folder: it has a subfolder for each class, which may have subfolders.

    Raises:
        UsageError: a subfolder is a link to a folder around it.
        OSError: it, or a folder in it, cannot be read.
    """
    hidden: list[str] = []

    def visible(root: str, names: list[str]) -> list[str]:
        hidden.extend(os.path.join(root, name) for name in names if name.startswith("."))
        return [name for name in names if not name.startswith(".")]

    classes = [name for name in visible(str(folder), os.listdir(folder)) if (folder / name).is_dir()]
    found = {}
    for name in sorted(classes):
        images = []
        top = str(folder / name)
        around = {top: {os.path.realpath(folder), os.path.realpath(top)}}
        for root, folders, files in os.walk(top, followlinks=True, onerror=_raise):
            folders[:] = visible(root, folders)
            for inner in folders:
                path = os.path.join(root, inner)
                real = os.path.realpath(path)
                if real in around[root]:
                    raise UsageError(f"{path} is a link to a folder around it", "remove the link")
                around[path] = around[root] | {real}
            images.append((root, sorted(filter(is_image_file, visible(root, files)))))
        found[name] = [os.path.join(root, file) for root, files in sorted(images) for file in files]
    if hidden:
        listed = ", ".join(hidden[:3]) + (f" and {len(hidden) - 3} more" if len(hidden) > 3 else "")
        _logger.warning("Hidden files and folders in %s are left out: %s.", folder, listed)
    return found


def _raise(error: OSError) -> None:
    raise error
