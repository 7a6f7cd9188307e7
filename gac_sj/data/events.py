"""Event-camera recordings as frames, from SpikingJelly's data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from gac_sj._compat import datasets_module
from gac_sj.data.datasets import ALL, DataSet
from gac_sj.data.info import DatasetInfo

__all__ = ["as_frames", "read_cifar10_dvs", "read_gesture"]


def read_gesture(info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
    """DVS128 Gesture as frames, with the split of its authors.

    Args:
        info: the record of the data set.
        folder: SpikingJelly's folder of it: downloaded files in ``download``, or recordings in ``events_np``.
        T: frames of each recording, with equally many events; they are kept beside the recordings.
        download: whether SpikingJelly may unpack and cut; otherwise nothing is written.

    Raises:
        OSError: SpikingJelly cannot prepare the data set there, or it is not complete; the message says why.
    """
    train, test = _read("DVS128Gesture", ({"train": True}, {"train": False}), info, folder, T, download)
    return _data_set(train, info), _data_set(test, info)


def read_cifar10_dvs(info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
    """CIFAR10-DVS as frames. It has no split of its own: the first tenth of each class is the test set.

    Source of the split: TEBN (NeurIPS 2022) and SpikingJelly.

    Args:
        info: the record of the data set.
        folder: as for :func:`read_gesture`.
        T: as for :func:`read_gesture`.
        download: as for :func:`read_gesture`.

    Raises:
        OSError: SpikingJelly cannot prepare the data set there, or it is not complete; the message says why.
    """
    (frames,) = _read("CIFAR10DVS", ({},), info, folder, T, download)
    train, test = _first_tenths(frames)
    return _data_set(frames, info, train), _data_set(frames, info, test)


def _read(
    class_name: str, splits: tuple[dict[str, bool], ...], info: DatasetInfo, folder: Path | None, T: int, prepare: bool
) -> list[Any]:
    """SpikingJelly's data set of frames for each split."""
    assert folder is not None
    frames = folder / f"frames_number_{T}_split_by_number"
    try:
        cls = getattr(datasets_module(info.name), class_name)
        _check_sources(cls, folder)
        if not (prepare or frames.is_dir()):
            raise FileNotFoundError(f"there is no {frames.name} yet, which training writes")
        _check_frames(frames, folder / "events_np")
        parts = [cls(str(folder), data_type="frame", frames_number=T, split_by="number", **split) for split in splits]
        _check_frames(frames, folder / "events_np")
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise OSError(f"SpikingJelly cannot prepare {info.name} in {folder} ({reason}).") from error
    return parts


@dataclass(frozen=True)
class _Frames(Dataset[tuple[np.ndarray, int]]):
    """The files that SpikingJelly has cut, and their labels. Workers that start anew can read them without its modules,
    which may not be importable there (:func:`gac_sj._compat.datasets_module`)."""

    samples: tuple[tuple[str, int], ...]

    def __getitem__(self, item: int) -> tuple[np.ndarray, int]:
        path, label = self.samples[item]
        with np.load(path) as file:
            return file["frames"].astype(np.float32), label


def _data_set(frames: Any, info: DatasetInfo, index: Any = ALL) -> DataSet:
    files = tuple(path for path, _ in frames.samples)
    return DataSet(_Frames(tuple(frames.samples)), tuple(frames.targets), tuple(frames.classes), info, files, index)


def _check_sources(cls: Any, root: Path) -> None:
    """Check the downloaded files before SpikingJelly does: it leaves folders that make the next attempt fail too."""
    missing: dict[str, list[str]] = {}
    if not (root / "events_np").is_dir():
        for file, url, _ in cls.resource_url_md5():
            if not (root / "download" / file).is_file():
                missing.setdefault(url, []).append(file)
    if missing:
        files = ", ".join(f"{', '.join(files)} from {url}" for url, files in missing.items())
        raise FileNotFoundError(f"put into {root / 'download'}: {files}")


def _check_frames(frames: Path, events: Path) -> None:
    """Check that every recording has frames.

    SpikingJelly 0.0.0.0.14 accepts what an interrupted run has cut, and CIFAR10DVSTEBNSplit moves files into two
    folders, which would be read as two classes.
    """
    if not frames.is_dir():
        return
    cut = {path.relative_to(frames) for path in frames.rglob("*.npz")}
    recordings = [path.relative_to(events) for path in events.rglob("*.npz")]
    if absent := [path for path in recordings if path not in cut]:
        raise FileNotFoundError(
            f"{frames} lacks {len(absent):,} of {len(recordings):,} recordings, such as {absent[0]}; remove {frames}*, "
            "and they are cut again"
        )


def _first_tenths(frames: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Items of the training and the test part."""
    # by number; as text, 10 comes before 2
    items = sorted(range(len(frames)), key=lambda item: (len(frames.samples[item][0]), frames.samples[item][0]))
    parts: tuple[list[int], list[int]] = ([], [])
    for label in range(len(frames.classes)):
        members = [item for item in items if frames.targets[item] == label]
        tenth = len(members) // 10
        parts[1].extend(members[:tenth])
        parts[0].extend(members[tenth:])
    return tuple(sorted(parts[0])), tuple(sorted(parts[1]))


def as_frames(frames: Any, size: tuple[int, int] | None = None) -> Tensor:
    """Event counts as float32.

    Args:
        frames: an array ``[T, C, H, W]``.
        size: height and width of the result, to which other frames are resized (bilinear, with antialiasing).
    """
    frames = torch.as_tensor(frames, dtype=torch.float32)
    if size is None or frames.shape[-2:] == size:
        return frames
    return F.interpolate(frames, size, mode="bilinear", antialias=True)
