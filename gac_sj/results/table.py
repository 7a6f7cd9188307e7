"""What a table of a report is: headings and cells, columns that average over rows, Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gac_sj.results.schema import VOLATILE_COLUMNS

__all__ = [
    "NOTHING", "TIMED", "TIMES", "Cell", "Column", "Row", "Steps", "Table", "Text", "column", "json_of", "number",
    "tabulate", "values",
]  # fmt: skip

#: A row as it stands in its file; in those that were read from a folder, that file as ``path``.
Row = Mapping[str, str]
#: Stands for what no row has.
NOTHING = "-"
#: Stands behind the heading of a column of times or speeds.
TIMED = " †"
TIMES = "† A measured time or speed: it differs from run to run, and by what else the machine did."


@dataclass(frozen=True)
class Cell:
    """What a table shows, and the number that it is sorted by; without one it is sorted as text."""

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Table:
    """Headings, lines of equally many cells, and a line on what the numbers rest on."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured of what it shows."""
        return all(cell.text == NOTHING for line in self.lines for cell in line[2:])

    def markdown(self) -> str:
        """The table alone, without title and note."""
        lines = [f"| {' | '.join(_escape(cell.text) for cell in line)} |" for line in self.lines]
        return "\n".join([f"| {' | '.join(map(_escape, self.head))} |", "|---" * len(self.head) + "|", *lines])


@dataclass(frozen=True)
class Column:
    """A number of every row: mean ± standard deviation; sorted by the mean.

    An ``exact`` number, such as a count of parameters, has no deviation where it is the same in all rows.
    """

    title: str
    value: Callable[[Row], float | None]
    digits: int = 2
    exact: bool = False

    def cell(self, rows: list[Row]) -> Cell:
        """Over the rows that have it; how many those are is said where it is not all."""
        found = [value for row in rows if (value := self.value(row)) is not None]
        if not found:
            return Cell(NOTHING)
        mean = statistics.mean(found)
        text = f"{mean:,.{self.digits}f}"
        if self.exact and len(set(found)) == 1:
            text = text.rstrip("0").rstrip(".") if "." in text else text
        elif len(found) > 1:
            text += f" ± {statistics.stdev(found):,.{self.digits}f}"
        return Cell(text + _share(found, rows), mean)


@dataclass(frozen=True)
class Steps:
    """A list with a number for each time step: the mean of every step, in a unit; sorted by the last."""

    title: str
    name: str
    digits: int = 1
    unit: float = 1.0

    def cell(self, rows: list[Row]) -> Cell:
        """Over the rows that have it, as :meth:`Column.cell`."""
        found = [steps for row in rows if (steps := json_of(row, self.name)) is not None]
        if not any(found):  # of a single step there is no change
            return Cell(NOTHING)
        means = [statistics.mean(step) / self.unit for step in zip(*found, strict=True)]
        return Cell(", ".join(f"{mean:.{self.digits}f}" for mean in means) + _share(found, rows), means[-1])


@dataclass(frozen=True)
class Text:
    """Words of every row."""

    title: str
    name: str

    def cell(self, rows: list[Row]) -> Cell:
        """What the rows have, each once."""
        return Cell(", ".join(values(rows, self.name)) or NOTHING)


def column(title: str, name: str, digits: int = 2, *, unit: float = 1.0, exact: bool = False) -> Column:
    """The number that rows have under a name, in a unit; marked where it is a time or a speed."""

    def value(row: Row) -> float | None:
        found = number(row, name)
        return None if found is None else found / unit

    return Column(title + TIMED if name in VOLATILE_COLUMNS else title, value, digits, exact)


def tabulate(
    title: str, groups: Mapping[str, list[Row]], columns: Sequence[Column | Steps | Text], note: str = ""
) -> Table:
    """A line for each group of rows."""
    head = ("encoder", "n", *(each.title for each in columns))
    if any(name.endswith(TIMED) for name in head):
        note = f"{note}\n{TIMES}".strip()
    lines = (
        (Cell(name), Cell(str(len(rows)), len(rows)), *(each.cell(rows) for each in columns))
        for name, rows in groups.items()
    )
    return Table(title, head, tuple(lines), note)


def values(rows: Iterable[Row], name: str) -> list[str]:
    """What rows have under a name, each once, in order."""
    return list(dict.fromkeys(text for row in rows if (text := row.get(name))))


def number(row: Row, name: str) -> float | None:
    """A number of a row; None where it was not measured, or is none ("nan", such as the first spike where none is).

    Raises:
        ValueError: something else stands there.
    """
    text = row.get(name)
    try:
        return float(text) if text and text != "nan" else None
    except ValueError:
        raise _damage(row, name, "a number") from None


def json_of(row: Row, name: str) -> list | dict | None:
    """A list or dict of a row; None where it was not measured.

    Raises:
        ValueError: something else stands there.
    """
    text = row.get(name)
    try:
        found = json.loads(text) if text else None
    except ValueError:
        found = text
    if found is not None and not isinstance(found, list | dict):
        raise _damage(row, name, "a list or dict in JSON")
    return found


def _damage(row: Row, name: str, needed: str) -> ValueError:
    place = row.get("path", "A row")
    return ValueError(f"{place} has {row[name][:40]!r} as {name}, where {needed} belongs; mend it or move it away.")


def _share(found: list, rows: list[Row]) -> str:
    return "" if len(found) == len(rows) else f" (n = {len(found)})"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
