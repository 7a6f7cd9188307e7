"""Files: complete whatever happens while they are written, read without waiting for pipes, locked, safely named."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from gac_sj._utils.errors import UsageError

__all__ = [
    "as_utf8",
    "fingerprint",
    "locked",
    "named_errors",
    "read_bytes",
    "read_text",
    "refuse_link",
    "remove_unfinished",
    "require_file",
    "safe_name",
    "write_atomically",
]

#: Seconds after which a temporary file belongs to a process that was killed.
_STALE = 3600.0


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader finds the old content or the new one, also after a power cut.

    Args:
        path: the file; its folder must exist.
        content: the new content; text is written as :func:`as_utf8` encodes it.

    Raises:
        UsageError: the path is a symbolic link, which writing would replace.
        OSError: the file cannot be written; the error names it.
    """
    refuse_link(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with named_errors(path), open(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(as_utf8(content) if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        with named_errors(path):
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # it was renamed or not made
            temporary.unlink()
    remove_unfinished(path.parent, glob.escape(path.name), older_than=_STALE)


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link in the place of a file that will be written.

    Args:
        path: the file, which need not exist.

    Raises:
        UsageError: it is a symbolic link.
    """
    if path.is_symlink():
        raise UsageError(
            f"{path} is a symbolic link, which is never written", "name the file itself or remove the link"
        )


def as_utf8(text: str) -> bytes:
    """Text in UTF-8; what UTF-8 cannot encode, as in the name of a file that is not UTF-8, is escaped.

    Args:
        text: such as a label that has a file's name in it.
    """
    return text.encode(errors="backslashreplace")


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Make errors of the system name a file, as those of a full disk do not.

    Args:
        path: of the file or folder that is written or read inside.

    Raises:
        OSError: the error, with the path.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name durable where the system can open folders (Windows cannot)."""
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_unfinished(folder: Path, names: str = "*", older_than: float = 0.0) -> None:
    """Remove what killed calls of :func:`write_atomically` left.

    Args:
        folder: where they wrote.
        names: pattern of the files' names.
        older_than: age in seconds, where another process may be writing.
    """
    for left in folder.glob(f".{names}.????????.tmp"):
        with suppress(OSError):  # another process may remove it too
            if left.lstat().st_mtime <= time.time() - older_than:
                left.unlink()


def read_bytes(path: Path) -> bytes:
    """Read a regular file; a pipe or a device, which may never end, is refused.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read or is not a regular file; the error names it.
    """
    with _opened(path) as file:
        return file.read()


def fingerprint(path: Path) -> str:
    """First 12 hex digits of the SHA-256 of a file.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()[:12]


def require_file(path: Path) -> None:
    """Refuse what :func:`read_bytes` refuses, before another package opens a file and waits.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened or is not a regular file; the error names it.
    """
    with _opened(path):
        pass


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with named_errors(path), open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        yield file


def _open_without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path) -> str:
    """Read a regular file of UTF-8 text, with or without a byte order mark; line ends stay as they are.

    Args:
        path: the file.

    Raises:
        UsageError: it is not UTF-8.
        OSError: it cannot be read or is not a regular file; the error names it.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8, or move it away"
        ) from error


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock between processes; it ends with the process that holds it, however that ends.

    Args:
        path: the lock file; it is created if needed, never changed, and stays. Its folder must exist.
        wait: whether to wait for another holder.

    Raises:
        BlockingIOError: another process holds the lock, and ``wait`` is False.
        OSError: the lock file cannot be opened (a symbolic link is never followed).
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BlockingIOError(errno.EAGAIN, "Locked by another process", str(path)) from error
    try:
        yield
    finally:
        lock.release()


def safe_name(text: str) -> str:
    """A name for a file in a given folder, made of any text: different texts have different names.

    Letters, digits and ``=_.,-`` stay. Where something else was replaced, or the name was shortened to 120 bytes, the
    first 8 hex digits of the text's SHA-256 follow.

    Args:
        text: such as the label of a run.
    """
    name = re.sub(r"[^\w=.,-]", "_", text).lstrip(".").encode()[:120].decode(errors="ignore")
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return name if name == text and name else f"{name}-{digest[:8]}"
