"""Rows of results in one CSV file: written atomically, keyed by every setting, never mixed with other columns."""

from __future__ import annotations

import csv
import fcntl
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gac_sj._utils.files import write_atomically

__all__ = ["Rows", "read_rows"]


class Rows:
    """The rows of one file; several processes may add to it.

    Args:
        path: the CSV file; it and its folder are made when needed.
        key: columns that together say which run a row is.
        columns: all columns, in order.
        defaults: values of columns that an older file may lack.

    Raises:
        ValueError: the file has other columns, or is damaged.
        OSError: the file cannot be read or its folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        key: tuple[str, ...],
        columns: tuple[str, ...],
        defaults: Mapping[str, str] = MappingProxyType({}),
    ):
        self.path, self.key, self.columns, self.defaults = path, key, columns, defaults
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._read()

    def find(self, run: Mapping[str, Any]) -> dict[str, str] | None:
        """The row of a run, or None."""
        wanted = [str(run[name]) for name in self.key]
        return next((row for row in self._read() if [row[name] for name in self.key] == wanted), None)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, unless another process has added the same run meanwhile."""
        with self._locked():
            if not self.find(row):
                self._write([*self._read(), row])

    def replace(self, row: Mapping[str, Any]) -> None:
        """Put a row in the place of that of the same run."""
        with self._locked():
            before = self.find(row)
            self._write([row if other == before else other for other in self._read()])

    def _write(self, rows: list[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())

    def _read(self) -> list[dict[str, str]]:
        return read_rows(self.path, self.columns, self.defaults) if self.path.exists() else []

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.path.parent / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def read_rows(path: Path, columns: tuple[str, ...], defaults: Mapping[str, str]) -> list[dict[str, str]]:
    """The rows of a file, with all columns in order.

    A column that is not in the file has its default, so that results stay valid when a setting is added.

    Raises:
        ValueError: the file has other columns, or is damaged.
        OSError: it cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            found, rows = reader.fieldnames or (), list(reader)
        damaged = any(None in row or None in row.values() for row in rows)
    except (UnicodeDecodeError, csv.Error):
        damaged = True
    if damaged:
        raise ValueError(f"{path} is damaged; mend it, move it away or name another place.")
    if not set(found) <= set(columns) <= {*found, *defaults}:
        raise ValueError(f"{path} has columns of another version; move it away or name another place.")
    return [{name: row.get(name, defaults.get(name)) for name in columns} for row in rows]
