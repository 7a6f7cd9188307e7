"""The files of rows below a folder: results of runs, robustness, speed; also of older versions."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gac_sj.results.schema import ANALYSED, KEY, MEASURED, read_results
from gac_sj.results.store import read_rows
from gac_sj.results.table import Row, number
from gac_sj.results.tables import settings_of

__all__ = ["Found", "read_file", "read_folder"]

NAMES = ("result.csv", "results.csv", "robustness.csv", "speed.csv")
#: What a file must have, whatever else it has; the first tells it from the others.
NEEDED = {
    "results": ("accuracy_last", "accuracy_best", "model", "encoder", "form", "seed", "dataset"),
    "robustness": ("corruption", "severity", "accuracy", "model", "encoder", "form", "seed", "dataset"),
    "speed": ("speedup", "benchmark", "variant", "mode", "median_ms", "date", "commit", "device"),
}
NUMBERS = ("accuracy_last", "accuracy_best", "seed", "severity", "accuracy", "speedup", "median_ms")


@dataclass(frozen=True)
class Found:
    """Rows by what they are of; each has its file as ``path``."""

    results: list[Row] = field(default_factory=list)
    robustness: list[Row] = field(default_factory=list)
    speed: list[Row] = field(default_factory=list)


def read_folder(place: Path) -> Found:
    """All rows of a file, or of the files below a folder; a copy of a result counts once.

    Raises:
        ValueError: there are none; a file that cannot be read, is damaged or lacks what is needed; two results of the
            same settings and seed.
    """
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*.csv") if path.name in NAMES)
    found = Found()
    for path in files:
        kind, rows = read_file(path)
        getattr(found, kind).extend(rows)
    if not (found.results or found.robustness or found.speed):
        raise ValueError(f"{place} has no rows ({', '.join(NAMES)}); name the file or folder of finished runs.")
    return Found(_without_copies(found.results), found.robustness, found.speed)


def read_file(path: Path) -> tuple[str, list[Row]]:
    """What the rows of a file are of ("results", "robustness" or "speed"), and the rows.

    Raises:
        ValueError: it cannot be read, is damaged, or was written by another version.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            columns = tuple(next(csv.reader(file), ()))
        kind = next((kind for kind, (first, *_) in NEEDED.items() if first in columns), "results")
        if missing := [name for name in NEEDED[kind] if name not in columns]:
            raise ValueError(
                f"{path} is of another version: it has no {', '.join(missing)}; make its rows again with this version, "
                "or move it away."
            )
        # results of older versions have columns that are no longer known, and are shown with those that they have
        known = kind == "results" and set(columns) <= {*KEY, *MEASURED, *ANALYSED}
        rows = read_results(path) if known else read_rows(path, columns, {})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as rows ({error}); mend it or move it away.") from error
    rows = [row | {"path": str(path)} for row in rows]  # behind all others, so that it is no setting
    for row in rows:
        for name in NEEDED[kind]:
            if name in NUMBERS and number(row, name) is None:
                raise ValueError(f"{path} has a row without {name}; mend it or move it away.")
    return kind, rows


def _without_copies(rows: Iterable[Row]) -> list[Row]:
    first: dict[tuple[str | tuple[str, str], ...], Row] = {}
    for row in rows:
        key = (row["model"], *settings_of(row, but=()).items())
        other = first.setdefault(key, row)
        if any(other.get(name) != row.get(name) for name in MEASURED):
            raise ValueError(
                f"{other['path']} and {row['path']} have different results of the same settings and seed "
                f"{row['seed']}; keep one."
            )
        if not other.get("analysed_images"):
            first[key] = row
    return list(first.values())
