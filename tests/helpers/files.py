"""What files hold: a folder, to check that a program leaves it alone, and rows."""

import contextlib
import csv
import fcntl
import os
from pathlib import Path

from gac_sj.results.schema import VOLATILE_COLUMNS


def contents(folder: Path, times: bool = False) -> dict[Path, object]:
    """The bytes of all files in a folder and below, by relative path, without lock files.

    Args:
        folder: it may be missing, and is then empty.
        times: also compare when each file was last written, so that rewriting equal bytes shows.
    """
    files = {
        path.relative_to(folder): path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }
    return {name: (path.read_bytes(), path.stat().st_mtime_ns if times else None) for name, path in files.items()}


@contextlib.contextmanager
def held(folder: Path):
    """A folder of a run that another command holds."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".run.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as text."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reproducible(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv, without what depends on time or on the commit."""
    rows = table(folder / "results.csv")
    return [{name: text for name, text in row.items() if name not in (*VOLATILE_COLUMNS, "commit")} for row in rows]
