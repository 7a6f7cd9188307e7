"""Random choices as a function of seed, epoch and position, so that a resumed run replays nothing."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["derive_seed", "random_state", "seed_all", "seeded", "set_random_state"]


@lru_cache(maxsize=256)  # asked for at every image
def derive_seed(*parts: int | str) -> int:
    """A number of 63 bits that is as good as drawn for these parts."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch, the current CUDA device included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  timm draws from numpy's global generator
    # torch.manual_seed would queue a call for CUDA at every image where CUDA is not used
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Draws inside the block depend on the parts alone, and those outside do not notice."""
    state = random_state()
    seed_all(derive_seed(*parts))
    try:
        yield
    finally:
        set_random_state(state)


def random_state() -> dict[str, Any]:
    """The state of all global generators, as tensors and plain numbers."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor | list[Any]]) -> None:
    """Undo what happened since :func:`random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
