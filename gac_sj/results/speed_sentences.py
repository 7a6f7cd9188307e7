"""Timings of parts as sentences: what pages say of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from gac_sj.results.speed import (
    Timing,
    copy_share,
    kept_megabytes,
    measurements,
    peak_megabytes,
    product_share,
    setting_of,
    split,
)
from gac_sj.results.table import values

__all__ = ["counterpart", "speed_sentences"]


def speed_sentences(timings: Iterable[Timing]) -> list[str]:
    """A sentence for each measurement: every ratio, what was measured, commit and device.

    Args:
        timings: of any benchmarks.

    Raises:
        UsageError: a measurement has no baseline.
    """
    sentences = []
    for measurement in measurements(timings):
        first = measurement[0]
        benchmark = first.settings["benchmark"]
        say = {"memory": _memory, "train": _side_by_side, "inference": _side_by_side}.get(benchmark, _speed)
        said = [f"{mode}, {say(*split(measurement, mode))}" for mode in values(measurement, "mode")]
        sentences.append(
            f"`python benchmarks/speed.py {benchmark}` ({setting_of(first)}, timed in turns): "
            f"{'; '.join(said)} ({first.measured.device}, commit {first.measured.commit})."
        )
    return sentences


def _speed(baseline: Timing, others: Sequence[Timing]) -> str:
    """Every ratio to the baseline, and that of ours to SpikingJelly's."""
    parts = ", ".join(f"`{each.variant}` {each.measured.speedup:.2f} times{_reached(each)}" for each in others)
    text = f"{parts} as fast as `{baseline.variant}`"
    by_name = {each.variant: each.measured.speedup for each in others}
    if reference := by_name.get("spikingjelly"):
        ours = (
            f"`{name}` {by_name[name] / reference:.2f} times" for name in ("ours", "ours_direct") if name in by_name
        )
        text += f" ({', '.join(ours)} as fast as `spikingjelly`)"
    return text


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


def _side_by_side(baseline: Timing, others: Sequence[Timing]) -> str:
    """Every ratio to the baseline and every rate, and those of ours to SpikingJelly's in the same form."""

    def rate(timing: Timing) -> str:
        found = timing.measured
        parts = [f"{found.images_per_s or 0:,.0f} images/s"]
        if (share := product_share(timing)) is not None:
            parts.append(f"{share:.0f} % of a matrix product's FLOP/s")
        if found.top1_agreement is not None and timing.variant != "ours":
            parts.append(f"the class of `ours` for {found.top1_agreement:.1f} % of images")
        return ", ".join(parts)

    by_name = {each.variant: each.measured.speedup for each in (baseline, *others)}
    parts = ", ".join(f"`{each.variant}` {each.measured.speedup:.2f} times ({rate(each)})" for each in others)
    pairs = [
        f"`{name}` {by_name[name] / by_name[theirs]:.2f} times"
        for name in by_name
        if (theirs := counterpart(name, by_name)) is not None
    ]
    text = f" ({', '.join(pairs)} as fast as `spikingjelly` in the same precision and memory format)" if pairs else ""
    return f"{parts} as fast as `{baseline.variant}` ({rate(baseline)}){text}"


def _reached(timing: Timing) -> str:
    """Of ours the path, and the share of the device's best rate."""
    if timing.variant != "ours":
        return ""
    copied, multiplied = copy_share(timing), product_share(timing)
    found = [timing.measured.ops_path] if timing.measured.ops_path else []
    found += [] if copied is None else [f"{copied:.0f} % of a copy's bytes per second"]
    found += [] if multiplied is None else [f"{multiplied:.0f} % of a matrix product's FLOP/s"]
    return f" ({', '.join(found)})" if found else ""


def _memory(baseline: Timing, others: Sequence[Timing]) -> str:
    """What is kept, and the peak if it was measured."""

    def amount(timing: Timing) -> str:
        kept, peak = kept_megabytes(timing), peak_megabytes(timing)
        most = "" if peak is None else f" and needs {peak:,.0f} MB at most"
        return f"`{timing.variant}` keeps {kept or 0:,.1f} MB{most}"

    return f"{', '.join(map(amount, [*others, baseline]))} for the backward pass"
