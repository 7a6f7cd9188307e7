"""Rows in one CSV file: written atomically, found by their key columns, never mixed with other columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import locked, read_text, write_atomically
from gac_sj.results.columns import Schema

__all__ = ["Rows", "read_rows"]


class Rows:
    """The rows of one file; several processes may add to it.

    Args:
        path: the CSV file; it and its folder are made when needed.
        schema: its columns.

    Raises:
        UsageError: the file is damaged, or has other columns.
        OSError: the file cannot be read or its folder cannot be written.
    """

    def __init__(self, path: Path, schema: Schema):
        self.path, self.schema = path, schema
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._read()

    def find(self, run: Mapping[str, Any]) -> dict[str, str] | None:
        """The row of a run.

        Args:
            run: values of the key columns; others are ignored.

        Returns:
            All its cells by column, or None if there is no such row.
        """
        return self._find(run, self._read())

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, unless another process has added the same run meanwhile.

        Args:
            row: its cells by column.
        """
        with self._locked():
            rows = self._read()
            if not self._find(row, rows):
                self._write([*rows, row])

    def replace(self, row: Mapping[str, Any]) -> None:
        """Replace the row of a run.

        Args:
            row: the cells of the new row, whose key columns are those of the old one.
        """
        with self._locked():
            rows = self._read()
            before = self._find(row, rows)
            self._write([row if other == before else other for other in rows])

    def _find(self, run: Mapping[str, Any], rows: list[dict[str, str]]) -> dict[str, str] | None:
        key = self.schema.key
        wanted = [str(run[name]) for name in key]
        return next((row for row in rows if [row[name] for name in key] == wanted), None)

    def _write(self, rows: list[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.schema.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())

    def _read(self) -> list[dict[str, str]]:
        return read_rows(self.path, self.schema) if self.path.exists() else []

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.path.parent / ".lock")


def read_rows(path: Path, schema: Schema) -> list[dict[str, str]]:
    """The rows of a file, with all columns of its schema in order.

    A column that the file lacks has its declared value, so that rows stay valid when a column is added.

    Args:
        path: the CSV file.
        schema: its columns.

    Raises:
        UsageError: the file is damaged or empty, has unknown columns, or lacks columns without a declared value.
        OSError: it cannot be read.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        header, rows = reader.fieldnames or (), list(reader)
        damaged = not header or any(None in row or None in row.values() for row in rows)
    except csv.Error:
        damaged = True
    if damaged:
        raise UsageError(f"{path} is damaged or empty", "restore it, move it away or name another file")
    schema.check_header(header, path)
    return [{each.name: row.get(each.name, each.absent or "") for each in schema.columns} for row in rows]
