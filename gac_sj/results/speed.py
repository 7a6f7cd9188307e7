"""What benchmarks/speed.py measured: as a table, and in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gac_sj.results.table import NOTHING, TIMES, Cell, Row, Table, number, values

__all__ = ["speed_sentences", "speed_table"]

#: What the rows of one interleaved measurement differ in.
MEASURED = (
    "variant", "mode", "ops_path", "median_ms", "low_ms", "high_ms", "speedup", "bytes_per_s", "copy_bytes_per_s",
    "flop_per_s", "product_flop_per_s", "saved_bytes", "peak_memory", "path",
)  # fmt: skip
HEAD = ("benchmark", "mode", "variant", "times as fast †", "as", "median (ms) †", "20 % †", "80 % †")
TAIL = ("setting", "commit", "device")
MEGABYTE = 1e6


def _share(rate: str, limit: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        reached, most = number(row, rate), number(row, limit)
        return None if reached is None or not most else 100 * reached / most

    return value


def _in(name: str, unit: float) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found = number(row, name)
        return None if found is None else found / unit

    return value


#: What not every benchmark measures: heading, digits, value; shown where some row has it.
FURTHER: tuple[tuple[str, int, Callable[[Row], float | None]], ...] = (
    ("GB/s †", 1, _in("bytes_per_s", 1e9)),
    ("of a copy (%) †", 0, _share("bytes_per_s", "copy_bytes_per_s")),
    ("TFLOP/s †", 2, _in("flop_per_s", 1e12)),
    ("of a matrix product (%) †", 0, _share("flop_per_s", "product_flop_per_s")),
    ("kept for backward (MB)", 1, _in("saved_bytes", MEGABYTE)),
    ("peak memory (MB)", 0, _in("peak_memory", MEGABYTE)),
)


def speed_table(rows: Iterable[Row]) -> Table:
    """A line for every variant.

    Raises:
        ValueError: a number is damaged, or a measurement has nothing that it is compared with.
    """
    measurements = _measurements(rows)
    everything = [row for measurement in measurements for row in measurement]
    has_paths = any(row.get("ops_path") for row in everything)
    further = [column for column in FURTHER if any(column[2](row) is not None for row in everything)]
    lines = []
    for measurement in measurements:
        for mode in values(measurement, "mode"):
            baseline, _ = _split(measurement, mode)
            for row in measurement:
                if row["mode"] == mode:
                    times = [number(row, name) for name in ("median_ms", "low_ms", "high_ms")]
                    speedup = Cell(f"{number(row, 'speedup'):.2f}", number(row, "speedup"))
                    lines.append((
                        *map(Cell, (row["benchmark"], mode, row["variant"])), speedup, Cell(baseline["variant"]),
                        *(Cell(f"{value:,.2f}", value) for value in times),
                        *([Cell(row.get("ops_path") or NOTHING)] if has_paths else []),
                        *(_cell(value(row), digits) for _, digits, value in further),
                        *map(Cell, (_setting(row), row["commit"], row["device"])),
                    ))  # fmt: skip
    head = (*HEAD, *(["path"] if has_paths else []), *(title for title, _, _ in further), *TAIL)
    return Table("Speed of parts", head, tuple(lines), f"Variants were timed in turns.\n{TIMES}")


def speed_sentences(rows: Iterable[Row]) -> list[str]:
    """One for each measurement: every ratio, what was measured, commit and device.

    Raises:
        ValueError: see :func:`speed_table`.
    """
    sentences = []
    for measurement in _measurements(rows):
        first = measurement[0]
        say = _memory if first["benchmark"] == "memory" else _speed
        said = [f"{mode}, {say(*_split(measurement, mode))}" for mode in values(measurement, "mode")]
        sentences.append(
            f"`python benchmarks/speed.py {first['benchmark']}` ({_setting(first)}, timed in turns): "
            f"{'; '.join(said)} ({first['device']}, commit {first['commit']})."
        )
    return sentences


def _speed(baseline: Row, others: list[Row]) -> str:
    """Every ratio to the baseline, and that of ours to SpikingJelly's."""
    parts = ", ".join(f"`{row['variant']}` {number(row, 'speedup'):.2f} times{_reached(row)}" for row in others)
    text = f"{parts} as fast as `{baseline['variant']}`"
    by_name = {row["variant"]: number(row, "speedup") for row in others}
    if stock := by_name.get("spikingjelly"):
        ours = (f"`{name}` {by_name[name] / stock:.2f} times" for name in ("ours", "ours_direct") if name in by_name)
        text += f" ({', '.join(ours)} as fast as `spikingjelly`)"
    return text


def _reached(row: Row) -> str:
    """Of ours the path, and what of the device's best was reached."""
    if row["variant"] != "ours":
        return ""
    _, copied, _, multiplied, _, _ = (value(row) for _, _, value in FURTHER)
    found = [row["ops_path"]] if row.get("ops_path") else []
    found += [] if copied is None else [f"{copied:.0f} % of a copy's bytes per second"]
    found += [] if multiplied is None else [f"{multiplied:.0f} % of a matrix product's FLOP/s"]
    return f" ({', '.join(found)})" if found else ""


def _memory(baseline: Row, others: list[Row]) -> str:
    """What is kept, and where it was measured the peak."""

    def amount(row: Row) -> str:
        *_, kept, peak = (value(row) for _, _, value in FURTHER)
        most = "" if peak is None else f" and needs {peak:,.0f} MB at most"
        return f"`{row['variant']}` keeps {kept or 0:,.1f} MB{most}"

    return f"{', '.join(map(amount, [*others, baseline]))} for the backward pass"


def _cell(value: float | None, digits: int) -> Cell:
    return Cell(NOTHING) if value is None else Cell(f"{value:,.{digits}f}", value)


def _measurements(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple((name, text) for name, text in row.items() if name not in MEASURED), []).append(row)
    return list(groups.values())


def _split(measurement: list[Row], mode: str) -> tuple[Row, list[Row]]:
    """What the variants are compared with, and they."""
    rows = [row for row in measurement if row["mode"] == mode]
    equal = [row for row in rows if number(row, "speedup") == 1]  # another variant may be as fast
    if not equal:
        raise ValueError(
            f"{rows[0].get('path', 'A file')} has no variant of {rows[0]['benchmark']}, {mode}, with speedup 1, which "
            "the others are compared with; measure again."
        )
    baseline = next((row for row in equal if row["variant"] in ("naive", "timm")), equal[0])
    return baseline, [row for row in rows if row is not baseline]


def _setting(row: Row) -> str:
    steps = f"T = {row['T']}" if row.get("T", "0") != "0" else ""
    if row["benchmark"] == "lif":
        what = f"{int(row['size']):,} elements"
    else:
        what = f"batch {row['batch']}, {row['size']}x{row['size']} pixels"
    given = row.get("model"), steps, what, row.get("dtype"), f"{row['repeats']} timings"
    return ", ".join(text for text in given if text)
