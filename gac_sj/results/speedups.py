"""Chosen timings, and how many times as fast as SpikingJelly they are: a table for a page that has no room for more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gac_sj._utils.errors import UsageError
from gac_sj.results.speed import Timing, against_spikingjelly, measurements, setting_of
from gac_sj.results.table import Cell, Table, values

__all__ = ["speedup_table"]


def speedup_table(timings: Iterable[Timing], lines: Mapping[str, Mapping[str, object]]) -> Table:
    """A line for each chosen timing.

    Args:
        timings: of any benchmarks.
        lines: caption -> columns of the timing and their values; of several such timings the newest counts.

    Raises:
        UsageError: no timing has these values, and was taken beside one of SpikingJelly.
    """
    compared = [
        (timing, ratio)
        for measurement in measurements(timings)
        for timing in measurement
        if (ratio := against_spikingjelly(timing, measurement))
    ]
    chosen = {}
    for caption, wanted in lines.items():
        found = [each for each in compared if all(each[0].value(name) == value for name, value in wanted.items())]
        if not found:
            raise UsageError(
                f"No timing beside SpikingJelly has {', '.join(f'{name} {value}' for name, value in wanted.items())}",
                f"change the line {caption!r}, or measure it",
            )
        chosen[caption] = max(found, key=lambda each: each[0].settings["date"])
    cells = (
        (
            Cell(caption),
            Cell(f"{timing.mode}: {setting_of(timing)}"),
            Cell(timing.measured.device),
            Cell(f"{ratio:.2f}", ratio),
        )
        for caption, (timing, ratio) in chosen.items()
    )
    commits = ", ".join(values([timing for timing, _ in chosen.values()], "commit"))
    head = ("what", "setting", "device", "times as fast as SpikingJelly")
    return Table("Against SpikingJelly", head, tuple(cells), f"Timed in turns; commit {commits}.")
