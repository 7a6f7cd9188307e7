"""The libraries of kernels on disk, each under a name that holds what it was built from and its own checksum."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["cache_folder", "library", "why_not_loaded"]

_SCRATCH = "build-"  # prefix of the folders in which libraries are built
_ABANDONED = 600  # seconds after which such a folder is that of a process that was killed

_logger = logging.getLogger("gac_sj")


@cache
def cache_folder() -> tuple[Path, str | None]:
    """The folder of libraries: ``$XDG_CACHE_HOME/gac_sj``, or ``~/.cache/gac_sj``.

    A relative ``XDG_CACHE_HOME`` is ignored, as the XDG Base Directory Specification has it. A folder that cannot be
    used, or in which other users can write, is replaced by a temporary one of this process.

    Returns:
        The folder, and why it is a temporary one or None.

    Raises:
        OSError: there is no temporary folder either.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME", "")
        folder = (Path(home) if os.path.isabs(home) else Path.home().absolute() / ".cache") / "gac_sj"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = _why_not_trusted(folder.stat())
        if reason is None:
            _remove_abandoned(folder)
            with tempfile.TemporaryFile(dir=folder):
                return folder, None
        reason = f"{folder} {reason}; change that, or set XDG_CACHE_HOME"
    except (OSError, RuntimeError) as error:  # it cannot be read or written to, or there is no home folder
        reason = str(error)
    _temporary.append(tempfile.TemporaryDirectory(prefix="gac_sj-"))
    return Path(_temporary[-1].name), reason


_temporary: list[tempfile.TemporaryDirectory] = []  # removed at the end of the process


def library(key: str, build: Callable[[Path], None]) -> Path:
    """A library from the cache, or built now. Several processes may build it at the same time.

    Args:
        key: hex digits that stand for all that the library is built from.
        build: builds it as the file of the given name, in a folder of its own.

    Returns:
        The complete library, with a checksum that was right a moment ago.

    Raises:
        OSError: it cannot be stored.
        BuildError: from ``build``.
    """
    folder, _ = cache_folder()
    for path in folder.glob(f"{key}-*.so"):
        reason = why_not_loaded(path)
        if reason is None:
            return path
        _logger.info("%s %s; it is built again.", path, reason)
        with suppress(OSError):
            path.unlink()
    with tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH, ignore_cleanup_errors=True) as scratch:
        built = Path(scratch, "kernels.so")
        build(built)
        with open(built, "rb+") as file:
            os.fchmod(file.fileno(), 0o700)
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        path = folder / f"{key}-{checksum}.so"
        os.replace(built, path)
    return path


def why_not_loaded(path: Path) -> str | None:
    """Why a library of the cache is built again and not loaded, a predicate; None if it is loaded.

    Args:
        path: the file.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "is not a file"
        if reason := _why_not_trusted(found):
            return reason
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if path.stem.endswith(f"-{checksum}") else "is damaged: its name has another checksum"


def _why_not_trusted(found: os.stat_result) -> str | None:
    if found.st_uid not in (0, os.geteuid()):
        return "belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by other users"
    return None


def _remove_abandoned(folder: Path) -> None:
    """Remove what compilations left whose process was killed."""
    for path in folder.iterdir():
        with suppress(OSError):
            if path.name.startswith(_SCRATCH) and time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path)
