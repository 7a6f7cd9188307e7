"""The claim of a folder: one owner at a time, also where file locks do not reach from one machine to another.

A claim is a file ``claim-N.json`` with the owner's host, process and a note, such as how far it is. The owner rewrites
it every two seconds. The time of a beat is the file's modification time, and the present is that of a file written
beside it, so that only the clock of the file server counts. The rule:

1. A taker holds the lock of the folder. Locks reach every process of a machine and end with their holder, so that a
   claim of the same machine is dead: its process has ended. A claim of another machine is dead after ten minutes
   without a beat.
2. A living claim refuses the taker. Otherwise the taker creates the file with the next number. A file is created once,
   so that of two takers with the same number one wins.
3. Then it looks again. If it finds another claim than the dead ones of before, it removes its own and starts again.
   Each taker creates its file before it looks, so that of two takers with different numbers the later one sees the
   file of the other: they cannot both win.
4. The winner removes the dead claims. An owner has lost the folder when its file is gone or not the last one. It checks
   this before it writes anything. A beat never creates a file, so that a late one does not bring a lost claim back.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from gac_sj._utils.errors import UsageError

__all__ = [
    "BEAT_SECONDS",
    "DEAD_AFTER",
    "Claim",
    "FolderInUseError",
    "check_claim",
    "claimed",
    "file_system_time",
    "machine_id",
    "note_of",
    "set_note",
]

BEAT_SECONDS = 2.0
#: Seconds without a beat after which a claim of another machine is dead.
DEAD_AFTER = 600.0
# Every content has this many bytes, so that a beat is one write and nobody reads a half one.
_SIZE = 1024


class FolderInUseError(UsageError):
    """Another command uses a folder.

    Args:
        problem: what it does, a complete sentence without the full stop.
    """

    def __init__(self, problem: str):
        super().__init__(problem, "wait for its end or name another output", argument="output")


def machine_id() -> str:
    """What the processes between which locks reach have in common: the start of the system, or its name and address."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{platform.node()[:64]}-{uuid.getnode():x}"


def file_system_time(folder: Path) -> float:
    """The present by the clock that stamps the files of a folder, in seconds.

    Args:
        folder: it must be writable.
    """
    path = folder / f".claim.{secrets.token_hex(4)}.tmp"
    try:
        path.write_bytes(b"\n")
        return path.stat().st_mtime
    finally:
        with suppress(OSError):
            path.unlink()


class _Found(NamedTuple):
    """A claim as somebody else sees it; a damaged one is nobody's and dies after ten minutes."""

    number: int
    token: str
    content: dict[str, Any]
    beat: float
    path: Path

    @property
    def owner(self) -> str:
        return f"process {self.content.get('process', 'unknown')} on {self.content.get('host', 'another machine')}"


def _find(folder: Path, name: str) -> list[_Found]:
    """The claims of a folder, by number."""
    found = []
    for path in folder.glob(f"{name}-*.json"):
        number = path.stem.removeprefix(f"{name}-")
        with suppress(FileNotFoundError):  # it was removed meanwhile
            beat = path.stat().st_mtime
            try:
                content = json.loads(path.read_bytes())
                token = str(content["token"])
            except (ValueError, LookupError, TypeError):
                content, token = {}, ""
            if number.isdecimal():
                found.append(_Found(int(number), token, content, beat, path))
    return sorted(found, key=lambda each: each.number)


class Claim:
    """A claim that this process has taken; :func:`claimed` takes and releases it.

    Args:
        folder: the caller holds its lock.
        name: what the claim's file is called, before the number.
        machine: see :func:`machine_id`.
        clock: see :func:`file_system_time`.

    Raises:
        FolderInUseError: somebody else has a living claim.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, machine: str, clock: Callable[[Path], float]):
        self.folder, self.name, self.machine, self.token = folder, name, machine, secrets.token_hex(8)
        self.note: Callable[[], object] = lambda: None
        self._clock, self._ended, self._writing = clock, threading.Event(), threading.Lock()
        self.path = self._take()
        self._thread = threading.Thread(target=self._beat_until_the_end, name="claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on if the claim is lost.

        Raises:
            FolderInUseError: somebody else has taken the folder over.
        """
        with self._writing:
            found = _find(self.folder, self.name)
        if not found or found[-1].token != self.token:
            owner = found[-1].owner if found else "another process"
            raise FolderInUseError(f"{self.folder} was taken over by {owner}")

    def beat(self) -> None:
        """Show that the owner lives, and its note; nothing is written if the claim is lost."""
        with self._writing, open(self.path, "r+b", buffering=0) as file:
            if self.token.encode() in file.read(_SIZE):
                file.seek(0)
                file.write(self._content())

    def release(self) -> None:
        """End the beats and remove the claim."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            if self.token.encode() in self.path.read_bytes():
                self.path.unlink()

    def _take(self) -> Path:
        while True:
            seen = _find(self.folder, self.name)
            for each in seen:
                if not self._is_dead(each):
                    raise FolderInUseError(f"{self.folder} is in use by {each.owner}")
            path = self.folder / f"{self.name}-{seen[-1].number + 1 if seen else 1}.json"
            with suppress(FileExistsError):
                with open(path, "xb", buffering=0) as file:
                    file.write(self._content())
                others = {each[:2] for each in _find(self.folder, self.name) if each.path != path}
                if others <= {each[:2] for each in seen}:
                    for each in seen:
                        with suppress(OSError):  # it does not count any more
                            each.path.unlink()
                    return path
                path.unlink(missing_ok=True)
            _pause()

    def _is_dead(self, found: _Found) -> bool:
        if found.content.get("machine") == self.machine:
            return True
        return self._clock(self.folder) - found.beat > DEAD_AFTER

    def _content(self) -> bytes:
        content = {"token": self.token, "host": platform.node()[:64], "process": os.getpid(), "machine": self.machine}
        return json.dumps(content | {"note": self.note()}).ljust(_SIZE).encode()

    def _beat_until_the_end(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # the owner notices a lost claim when it writes; a file server may come back
                self.beat()


#: The claims of this process.
_held: dict[tuple[Path, str], Claim] = {}


@contextmanager
def claimed(
    folder: Path,
    name: str = "claim",
    wait: bool = False,
    machine: str | None = None,
    clock: Callable[[Path], float] = file_system_time,
) -> Iterator[Claim]:
    """Have the claim of a folder inside the block.

    Args:
        folder: the caller holds its lock.
        name: what the claim's file is called, before the number.
        wait: whether to wait for another owner.
        machine: what stands for this machine; None: :func:`machine_id`.
        clock: the present in seconds, by the folder.

    Raises:
        FolderInUseError: somebody else has a living claim, and ``wait`` is False.
        OSError: the folder cannot be written.
    """
    while True:
        try:
            claim = Claim(folder, name, machine_id() if machine is None else machine, clock)
            break
        except FolderInUseError:
            if not wait:
                raise
        _pause()
    key = folder.absolute(), name
    _held[key] = claim
    try:
        yield claim
    finally:
        _held.pop(key, None)
        claim.release()


def check_claim(folder: Path, name: str = "claim") -> None:
    """Refuse to write into a folder that this process had claimed, and that was taken over.

    Args:
        folder: one that this process has not claimed is not checked.
        name: of the claim.

    Raises:
        FolderInUseError: somebody else has taken it over.
    """
    if claim := _held.get((folder.absolute(), name)):
        claim.check()


def set_note(folder: Path, note: Callable[[], object], name: str = "claim") -> None:
    """Let the claim of a folder say more.

    Args:
        folder: nothing happens if this process has not claimed it.
        note: called at every beat, in another thread; what it returns is written as JSON.
        name: of the claim.
    """
    if claim := _held.get((folder.absolute(), name)):
        claim.note = note


def note_of(folder: Path, name: str = "claim") -> Any:
    """The note of a folder's claim; None if nobody claims the folder, or there is no note.

    Args:
        folder: it need not exist.
        name: of the claim.
    """
    found = _find(folder, name)
    return found[-1].content.get("note") if found else None


def _pause() -> None:
    """Wait a little, so that two takers do not stay in step."""
    threading.Event().wait(secrets.randbelow(50) / 1000)  # training draws from the other generators
