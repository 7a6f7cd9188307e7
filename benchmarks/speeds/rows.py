"""The rows and the printed lines of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from gac_sj.results.speed import SPEED, counterpart
from speeds.measuring import Comparison, measure

__all__ = ["report"]


def report(comparison: Comparison, shared: dict[str, object], device: torch.device) -> Iterator[dict[str, str]]:
    """Time a comparison and print it.

    Args:
        comparison: checked variants.
        shared: columns that are equal in all rows, with ``repeats``.
        device: the device of the variants.

    Yields:
        A row for each variant.
    """
    limits = {name: run for name, (run, _) in comparison.limits.items()}
    times, faults = measure({**comparison.runs, **limits}, shared["repeats"], device, comparison.clock)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rates = {name: amount / medians[name] * 1000 for name, (_, amount) in comparison.limits.items()}
    for variant in comparison.runs:
        values = times[variant]
        low, *_, high = statistics.quantiles(values, n=5, method="inclusive") if len(values) > 1 else values * 2
        median = medians[variant]
        measured = {"median_ms": median, "low_ms": low, "high_ms": high}
        measured["speedup"] = medians[comparison.baseline] / median
        row = dict.fromkeys(SPEED.names, "") | shared | dict(comparison.shared)
        row |= {name: rate for name, rate in rates.items() if name in row}
        row |= {name: rates[limit] for name, limit in comparison.limit_of.get(variant, {}).items()}
        row |= {"mode": comparison.mode, "variant": variant, **comparison.of_variant.get(variant, {})}
        if comparison.images:
            measured["images_per_s"] = comparison.images / median * 1000
        row["page_faults"] = statistics.median(faults[variant]) if faults[variant] else None
        if comparison.traffic:
            row["bytes_per_s"] = comparison.traffic / median * 1000
        if variant in comparison.flops:
            row["flop_per_s"] = comparison.flops[variant] / median * 1000
        row = {name: _text(value) for name, value in row.items()} | {k: f"{value:.3f}" for k, value in measured.items()}
        theirs = medians.get(counterpart(variant, medians) or "")
        print(_line(row, comparison.baseline, theirs and theirs / median), flush=True)
        yield row


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value > 1e3 else f"{value:.6g}"  # rates of bytes and operations are large
    return str(value)


def _line(row: dict[str, str], baseline: str, against_spikingjelly: float | None) -> str:
    def value(name: str) -> float:
        return float(row[name] or 0)

    text = (
        f"{row['benchmark']:<8} {row['mode']:<17} {row['dtype']:<9} {row['variant']:<13} {row['ops_path']:<7} "
        f"{value('median_ms'):9.2f} ms  [{value('low_ms'):.2f}, {value('high_ms'):.2f}]  "
        f"{value('speedup'):.2f} x {baseline}"
    )
    parts = [f", {against_spikingjelly:.2f} x spikingjelly"] if against_spikingjelly else []
    if row["bytes_per_s"]:
        share = value("bytes_per_s") / value("copy_bytes_per_s")
        parts.append(f"; {value('bytes_per_s') / 1e9:,.1f} GB/s, {share:.0%} of a copy")
    if row["flop_per_s"]:
        share = value("flop_per_s") / value("product_flop_per_s")
        parts.append(f"; {value('flop_per_s') / 1e12:,.2f} TFLOP/s, {share:.0%} of a matrix product")
    if row["images_per_s"]:
        parts.append(f"; {value('images_per_s'):,.1f} images/s")
    if row["top1_agreement"]:
        parts.append(
            f"; {value('top1_agreement'):.1f} % top-1 as float32, logits within {value('logit_difference'):.1e}"
        )
    if row["page_faults"]:
        parts.append(f"; {value('page_faults'):,.0f} page faults")
    if row["saved_bytes"]:
        parts.append(f"; keeps {value('saved_bytes') / 1e6:,.1f} MB for the backward pass")
    if row["peak_memory"]:
        parts.append(f"; peak {value('peak_memory') / 1e6:,.0f} MB")
    return text + "".join(parts)
