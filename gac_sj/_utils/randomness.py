"""Seeds derived from seed, epoch and position, so that a resumed run need not replay anything; RNG states."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch

__all__ = ["derive_seed", "random_state", "seed_all", "seeded", "set_random_state"]


@lru_cache(maxsize=256)  # called for every image
def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed, deterministic in ``parts``.

    Args:
        parts: what the seed depends on, such as the run's seed, a word and the epoch.
    """
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, the current CUDA device included.

    Args:
        seed: a non-negative integer.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  timm draws from numpy's global generator
    # torch.manual_seed would queue a call for CUDA at every image where CUDA is not used
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Seed all RNGs inside the block and restore their state on exit.

    Args:
        parts: see :func:`derive_seed`.
    """
    state = random_state()
    seed_all(derive_seed(*parts))
    try:
        yield
    finally:
        set_random_state(state)


def random_state() -> dict[str, Any]:
    """The RNG states of all global generators, as tensors and plain numbers."""
    version, words, gauss = random.getstate()
    numpy_state = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())  # noqa: NPY002
    name, keys, position, has_gauss, cached = numpy_state
    state: dict[str, Any] = {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the RNG states of all global generators.

    Args:
        state: what :func:`random_state` returned.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
