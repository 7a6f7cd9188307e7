"""Timings of parts: their rows, which benchmarks/speed.py writes, and tables of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gac_sj._utils.errors import UsageError
from gac_sj.results.columns import Schema, column, columns_of, parse
from gac_sj.results.run import Record
from gac_sj.results.table import MISSING, TIMED, TIMES, Cell, Table, values

__all__ = [
    "SPEED", "SpeedKey", "SpeedMeasured", "Timing", "against_spikingjelly", "counterpart", "measurements", "setting_of",
    "speed_tables", "split",
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


def _in_units(name: str, unit: float) -> Callable[[Timing], float | None]:
    def value(timing: Timing) -> float | None:
        found = timing.value(name)
        return None if found is None else found / unit

    return value


def _share(rate: str, limit: str) -> Callable[[Timing], float | None]:
    def value(timing: Timing) -> float | None:
        reached, most = timing.value(rate), timing.value(limit)
        return None if reached is None or not most else 100 * reached / most

    return value


#: What only some benchmarks measure: heading, digits, value.
_FURTHER: tuple[tuple[str, int, Callable[[Timing], float | None]], ...] = (
    (f"GB/s{TIMED}", 1, _in_units("bytes_per_s", 1e9)),
    (f"of a copy (%){TIMED}", 0, _share("bytes_per_s", "copy_bytes_per_s")),
    (f"TFLOP/s{TIMED}", 2, _in_units("flop_per_s", 1e12)),
    (f"of a matrix product (%){TIMED}", 0, _share("flop_per_s", "product_flop_per_s")),
    (f"images/s{TIMED}", 1, _in_units("images_per_s", 1)),
    ("top-1 as float32 (%)", 1, _in_units("top1_agreement", 1)),
    ("logits off by (%)", 3, _in_units("logit_difference", 0.01)),
    (f"page faults{TIMED}", 0, _in_units("page_faults", 1)),
    ("kept for backward (MB)", 1, _in_units("saved_bytes", 1e6)),
    ("peak memory (MB)", 0, _in_units("peak_memory", 1e6)),
)


def speed_tables(timings: Iterable[Timing]) -> list[Table]:
    """A table for each measurement, that is, for variants that were timed in turns; a line for each variant and pass.

    Args:
        timings: of any benchmarks.

    Raises:
        UsageError: a measurement has no baseline.
    """
    return [_table(measurement) for measurement in measurements(timings)]


def _table(measurement: Sequence[Timing]) -> Table:
    first = measurement[0]
    further = [each for each in _FURTHER if any(each[2](timing) for timing in measurement)]
    has_paths = any(timing.measured.ops_path for timing in measurement)
    modes = values(measurement, "mode")
    baselines = dict.fromkeys(split(measurement, mode)[0].variant for mode in modes)
    timed = [(timing, against_spikingjelly(timing, measurement)) for timing in measurement]
    has_ratios = any(ratio for _, ratio in timed)
    lines = [
        (
            *map(Cell, (mode, timing.variant)),
            *([Cell(timing.measured.ops_path or MISSING)] if has_paths else []),
            _time(timing.measured),
            _cell(timing.measured.speedup, 2),
            *([_cell(ratio, 2)] if has_ratios else []),
            *(_cell(value(timing), digits) for _, digits, value in further),
        )
        for mode in modes
        for timing, ratio in timed
        if timing.mode == mode
    ]
    head = (
        "pass",
        "variant",
        *(["path"] if has_paths else []),
        f"median [20 %, 80 %] (ms){TIMED}",
        f"times as fast as {' or '.join(baselines)}{TIMED}",
        *([f"times as fast as spikingjelly{TIMED}"] if has_ratios else []),
        *(title for title, _, _ in further),
    )
    title = f"{first.settings['benchmark']}: {setting_of(first)}"
    note = f"Timed in turns on {first.measured.device}, commit {first.measured.commit}."
    return Table(title, head, tuple(lines), f"{note}\n{TIMES}")


def _time(found: SpeedMeasured) -> Cell:
    return Cell(f"{found.median_ms:,.2f} [{found.low_ms:,.2f}, {found.high_ms:,.2f}]", found.median_ms)


def _cell(value: float | None, digits: int) -> Cell:
    return Cell(MISSING) if value is None else Cell(f"{value:,.{digits}f}", value)


def counterpart(variant: str, names: Collection[str]) -> str | None:
    """SpikingJelly's variant in the same precision and memory format, or its only one; None if a variant is not ours.

    Args:
        variant: the name of one.
        names: of all.
    """
    if variant.startswith(("spikingjelly", "naive")):
        return None
    same = f"spikingjelly+{variant.removesuffix('+cuda_graph').removesuffix('+compile')}"
    return next((name for name in (same, "spikingjelly") if name in names), None)


def against_spikingjelly(timing: Timing, measurement: Iterable[Timing]) -> float | None:
    """The time of SpikingJelly's variant (:func:`counterpart`) over that of a timing; None if there is none.

    Args:
        timing: one of the measurement.
        measurement: timings that were taken in turns.
    """
    speedups = {each.variant: each.measured.speedup for each in measurement if each.mode == timing.mode}
    theirs = counterpart(timing.variant, speedups)
    return None if theirs is None else timing.measured.speedup / speedups[theirs]


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
