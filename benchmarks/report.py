"""Tables and plots from the rows of runs.

python benchmarks/report.py experiments/encoder_forms/results.csv    # prints the table
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from gac_sj.encoding import DEFAULT_RECIPE
from gac_sj.training import KEY, MEASURED

# what the rows of one report may differ in
VARYING = ("encoder", "recipe", "seed")
MACHINE = ("train_images", "test_images", "processes", "commit", "versions", "device")


def write_report(folder: Path, rows: list[dict[str, str]]) -> str:
    """Write report.md, accuracy.png and curves.png into ``folder``; returns the table."""
    seeds = ", ".join(sorted({row["seed"] for row in rows}, key=int))
    settings = ", ".join(f"{name}={_values(rows, name)}" for name in KEY if name not in VARYING)
    machine = "\n".join(f"- {name}: {_values(rows, name)}" for name in MACHINE)
    groups = by_encoder(rows)
    _plot_last(folder / "accuracy.png", groups)
    _plot_curves(folder / "curves.png", groups)
    (folder / "report.md").write_text(
        f"# Encoders on {rows[0]['dataset']}\n\n{table(rows)}\n\n"
        "Test accuracy in percent: mean ± standard deviation over seeds. Best is the best test epoch, which flatters; "
        f"compare the last.\nFiring rate: spikes per neuron and step, mean over layers. Seeds: {seeds}.\n\n"
        f"![accuracy](accuracy.png)\n\n![learning curves](curves.png)\n\n{machine}\n- settings: {settings}\n",
        encoding="utf-8",
    )
    return table(rows)


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: a line per encoder, mean and standard deviation over its seeds."""
    lines = [
        "| encoder | n | last epoch (%) | best epoch (%) | firing rate | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name, group in by_encoder(rows).items():
        rate = statistics.mean(float(row["firing_rate_mean"]) for row in group)
        accuracy = f"{spread(group, 'accuracy_last')} | {spread(group, 'accuracy_best')}"
        lines.append(f"| {name} | {len(group)} | {accuracy} | {rate:.3f} | {int(group[0]['parameters']):,} |")
    return "\n".join(lines)


def label(row: Mapping[str, str]) -> str:
    """How the encoder of a row is named: with recipe and options where those are not the default ones.

    "gac", "gac:current", "gac:attention=temporal", "gac:reference,kernel_size=3".
    """
    options = json.loads(row.get("model_options") or "{}")
    parts = [f"{name}={value}" for name, value in options.items()]
    # the forms' older rows have "gac:recipe" as encoder
    if row["encoder"] == "gac" and row["recipe"] != DEFAULT_RECIPE:
        parts.insert(0, row["recipe"])
    return f"{row['encoder']}:{','.join(parts)}" if parts else row["encoder"]


def by_encoder(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    return groups


def by_settings(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The rows that may be averaged: of equal settings, by those that differ between them.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("it has no rows")
    # settings stand before what was measured, also in older files
    settings = [name for name in takewhile(lambda name: name != MEASURED[0], rows[0]) if name not in VARYING]
    differing = [name for name in settings if len({row[name] for row in rows}) > 1]
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(", ".join(f"{name}={row[name]}" for name in differing), []).append(row)
    return groups


def spread(rows: list[dict[str, str]], column: str) -> str:
    """Mean ± standard deviation."""
    values = [float(row[column]) for row in rows]
    mean = statistics.mean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def _values(rows: list[dict[str, str]], name: str) -> str:
    return "; ".join(sorted({row[name] for row in rows}))


def _plot_last(path: Path, groups: dict[str, list[dict[str, str]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.6 + 0.5 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for place, rows in enumerate(groups.values()):
        values = [float(row["accuracy_last"]) for row in rows]
        axes.plot(values, [place] * len(values), "o", color="0.6", label="seeds" if place == 0 else None)
        axes.plot(statistics.mean(values), place, "D", color="black", label="mean" if place == 0 else None)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel("test accuracy after the last epoch (%)")
    axes.grid(axis="x", color="0.9")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    figure.savefig(path, dpi=150)


def _plot_curves(path: Path, groups: dict[str, list[dict[str, str]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for name, rows in groups.items():
        curves = [json.loads(row["accuracy_by_epoch"]) for row in rows]
        epochs = list(curves[0])
        values = [[curve[epoch] for curve in curves] for epoch in epochs]
        places = [int(epoch) for epoch in epochs]
        (line,) = axes.plot(places, [statistics.mean(value) for value in values], marker=".", label=name)
        axes.fill_between(
            places, *zip(*((min(value), max(value)) for value in values)), color=line.get_color(), alpha=0.2
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy (%); band: all seeds")
    axes.grid(color="0.9")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="results.csv of run_cifar.py; a table for each combination of settings in it")
    path = parser.parse_args(arguments).results
    try:
        with open(path, newline="", encoding="utf-8") as file:
            groups = by_settings(list(csv.DictReader(file)))
        print("\n\n".join(f"{title}\n\n{table(rows)}".strip() for title, rows in groups.items()))
    except (ValueError, OSError, KeyError, TypeError, csv.Error) as error:  # TypeError: a row that was cut off
        reason = f"{type(error).__name__}: {error}"
        print(f"report.py: {path} is no results.csv of run_cifar.py ({reason}); name one.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
