"""Memory that a process keeps: glibc's malloc without the page faults of returning every large block.

By default glibc returns blocks above a threshold (at most 32 MiB) to the system when they are freed, and free memory at
the end of its heap. A training step then gets all its activations as new pages, which the system clears one by one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

from gac_sj._utils.errors import UsageError

__all__ = ["allocator", "keep_memory", "release_memory"]

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1
#: Sizes from which blocks have their own mapping: the first that glibc accepts; before 2.35 it takes 32 MiB at most.
_SIZES = (1 << 30, 32 << 20)
_OTHERS = ("jemalloc", "tcmalloc", "mimalloc")
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")

_kept = False


def keep_memory() -> str:
    """Let glibc keep the memory that this process frees, for its next allocations. The programs of the package call it.

    Other allocators (jemalloc or tcmalloc through ``LD_PRELOAD``, musl, macOS, Windows) stay as they are, and so does
    glibc where the environment has settings for it. Call it once, before the first large tensors.

    Returns:
        What :func:`allocator` says after it.

    Raises:
        UsageError: ``LD_PRELOAD`` names an allocator that was not loaded.
    """
    global _kept
    _require_preloaded()
    if not _kept and _is_glibc() and not _settings():
        mallopt = ctypes.CDLL(None).mallopt
        _kept = any(mallopt(_MMAP_THRESHOLD, size) for size in _SIZES) and mallopt(_TRIM_THRESHOLD, _NEVER) == 1
    return allocator()


def release_memory() -> None:
    """Return the free memory that :func:`keep_memory` has kept, such as between training and validation."""
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)


def allocator() -> str:
    """The library that allocates this process's memory, and its settings, for reports."""
    if not sys.platform.startswith("linux"):
        return f"that of {platform.system()}"
    if not _is_glibc():
        return _library()
    text = " ".join(platform.libc_ver())
    if given := _settings():
        return f"{text}, set by {', '.join(given)}"
    return f"{text}, keeps freed memory" if _kept else f"{text}, default settings"


def _settings() -> list[str]:
    """The variables by which a user has set glibc's malloc."""
    tunables = ["GLIBC_TUNABLES"] if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") else []
    return tunables + [name for name in _SETTINGS if name in os.environ]


def _is_glibc() -> bool:
    return sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc" and _library().startswith("libc")


def _library() -> str:
    """The file that holds this process's ``malloc``."""
    address = ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        extent, *_, path = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in extent.split("-"))
        if start <= address < end:
            return Path(path).name
    return "unknown"


def _require_preloaded() -> None:
    for name in os.environ.get("LD_PRELOAD", "").replace(":", " ").split():
        asked = next((other for other in _OTHERS if other in Path(name).name), None)
        if sys.platform.startswith("linux") and asked and asked not in _library():
            raise UsageError(
                f"LD_PRELOAD names the allocator {name}, which was not loaded",
                "install it, or correct or unset LD_PRELOAD",
            )
