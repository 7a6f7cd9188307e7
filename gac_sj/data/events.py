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


def load_events(name: str, root: Path | None, T: int) -> list[tuple[Any, tuple[int, ...] | None]]:
    """Recordings as training and test part: (data set of frames and label, its items; None: all) each.

    Recordings are cut into T frames with equally many events, and kept beside them. CIFAR10-DVS has no split of its
    own: the first tenth of each class is the test set, as in TEBN (NeurIPS 2022) and SpikingJelly.

    Raises:
        ValueError: no folder given.
        OSError: SpikingJelly cannot prepare the data set there; the message says why.
    """
    if root is None:
        raise ValueError(f"The data set {name!r} needs data_dir, SpikingJelly's folder of it.")
    how = dict(data_type="frame", frames_number=T, split_by="number")
    try:
        if name == "dvs128_gesture":
            kind = datasets_module("dvs128_gesture").DVS128Gesture
            return [(kind(str(root), train=train, **how), None) for train in (True, False)]
        frames = datasets_module("cifar10_dvs").CIFAR10DVS(str(root), **how)
    except Exception as error:
        raise OSError(
            f"SpikingJelly cannot prepare {name} in {root} ({' '.join(str(error).split())}); put its files there as "
            "SpikingJelly says."
        ) from error
    # in the order of their numbers; by their names alone, 10 comes before 2
    items = sorted(range(len(frames)), key=lambda item: (len(frames.samples[item][0]), frames.samples[item][0]))
    parts: tuple[list[int], list[int]] = ([], [])
    for label in range(len(frames.classes)):
        members = [item for item in items if frames.targets[item] == label]
        tenth = len(members) // 10
        parts[1].extend(members[:tenth])
        parts[0].extend(members[tenth:])
    return [(frames, tuple(sorted(part))) for part in parts]


def as_frames(frames: Any) -> Tensor:
    """Event counts ``[T, 2, H, W]`` as float32."""
    return torch.as_tensor(frames, dtype=torch.float32)
