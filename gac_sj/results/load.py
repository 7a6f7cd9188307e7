"""Reading rows: of runs, of robustness tests and of timings, from one file or from all files below a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gac_sj._utils.errors import UsageError
from gac_sj.results.columns import Schema
from gac_sj.results.robustness import ROBUSTNESS, RobustnessTest
from gac_sj.results.run import Run
from gac_sj.results.schema import RUNS
from gac_sj.results.speed import SPEED, Timing
from gac_sj.results.store import read_rows

__all__ = ["FILE_NAMES", "Results", "load"]

#: The files that are read below a folder.
FILE_NAMES = ("result.csv", "results.csv", "robustness.csv", "speed.csv")
#: A column that only one kind of rows has.
_TELLTALE = {"accuracy_last": RUNS, "corruption": ROBUSTNESS, "speedup": SPEED}


@dataclass(frozen=True)
class Results:
    """Everything that was read.

    Args:
        runs: finished training runs.
        robustness: accuracies on corrupted images and under attack.
        speed: timings.
    """

    runs: list[Run] = field(default_factory=list)
    robustness: list[RobustnessTest] = field(default_factory=list)
    speed: list[Timing] = field(default_factory=list)


def load(*places: Path) -> Results:
    """All rows of some files, and of every result.csv, results.csv, robustness.csv and speed.csv below some folders.

    A copy of a run counts once; of equal ones, the analysed one is kept.

    Args:
        places: files and folders.

    Raises:
        UsageError: no rows; a file that cannot be read or is damaged, that has unknown columns or lacks needed ones,
            or that has a value of another type; two results of the same settings and seed.
    """
    found = Results()
    for place in places:
        files = sorted(each for each in place.rglob("*.csv") if each.name in FILE_NAMES) if place.is_dir() else [place]
        if not files:
            raise UsageError(
                f"{place} has no {', '.join(FILE_NAMES)}", "give the folder of finished runs, or a file of rows"
            )
        for path in files:
            _read(path, found)
    if not (found.runs or found.robustness or found.speed):
        raise UsageError(
            f"{' and '.join(map(str, places))} has no rows", "give the folder of finished runs, or a file of rows"
        )
    return Results(_without_copies(found.runs), found.robustness, found.speed)


def _read(path: Path, found: Results) -> None:
    try:
        rows = read_rows(path, _schema)
    except OSError as error:
        raise UsageError(f"{path} cannot be read as rows ({error.strerror})", "restore it or move it away") from error
    schema = _schema(rows[0] if rows else ())
    if schema is RUNS:
        found.runs.extend(Run.from_row(row, path) for row in rows)
    elif schema is ROBUSTNESS:
        found.robustness.extend(RobustnessTest.from_row(row, path) for row in rows)
    else:
        found.speed.extend(Timing.from_row(row, path) for row in rows)


def _schema(header: Collection[str]) -> Schema:
    """The kind of rows that have a column of this header that only one kind has; otherwise runs."""
    return next((schema for name, schema in _TELLTALE.items() if name in header), RUNS)


def _without_copies(runs: Iterable[Run]) -> list[Run]:
    first: dict[str, Run] = {}
    for run in runs:
        key = repr(run.settings)
        other = first.setdefault(key, run)
        if other.measured != run.measured:
            raise UsageError(
                f"{other.path} and {run.path} have different results of the same settings and seed {run.seed}",
                "keep one",
            )
        if other.analysed is None and run.analysed is not None:
            first[key] = run
    return list(first.values())
