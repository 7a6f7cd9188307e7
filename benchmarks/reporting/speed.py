"""Speed ratios of benchmarks/speed.py: as a table, and in sentences."""

from __future__ import annotations

from collections.abc import Iterable

from reporting.table import TIMES, Cell, Row, Table, number, values

__all__ = ["speed_sentences", "speed_table"]

#: What the rows of one interleaved measurement differ in.
MEASURED = ("variant", "mode", "median_ms", "low_ms", "high_ms", "speedup", "path")
HEAD = (
    "benchmark", "mode", "variant", "times as fast †", "as", "median (ms) †", "20 % †", "80 % †", "setting", "commit",
    "device",
)  # fmt: skip


def speed_table(rows: Iterable[Row]) -> Table:
    """A line for every variant.

    Raises:
        ValueError: a number is damaged, or a measurement has nothing that it is compared with.
    """
    lines = []
    for measurement in _measurements(rows):
        for mode in values(measurement, "mode"):
            baseline, _ = _split(measurement, mode)
            for row in measurement:
                if row["mode"] == mode:
                    times = [number(row, name) for name in ("median_ms", "low_ms", "high_ms")]
                    speedup = Cell(f"{number(row, 'speedup'):.2f}", number(row, "speedup"))
                    lines.append((
                        *map(Cell, (row["benchmark"], mode, row["variant"])), speedup, Cell(baseline["variant"]),
                        *(Cell(f"{value:,.2f}", value) for value in times),
                        *map(Cell, (_setting(row), row["commit"], row["device"])),
                    ))  # fmt: skip
    return Table("Speed of parts", HEAD, tuple(lines), f"Variants were timed in turns.\n{TIMES}")


def speed_sentences(rows: Iterable[Row]) -> list[str]:
    """One for each measurement: every ratio, what was measured, commit and device.

    Raises:
        ValueError: see :func:`speed_table`.
    """
    sentences = []
    for measurement in _measurements(rows):
        first = measurement[0]
        ratios = []
        for mode in values(measurement, "mode"):
            baseline, others = _split(measurement, mode)
            faster = ", ".join(f"`{row['variant']}` {number(row, 'speedup'):.2f} times" for row in others)
            ratios.append(f"{mode}, {faster} as fast as `{baseline['variant']}`")
        sentences.append(
            f"`python benchmarks/speed.py {first['benchmark']}` ({_setting(first)}, timed in turns): "
            f"{'; '.join(ratios)} ({first['device']}, commit {first['commit']})."
        )
    return sentences


def _measurements(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple((name, text) for name, text in row.items() if name not in MEASURED), []).append(row)
    return list(groups.values())


def _split(measurement: list[Row], mode: str) -> tuple[Row, list[Row]]:
    """What the variants are compared with, and they."""
    rows = [row for row in measurement if row["mode"] == mode]
    baseline = next((row for row in rows if number(row, "speedup") == 1), None)
    if baseline is None:
        raise ValueError(
            f"{rows[0].get('path', 'A file')} has no variant of {rows[0]['benchmark']}, {mode}, with speedup 1, which "
            "the others are compared with; measure again."
        )
    return baseline, [row for row in rows if row is not baseline]


def _setting(row: Row) -> str:
    steps = f"T = {row['T']}, " if row.get("T", "0") != "0" else ""
    return f"{steps}batch {row['batch']}, {row['size']}x{row['size']} pixels, {row['repeats']} timings"
