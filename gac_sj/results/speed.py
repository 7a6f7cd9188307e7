"""Timings of parts: their rows, which benchmarks/speed.py writes, and as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gac_sj._utils.errors import UsageError
from gac_sj.results.columns import Schema, column, columns_of, parse
from gac_sj.results.run import Record
from gac_sj.results.table import MISSING, TIMED, TIMES, Cell, Table, values

__all__ = [
    "SPEED", "SpeedKey", "SpeedMeasured", "Timing", "copy_share", "kept_megabytes", "measurements", "peak_megabytes",
    "product_share", "setting_of", "speed_table", "split",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SpeedKey:
    """What a timing is of."""

    benchmark: str = column("sub-command of benchmarks/speed.py")
    variant: str = column("what was timed")
    mode: str = column("forward, forward+backward, or pass over a data set")
    model: str = column("network, of benchmarks that have one", absent="")
    dtype: str = column("float32, bfloat16 or float16", absent="")
    T: int | None = column("time steps; 0 if there are none")
    batch: int | None = column("images at a time")
    size: int = column("side of the images, or number of elements")
    channels: int | None = column("of the encoder's stem")
    repeats: int = column("number of timings")
    date: str = column("of the measurement, UTC")


@dataclass(frozen=True, kw_only=True)
class SpeedMeasured:
    """What was measured of it. Rates of a copy and of a matrix product are those of the same run."""

    ops_path: str = column("what ran the neurons", absent="")
    median_ms: float = column("median time", volatile=True)
    low_ms: float = column("20 % quantile", volatile=True)
    high_ms: float = column("80 % quantile", volatile=True)
    speedup: float = column("median time of the baseline over that of the variant", volatile=True)
    bytes_per_s: float | None = column("memory throughput", volatile=True, absent=None)
    copy_bytes_per_s: float | None = column("that of a copy", volatile=True, absent=None)
    flop_per_s: float | None = column("arithmetic throughput", volatile=True, absent=None)
    product_flop_per_s: float | None = column("that of a matrix product", volatile=True, absent=None)
    images_per_s: float | None = column("images per second", volatile=True, absent=None)
    top1_agreement: float | None = column("images whose first class is that of float32, in percent", absent=None)
    logit_difference: float | None = column("largest difference to a logit of float32, relative", absent=None)
    page_faults: float | None = column("median number of pages newly given by the system", volatile=True, absent=None)
    saved_bytes: float | None = column("kept for the backward pass", absent=None)
    peak_memory: float | None = column("largest allocation, in bytes", absent=None)
    commit: str = column("of the code; -dirty is appended if files differ from it")
    versions: str = column("Python and the packages that matter")
    device: str = column("product name; of a CPU also the number of threads")


_KEY = columns_of(SpeedKey, key=True)
_MEASURED = columns_of(SpeedMeasured)
#: The columns of speed.csv.
SPEED = Schema("speed", _KEY + _MEASURED)


@dataclass(frozen=True)
class Timing(Record):
    """The time of one variant: a row of speed.csv.

    Args:
        settings: values of the columns of :class:`SpeedKey`, by name.
        path: see :class:`gac_sj.results.run.Record`.
        measured: what was measured.
    """

    measured: SpeedMeasured

    @classmethod
    def from_row(cls, row: Mapping[str, str], path: Path | None = None) -> Timing:
        """Parse a row.

        Args:
            row: all cells by column.
            path: the file that it comes from.

        Raises:
            UsageError: a cell has a value of another type; the message names file and column.
        """
        return cls(parse(row, _KEY, path), path, SpeedMeasured(**parse(row, _MEASURED, path)))

    @property
    def variant(self) -> str:
        """What was timed."""
        return self.settings["variant"]

    @property
    def mode(self) -> str:
        """Forward pass, both passes, or a pass over a data set."""
        return self.settings["mode"]


#: Variants that others are compared with; another variant may be as fast.
_BASELINES = ("naive", "timm")
_HEAD = (
    "benchmark", "mode", "variant", f"times as fast{TIMED}", "as", f"median (ms){TIMED}", f"20 %{TIMED}",
    f"80 %{TIMED}",
)  # fmt: skip
_TAIL = ("setting", "commit", "device")
_MEGABYTE = 1e6


def _share(rate: str, limit: str) -> Callable[[Timing], float | None]:
    def value(timing: Timing) -> float | None:
        reached, most = timing.value(rate), timing.value(limit)
        return None if reached is None or not most else 100 * reached / most

    return value


def _in_units(name: str, unit: float) -> Callable[[Timing], float | None]:
    def value(timing: Timing) -> float | None:
        found = timing.value(name)
        return None if found is None else found / unit

    return value


copy_share = _share("bytes_per_s", "copy_bytes_per_s")
product_share = _share("flop_per_s", "product_flop_per_s")
kept_megabytes = _in_units("saved_bytes", _MEGABYTE)
peak_megabytes = _in_units("peak_memory", _MEGABYTE)
#: What only some benchmarks measure: heading, digits, value.
_FURTHER: tuple[tuple[str, int, Callable[[Timing], float | None]], ...] = (
    (f"GB/s{TIMED}", 1, _in_units("bytes_per_s", 1e9)),
    (f"of a copy (%){TIMED}", 0, copy_share),
    (f"TFLOP/s{TIMED}", 2, _in_units("flop_per_s", 1e12)),
    (f"of a matrix product (%){TIMED}", 0, product_share),
    (f"images/s{TIMED}", 1, _in_units("images_per_s", 1)),
    ("top-1 as float32 (%)", 1, _in_units("top1_agreement", 1)),
    ("logits off by (%)", 3, _in_units("logit_difference", 0.01)),
    (f"page faults{TIMED}", 0, _in_units("page_faults", 1)),
    ("kept for backward (MB)", 1, kept_megabytes),
    ("peak memory (MB)", 0, peak_megabytes),
)


def speed_table(timings: Iterable[Timing]) -> Table:
    """A table with a line for every timing.

    Args:
        timings: of any benchmarks.

    Raises:
        UsageError: a measurement has no baseline.
    """
    groups = measurements(timings)
    everything = [timing for measurement in groups for timing in measurement]
    has_paths = any(timing.measured.ops_path for timing in everything)
    further = [each for each in _FURTHER if any(each[2](timing) is not None for timing in everything)]
    lines = []
    for measurement in groups:
        for mode in values(measurement, "mode"):
            baseline, _ = split(measurement, mode)
            for timing in measurement:
                if timing.mode == mode:
                    found = timing.measured
                    times = (found.median_ms, found.low_ms, found.high_ms)
                    lines.append((
                        *map(Cell, (timing.settings["benchmark"], mode, timing.variant)),
                        Cell(f"{found.speedup:.2f}", found.speedup), Cell(baseline.variant),
                        *(Cell(f"{value:,.2f}", value) for value in times),
                        *([Cell(found.ops_path or MISSING)] if has_paths else []),
                        *(_cell(value(timing), digits) for _, digits, value in further),
                        *map(Cell, (setting_of(timing), found.commit, found.device)),
                    ))  # fmt: skip
    head = (*_HEAD, *(["path"] if has_paths else []), *(title for title, _, _ in further), *_TAIL)
    return Table("Speed of parts", head, tuple(lines), f"Variants were timed in turns.\n{TIMES}")


def _cell(value: float | None, digits: int) -> Cell:
    return Cell(MISSING) if value is None else Cell(f"{value:,.{digits}f}", value)


def measurements(timings: Iterable[Timing]) -> list[list[Timing]]:
    """The timings in groups of those that were taken in turns.

    Args:
        timings: of any benchmarks.
    """
    groups: dict[str, list[Timing]] = {}
    for timing in timings:
        settings = [value for name, value in timing.settings.items() if name not in ("variant", "mode")]
        found = timing.measured
        groups.setdefault(repr([settings, found.commit, found.versions, found.device]), []).append(timing)
    return list(groups.values())


def split(measurement: Sequence[Timing], mode: str) -> tuple[Timing, list[Timing]]:
    """The baseline, and the variants that are compared with it.

    Args:
        measurement: timings that were taken in turns.
        mode: of those that are meant.

    Raises:
        UsageError: there is no baseline.
    """
    timings = [timing for timing in measurement if timing.mode == mode]
    equal = [timing for timing in timings if timing.measured.speedup == 1]
    if not equal:
        first = timings[0]
        raise UsageError(
            f"{first.path or 'A file'} has no variant of {first.settings['benchmark']}, {mode}, with speedup 1, which "
            "the others are compared with",
            "measure again",
        )
    baseline = next((timing for timing in equal if timing.variant in _BASELINES), equal[0])
    return baseline, [timing for timing in timings if timing is not baseline]


def setting_of(timing: Timing) -> str:
    """What was timed: network, steps, input, type, number of timings.

    Args:
        timing: of any benchmark.
    """
    settings = timing.settings
    steps = f"T = {settings['T']}" if settings["T"] else ""
    if settings["benchmark"] == "lif":
        what = f"{settings['size']:,} elements"
    else:
        what = f"batch {settings['batch']}, {settings['size']}x{settings['size']} pixels"
    given = settings["model"], steps, what, settings["dtype"], f"{settings['repeats']} timings"
    return ", ".join(text for text in given if text)
