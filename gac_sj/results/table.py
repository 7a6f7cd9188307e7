"""Tables: headings and cells, columns that average over records, Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gac_sj._utils.errors import UsageError
from gac_sj.results.columns import text_of
from gac_sj.results.run import Record
from gac_sj.results.schema import VOLATILE_COLUMNS

__all__ = [
    "MISSING",
    "TIMED",
    "TIMES",
    "Cell",
    "Mean",
    "Steps",
    "Table",
    "Words",
    "escape",
    "markdown_table",
    "mean",
    "tabulate",
    "values",
]

#: Stands for what no record has.
MISSING = "-"
#: Follows the heading of a column of times or speeds.
TIMED = " †"
TIMES = "† A measured time or speed: it differs from run to run, and with the load of the machine."


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: what the table shows.
        key: the number that it is sorted by; without one it is sorted as text.
    """

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Table:
    """Headings, lines of equally many cells, and a note on what the numbers rest on.

    Args:
        title: of the table.
        head: its headings.
        lines: its cells.
        note: one or more lines of text.
    """

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it shows nothing that was measured; its note says why."""
        return all(cell.text == MISSING for line in self.lines for cell in line[2:])

    def markdown(self) -> str:
        """The table alone, without title and note."""
        return markdown_table(self.head, ([cell.text for cell in line] for line in self.lines))

    @property
    def markdown_note(self) -> str:
        """The note in Markdown."""
        return "\n".join(map(escape, self.note.splitlines()))


@dataclass(frozen=True)
class Mean:
    """A number of every record: mean ± standard deviation, sorted by the mean.

    Args:
        title: heading.
        value: the number of a record; None if it was not measured, which one that is not finite counts as.
        digits: decimals.
        exact: whether the number is a count, which is shown without a standard deviation if all records agree.
    """

    title: str
    value: Callable[[Any], float | None]
    digits: int = 2
    exact: bool = False

    def cell(self, records: Sequence[Record]) -> Cell:
        """The cell of some records; "(n = 2)" says how many of them have the number, if not all do."""
        values = map(self.value, records)
        found = [value for value in values if value is not None and isfinite(value)]
        if not found:
            return Cell(MISSING)
        mean = statistics.mean(found)
        text = f"{mean:,.{self.digits}f}"
        if self.exact and len(set(found)) == 1:
            text = text.rstrip("0").rstrip(".") if "." in text else text
        elif len(found) > 1:
            text += f" ± {statistics.stdev(found):,.{self.digits}f}"
        return Cell(text + _count(found, records), mean)


@dataclass(frozen=True)
class Steps:
    """A list with a number for each time step: the mean of every step, sorted by the last one.

    Args:
        title: heading.
        name: the column of the list.
        digits: decimals.
        unit: what the numbers are divided by.
    """

    title: str
    name: str
    digits: int = 1
    unit: float = 1.0

    def cell(self, records: Sequence[Record]) -> Cell:
        """The cell of some records, as :meth:`Mean.cell`."""
        found = [steps for record in records if (steps := record.value(self.name)) is not None]
        if not any(found):  # a single step has no change
            return Cell(MISSING)
        if len(set(map(len, found))) > 1:
            raise UsageError(
                f"Rows of equal settings have different numbers of steps in {self.name}", "make them again"
            )
        means = [statistics.mean(step) / self.unit for step in zip(*found)]
        return Cell(", ".join(f"{mean:.{self.digits}f}" for mean in means) + _count(found, records), means[-1])


@dataclass(frozen=True)
class Words:
    """A word of every record.

    Args:
        title: heading.
        name: the column of the word.
    """

    title: str
    name: str

    def cell(self, records: Sequence[Record]) -> Cell:
        """The cell of some records: their words, each once."""
        return Cell(", ".join(values(records, self.name)) or MISSING)


def mean(title: str, name: str, digits: int = 2, *, unit: float = 1.0, exact: bool = False) -> Mean:
    """A table column of a column of the rows; its heading is marked if that is a time or a speed.

    Args:
        title: heading.
        name: the column of the rows.
        digits: decimals.
        unit: what the numbers are divided by.
        exact: see :class:`Mean`.
    """

    def value(record: Record) -> float | None:
        found = record.value(name)
        return None if found is None else found / unit

    return Mean(title + TIMED if name in VOLATILE_COLUMNS else title, value, digits, exact)


def tabulate(
    title: str, groups: Mapping[str, Sequence[Record]], columns: Sequence[Mean | Steps | Words], note: str = ""
) -> Table:
    """A table with a line for each group of records.

    Args:
        title: of the table.
        groups: the records of each line, by the encoder's label.
        columns: behind those of label and number.
        note: see :class:`Table`.
    """
    head = ("encoder", "n", *(each.title for each in columns))
    if any(name.endswith(TIMED) for name in head):
        note = f"{note}\n{TIMES}".strip()
    lines = (
        (Cell(name), Cell(str(len(records)), len(records)), *(each.cell(records) for each in columns))
        for name, records in groups.items()
    )
    return Table(title, head, tuple(lines), note)


def values(records: Iterable[Record], name: str) -> list[str]:
    """The texts that records have in a column, each once, in order; empty ones are left out.

    Args:
        records: of any kind.
        name: of the column.
    """
    texts = (text_of(record.value(name), missing="") for record in records)
    return list(dict.fromkeys(filter(None, texts)))


def escape(text: str) -> str:
    """Text for one line of Markdown, in a table or not, that is neither HTML nor another cell.

    Args:
        text: of a row.
    """
    return " ".join(text.splitlines()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def markdown_table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table.

    Args:
        head: headings.
        lines: texts of the cells.
    """
    head = tuple(head)
    rows = [f"| {' | '.join(map(escape, line))} |" for line in lines]
    return "\n".join([f"| {' | '.join(map(escape, head))} |", "|---" * len(head) + "|", *rows])


def _count(found: Sequence[object], records: Sequence[Record]) -> str:
    return "" if len(found) == len(records) else f" (n = {len(found)})"
