"""Columns of rows: the fields of a record, declared once, with their types and what they mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import isfinite
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from gac_sj._utils.configuration import is_switch, plain_type
from gac_sj._utils.errors import UsageError
from gac_sj._utils.reading import parse_json

__all__ = ["ColumnInfo", "Schema", "as_row", "column", "columns_of", "parse", "text_of"]

_REQUIRED = object()
_TYPES = {
    int: "an integer",
    float: "a finite number",
    bool: "True or False",
    list: "a JSON list",
    dict: "a JSON object",
}


@dataclass(frozen=True)
class ColumnInfo:
    """One column of a file of rows.

    Args:
        name: heading in the file, and name of the record's field.
        hint: type of its values; None among them means "not measured", an empty cell.
        help: what it says, in one phrase.
        key: whether it is among the columns that rows are found by.
        volatile: whether it differs between two runs of one command on one machine: times, speeds, dates.
        absent: text that stands for it in rows of a file without the column; None if every file must have it.
    """

    name: str
    hint: Any
    help: str = ""
    key: bool = False
    volatile: bool = False
    absent: str | None = None


def column(help: str, *, volatile: bool = False, absent: Any = _REQUIRED) -> Any:
    """A field of a record that is a column of its file.

    Args:
        help: what it says, in one phrase.
        volatile: whether it differs between two runs of one command on one machine.
        absent: value for rows of files that were written before the column was added; without it, files must have it.
    """
    return dataclasses.field(metadata={"help": help, "volatile": volatile, "absent": absent})


@cache
def columns_of(record: type, key: bool = False, absent: str | None = None) -> tuple[ColumnInfo, ...]:
    """The columns of a record whose fields were made by :func:`column`.

    Args:
        record: a dataclass.
        key: whether rows are found by these columns.
        absent: text that stands for columns that declare no value of their own in rows of files that lack them.
    """
    hints = get_type_hints(record)
    found = []
    for field in dataclasses.fields(record):
        about = field.metadata
        declared = absent if about["absent"] is _REQUIRED else text_of(about["absent"], missing="")
        found.append(ColumnInfo(field.name, hints[field.name], about["help"], key, about["volatile"], declared))
    return tuple(found)


@dataclass(frozen=True)
class Schema:
    """The columns of one kind of rows, in the order of the file.

    Args:
        kind: what the rows are of, for messages.
        columns: keys first.
    """

    kind: str
    columns: tuple[ColumnInfo, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The header of a file."""
        return tuple(each.name for each in self.columns)

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The columns that rows are found by."""
        return tuple(each.name for each in self.columns if each.key)

    @cached_property
    def volatile(self) -> tuple[str, ...]:
        """The columns that differ between two runs of one command on one machine."""
        return tuple(each.name for each in self.columns if each.volatile)

    def check_header(self, found: Iterable[str], path: Path) -> None:
        """Refuse unknown columns, and missing ones that have no value for older files.

        Args:
            found: the header of a file.
            path: that file.

        Raises:
            UsageError: the message names the columns.
        """
        found = tuple(found)
        unknown = [name for name in found if name not in self.names]
        missing = [each.name for each in self.columns if each.absent is None and each.name not in found]
        problems = [f"has unknown columns: {_listed(unknown)}"] if unknown else []
        problems += [f"lacks columns: {_listed(missing)}"] if missing else []
        if problems:
            raise UsageError(
                f"{path}, read as rows of {self.kind}, {' and '.join(problems)}",
                "rename the columns, make the rows again, or move it away",
            )


def parse(row: Mapping[str, str], columns: Iterable[ColumnInfo], path: Path | None = None) -> dict[str, Any]:
    """The values of some columns of a row.

    Args:
        row: texts by column.
        columns: those to read.
        path: the file of the row, for messages.

    Raises:
        UsageError: a value of another type; the message names file and column.
    """
    return {each.name: _value(row[each.name], each, path) for each in columns}


def as_row(record: Any) -> dict[str, Any]:
    """The cells of a record whose fields were made by :func:`column`, as they are written."""
    values = ((field.name, getattr(record, field.name)) for field in dataclasses.fields(record))
    return {
        name: "" if value is None else json.dumps(value) if isinstance(value, list | dict) else value
        for name, value in values
    }


def text_of(value: Any, missing: str = "None") -> str:
    """A value as it is written into a row.

    Args:
        value: of any column's type.
        missing: what stands for None: settings have "None", measurements an empty cell.
    """
    if value is None:
        return missing
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _finite(number: float) -> float:
    if not isfinite(number):
        raise ValueError
    return number


def _value(text: str, about: ColumnInfo, path: Path | None) -> Any:
    kind, optional = plain_type(about.hint)
    # the first spike of an encoder without spikes is nan
    if optional and text in ("", "None", "nan"):
        return None
    try:
        if kind is str:
            return {"True": True, "False": False}.get(text, text) if is_switch(about.hint) else text
        if kind is bool:
            return {"True": True, "False": False}[text]
        if kind in (int, float):
            return _finite(kind(text))
        hints = get_args(about.hint) if optional else (about.hint,)
        if _fits(found := parse_json(text), next(hint for hint in hints if get_origin(hint) is kind)):
            return found
    except (ValueError, KeyError, OverflowError):
        pass
    raise UsageError(
        f"{path or 'A row'} has {text[:40]!r} as {about.name}, which must be {_TYPES[kind]}", "fix it or move it away"
    )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type of a hint, everything in it included; a tuple is a list of fixed length."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    if kind in (list, tuple):
        hints = inner if kind is tuple else inner * len(value) if isinstance(value, list) else ()
        return isinstance(value, list) and len(value) == len(hints) and all(map(_fits, value, hints))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
