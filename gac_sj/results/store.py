"""Rows in one CSV file: written atomically, found by their key columns, never mixed with other columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from gac_sj._utils.claims import claimed
from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import as_utf8, locked, read_text, refuse_link, write_atomically
from gac_sj.results.columns import Schema

__all__ = ["Rows", "read_rows"]


class Rows:
    """The rows of one file; several processes may add to it, also of several machines.

    The file is read again only after another process has changed it. Each row is kept as the file's text, because few
    are looked at.

    Args:
        path: the CSV file; it and its folder are made when needed.
        schema: its columns.

    Raises:
        UsageError: the file is damaged, has other columns, or is a symbolic link.
        OSError: the file cannot be read or its folder cannot be written.
    """

    def __init__(self, path: Path, schema: Schema):
        self.path, self.schema = path, schema
        self._texts: list[str] = []
        self._places: dict[str, int] = {}  # of the first row of each key
        self._version: tuple[int, ...] = ()
        refuse_link(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._update()

    def find(self, run: Mapping[str, Any]) -> dict[str, str] | None:
        """The row of a run.

        Args:
            run: values of the key columns; others are ignored.

        Returns:
            All its cells by column, or None if there is no such row.
        """
        self._update()
        place = self._places.get(self._key(run))
        if place is None:
            return None
        cells = next(csv.reader(io.StringIO(self._texts[place], newline="")))
        return dict(zip(self.schema.names, cells, strict=True))

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, unless another process has added the same run meanwhile.

        Args:
            row: its cells by column.
        """
        with self._locked():
            self._update()
            if (key := self._key(row)) not in self._places:
                self._write([*self._texts, self._text(row)])
                self._places[key] = len(self._texts) - 1

    def replace(self, row: Mapping[str, Any]) -> None:
        """Replace the row of a run, or add it if it is gone.

        Args:
            row: the cells of the new row, whose key columns are those of the old one.
        """
        with self._locked():
            self._update()
            place = self._places.setdefault(self._key(row), len(self._texts))
            self._write([*self._texts[:place], self._text(row), *self._texts[place + 1 :]])

    def _update(self) -> None:
        """Read the file if it was changed."""
        version = _version(self.path)  # before reading, so that a change meanwhile is read next time
        if version == self._version:
            return
        texts: list[str] = []
        places: dict[str, int] = {}
        if version:
            text = read_text(self.path)
            header = next(_records(text, self.path))[0]
            if tuple(header) != self.schema.names:
                text = self._file(map(self._text, _complete(_records(text, self.path), self.schema, self.path)))
            for cells, record in islice(_records(text, self.path), 1, None):
                places.setdefault(repr(cells[: len(self.schema.key)]), len(texts))
                texts.append(record)
        self._texts, self._places, self._version = texts, places, version

    def _write(self, texts: list[str]) -> None:
        write_atomically(self.path, self._file(texts))
        self._texts, self._version = texts, _version(self.path)

    def _file(self, texts: Iterable[str]) -> str:
        return "\n".join([",".join(self.schema.names), *texts, ""])

    def _text(self, row: Mapping[str, Any]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.schema.names, lineterminator="").writerow(row)
        return text.getvalue()

    def _key(self, run: Mapping[str, Any]) -> str:
        return repr([as_utf8(str(run[name])).decode() for name in self.schema.key])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.path.parent / ".lock"), claimed(self.path.parent, ".lock", wait=True):
            yield


def read_rows(path: Path, schema: Schema | Callable[[Collection[str]], Schema]) -> list[dict[str, str]]:
    """The rows of a file, with all columns of their schema in order.

    A column that the file lacks has its declared value, so that rows stay valid when a column is added.

    Args:
        path: the CSV file.
        schema: its columns, or what chooses them by the file's header.

    Raises:
        UsageError: the file is damaged or empty, has unknown columns, or lacks columns without a declared value.
        OSError: it cannot be read.
    """
    text = read_text(path)
    if not isinstance(schema, Schema):
        schema = schema(next(_records(text, path))[0])
    return list(_complete(_records(text, path), schema, path))


def _records(text: str, path: Path) -> Iterator[tuple[list[str], str]]:
    """The cells and the text of each row, the header first.

    Raises:
        UsageError: they do not have equally many cells, or there is no header.
    """
    lines = io.StringIO(text, newline="").readlines()
    reader, first, width = csv.reader(lines, strict=True), 0, 0
    try:
        for cells in reader:
            if cells:  # not an empty line
                width = width or len(cells)
                if len(cells) != width:
                    raise csv.Error
                yield cells, "".join(lines[first : reader.line_num]).rstrip("\r\n")
            first = reader.line_num
        if not width:
            raise csv.Error
    except csv.Error as error:
        raise UsageError(f"{path} is damaged or empty", "restore it, move it away or name another file") from error


def _complete(records: Iterator[tuple[list[str], str]], schema: Schema, path: Path) -> Iterator[dict[str, str]]:
    """All cells of each row by column."""
    header, _ = next(records)
    schema.check_header(header, path)
    missing = {each.name: each.absent or "" for each in schema.columns}
    for cells, _ in records:
        yield missing | dict(zip(header, cells, strict=True))


def _version(path: Path) -> tuple[int, ...]:
    """What differs between two contents of a file; empty if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
