"""Archives of a data set, whole or in parts, such as ``split`` makes: an image folder as zip, torchvision's tar.

Images in zip archives are decoded where they are, on all cores; no file is written for any of them.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.datasets.folder import is_image_file

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.data.image_files import convert

__all__ = ["Archive", "find_archives", "read_zipped_images", "unpacked"]

_NAME = re.compile(r"(.+\.(?:zip|tar|tar\.gz|tgz))(?:\.(?:[a-z]{2,3}|\d{2,4}))?", re.IGNORECASE)
#: Images that one process decodes at a time.
_CHUNK = 4000


@dataclass(frozen=True)
class Archive:
    """An archive.

    Args:
        path: of the whole file, which need not exist.
        parts: the files whose contents it is, in order.
    """

    path: Path
    parts: tuple[Path, ...]

    @property
    def is_zip(self) -> bool:
        """Whether it is a zip archive, not a tar archive."""
        return self.path.suffix.lower() == ".zip"

    def whole(self, scratch: Path) -> Path:
        """One file with the archive.

        Args:
            scratch: a folder that gets it where there are only parts.
        """
        if self.parts == (self.path,):
            return self.path
        joined = scratch / self.path.name
        with joined.open("wb") as file:
            for part in self.parts:
                with part.open("rb") as content:
                    shutil.copyfileobj(content, file)
        return joined


class _Entry(NamedTuple):
    """An image of a zip archive; entries sort as the files of an image folder do."""

    split: str
    label: str
    file: str
    archive: Path
    name: str


def find_archives(folder: Path, dataset: str) -> list[Archive]:
    """The archives of a data set: their names begin with its name, as cifar10-train.zip and cifar-10-python.tar.gz do.

    Args:
        folder: where they lie; it need not exist. ``NAME.zip.aa``, ``NAME.zip.ab`` ... (or numbers) are the parts of
            NAME.zip, unless that is there too.
        dataset: its name.
    """
    parts: dict[str, list[Path]] = {}
    beginning = re.sub(r"(?<=\D)(?=\d)", "-?", dataset)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and re.match(rf"{beginning}(?!\d)", path.name, re.IGNORECASE):
            parts.setdefault(match[1], []).append(path)
    wholes = {name: folder / name for name in parts}
    return [Archive(path, (path,) if path in parts[name] else tuple(parts[name])) for name, path in wholes.items()]


@contextmanager
def unpacked(archives: Sequence[Archive]) -> Iterator[Path]:
    """A folder with what tar archives hold, which is gone after the block.

    Args:
        archives: tar archives.

    Raises:
        OSError: one is damaged or incomplete.
    """
    with TemporaryDirectory() as scratch:
        content = Path(scratch, "content")
        content.mkdir()
        for archive in archives:
            with _named_errors(archive.path), tarfile.open(archive.whole(Path(scratch))) as file:
                file.extractall(content, filter="data")
        yield content


def read_zipped_images(archives: Sequence[Archive], mode: str) -> dict[str, tuple[np.ndarray, list[str]]]:
    """All images of an image folder in zip archives.

    Args:
        archives: zip archives with ``<split>/<class>/<file>``, below any folder.
        mode: Pillow's, of the images.

    Returns:
        By split: pixels ``[n, H, W, C]`` (without C for grey images) and the class of each, in the order of an image
        folder.

    Raises:
        OSError: an archive or an image is damaged.
        UsageError: images of a split have several sizes.
    """
    entries: list[_Entry] = []
    found = {}
    with TemporaryDirectory() as scratch:
        for archive in archives:
            path = archive.whole(Path(scratch))
            with _named_errors(archive.path), zipfile.ZipFile(path) as file:
                names = [name for name in file.namelist() if is_image_file(name)]
            for name in names:
                if len(parts := PurePosixPath(name).parts) >= 3:
                    entries.append(_Entry(parts[-3], parts[-2], parts[-1], path, name))
        entries.sort()
        for split in sorted({entry.split for entry in entries}):
            own = [entry for entry in entries if entry.split == split]
            pixels = _map(partial(_decode, mode=mode), [own[at : at + _CHUNK] for at in range(0, len(own), _CHUNK)])
            if len({each.shape[1:] for each in pixels}) > 1:
                raise _several_sizes(split)
            found[split] = np.concatenate(pixels), [entry.label for entry in own]
    return found


def _map(decode: partial[np.ndarray], chunks: list[list[_Entry]]) -> list[np.ndarray]:
    """The result of each chunk, computed on all cores that PyTorch uses."""
    workers = min(torch.get_num_threads(), len(chunks))
    if workers == 1:
        return list(map(decode, chunks))
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(decode, chunks))


def _decode(entries: list[_Entry], mode: str) -> np.ndarray:
    """The pixels ``[n, H, W, C]`` of some images of one split."""
    pixels = []
    with ExitStack() as opened:
        files = {path: opened.enter_context(zipfile.ZipFile(path)) for path in {entry.archive for entry in entries}}
        for entry in entries:
            with _named_errors(Path(entry.archive.name, entry.name)), files[entry.archive].open(entry.name) as file:
                pixels.append(np.asarray(convert(Image.open(file), mode)))
    if len({each.shape for each in pixels}) > 1:
        raise _several_sizes(entries[0].split)
    return np.stack(pixels)


def _several_sizes(split: str) -> UsageError:
    return UsageError(
        f"The images of {split!r} in the archives have several sizes", "unpack them and give the image folder"
    )


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Name the archive, or the image in it, in the errors of libraries, of which each has its own classes."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{path} is damaged or incomplete ({first_sentence(error)}); copy the archive again.") from error
