"""Event-camera recordings as frames, from SpikingJelly's data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gac_sj._compat import datasets_module

__all__ = ["EVENT_SETS", "as_frames", "load_events"]

#: names of data sets whose items are frames ``[T, 2, H, W]``: counts of events of both polarities
EVENT_SETS = ("dvs128_gesture", "cifar10_dvs", "moving_shapes")


def load_events(name: str, root: Path | None, T: int, prepare: bool = True) -> list[tuple[Any, tuple[int, ...] | None]]:
    """Recordings as training and test part: (data set of frames and label, its items; None: all) each.

    Recordings are cut into T frames with equally many events, and kept beside them. CIFAR10-DVS has no split of its
    own: the first tenth of each class is the test set, as in TEBN (NeurIPS 2022) and SpikingJelly.

    Args:
        name: of the set, not "moving_shapes".
        root: SpikingJelly's folder of it: what was downloaded in ``download``, or the recordings in ``events_np``.
        T: frames of each.
        prepare: whether SpikingJelly may unpack and cut; without it, nothing is written.

    Raises:
        ValueError: no folder given.
        OSError: SpikingJelly cannot prepare the data set there, or it is not whole; the message says why.
    """
    if root is None:
        raise ValueError(f"The data set {name!r} needs data_dir, SpikingJelly's folder of it.")
    frames = root / f"frames_number_{T}_split_by_number"
    try:
        module = datasets_module(name)
        kind = module.DVS128Gesture if name == "dvs128_gesture" else module.CIFAR10DVS
        _check_sources(kind, root)
        if not (prepare or frames.is_dir()):
            raise FileNotFoundError(f"there is no {frames.name} yet, which training makes")
        _check_frames(frames, root / "events_np")
        splits = ({"train": True}, {"train": False}) if name == "dvs128_gesture" else ({},)
        parts = [kind(str(root), data_type="frame", frames_number=T, split_by="number", **split) for split in splits]
        _check_frames(frames, root / "events_np")
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise OSError(f"SpikingJelly cannot prepare {name} in {root} ({reason}).") from error
    if name == "dvs128_gesture":
        return [(part, None) for part in parts]
    return [(parts[0], index) for index in _first_tenths(parts[0])]


def _check_sources(kind: Any, root: Path) -> None:
    """Before SpikingJelly looks: it leaves marks there that make the next attempt fail, too."""
    missing: dict[str, list[str]] = {}
    if not (root / "events_np").is_dir():
        for file, url, _ in kind.resource_url_md5():
            if not (root / "download" / file).is_file():
                missing.setdefault(url, []).append(file)
    if missing:
        files = ", ".join(f"{', '.join(files)} from {url}" for url, files in missing.items())
        raise FileNotFoundError(f"put into {root / 'download'}: {files}")


def _check_frames(frames: Path, events: Path) -> None:
    """0.0.0.0.14 takes what an interrupted cutting left; CIFAR10DVSTEBNSplit moves files, to two classes for us."""
    if not frames.is_dir():
        return
    cut = {path.relative_to(frames) for path in frames.rglob("*.npz")}
    recordings = [path.relative_to(events) for path in events.rglob("*.npz")]
    if absent := [path for path in recordings if path not in cut]:
        raise FileNotFoundError(
            f"{frames} lacks {len(absent):,} of {len(recordings):,} recordings, such as {absent[0]}; remove {frames}*, "
            "and it is made again"
        )


def _first_tenths(frames: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Items of the training and the test part."""
    # in the order of their numbers; by their names alone, 10 comes before 2
    items = sorted(range(len(frames)), key=lambda item: (len(frames.samples[item][0]), frames.samples[item][0]))
    parts: tuple[list[int], list[int]] = ([], [])
    for label in range(len(frames.classes)):
        members = [item for item in items if frames.targets[item] == label]
        tenth = len(members) // 10
        parts[1].extend(members[:tenth])
        parts[0].extend(members[tenth:])
    return tuple(sorted(parts[0])), tuple(sorted(parts[1]))


def as_frames(frames: Any) -> Tensor:
    """Event counts ``[T, 2, H, W]`` as float32."""
    return torch.as_tensor(frames, dtype=torch.float32)
