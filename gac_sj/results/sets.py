"""Rows of finished runs as sets: the same settings and images, one row per seed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gac_sj.results.schema import KEY, MEASURED, read_results
from gac_sj.results.tables import label, spread

__all__ = ["SHARED", "Row", "group", "label", "read_rows", "result_files", "spread"]

#: A row as it stands in its file, and that file as ``path``.
Row = dict[str, str]
#: What the rows of one set have in common.
SHARED = tuple(name for name in KEY if name != "seed")


def result_files(place: Path) -> list[Path]:
    """The file itself, or every result.csv and results.csv below a folder.

    Raises:
        ValueError: there is none.
    """
    files = [place] if place.is_file() else sorted(place.rglob("result.csv")) + sorted(place.rglob("results.csv"))
    if not files:
        raise ValueError(
            f"{place} has no result.csv or results.csv; give the folder of finished runs or a file of rows."
        )
    return files


def read_rows(files: Iterable[Path]) -> list[Row]:
    """The rows of all files; a CSV file that holds no results has none.

    Raises:
        ValueError: a file that cannot be read, or rows of another version.
    """
    rows: list[Row] = []
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                if "accuracy_last" in file.readline():
                    rows += [row | {"path": str(path)} for row in read_results(path)]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as rows ({error}); mend it or move it away.") from error
    return rows


def group(rows: Iterable[Row]) -> list[list[Row]]:
    """Sets in the order in which they first appear, each ordered by seed; a copy of a row counts once.

    Raises:
        ValueError: two results of the same settings and seed.
    """
    sets: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        seeds = sets.setdefault(tuple(row[name] for name in SHARED), {})
        first = seeds.setdefault(row["seed"], row)
        if any(first[name] != row[name] for name in MEASURED):
            raise ValueError(
                f"{first['path']} and {row['path']} have different results of the same settings and seed "
                f"{row['seed']}; keep one."
            )
    return [sorted(seeds.values(), key=lambda row: int(row["seed"])) for seeds in sets.values()]
