"""Tables and plots from the rows of run_cifar.py.

python benchmarks/report.py experiments/encoder_forms/results.csv    # prints the table
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

COMMON = ("dataset", "train_limit", "model", "T", "epochs", "batch_size", "learning_rate", "momentum", "weight_decay",
          "warmup_epochs", "augmentation", "train_images", "test_images", "commit", "versions", "device")  # fmt: skip


def write_report(folder: Path, rows: list[dict[str, str]]) -> str:
    """Write report.md and accuracy.png into ``folder``; returns the table."""
    seeds = ", ".join(sorted({row["seed"] for row in rows}, key=int))
    common = "\n".join(f"- {name}: {'; '.join(sorted({row[name] for row in rows}))}" for name in COMMON)
    _plot(folder / "accuracy.png", _by_encoder(rows))
    (folder / "report.md").write_text(
        f"# Encoders on {rows[0]['dataset']}\n\n{table(rows)}\n\n"
        "Test accuracy in percent: mean ± standard deviation over seeds. Best is the best test epoch, which flatters; "
        f"compare the last.\nFiring rate: spikes per neuron and step, mean over layers. Seeds: {seeds}.\n\n"
        f"![accuracy](accuracy.png)\n\n{common}\n",
        encoding="utf-8",
    )
    return table(rows)


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: a line per encoder, mean and standard deviation over its seeds."""
    lines = [
        "| encoder | n | last epoch (%) | best epoch (%) | firing rate | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name, group in _by_encoder(rows).items():
        rate = statistics.mean(float(row["firing_rate_mean"]) for row in group)
        accuracy = f"{_spread(group, 'accuracy_last')} | {_spread(group, 'accuracy_best')}"
        lines.append(f"| {name} | {len(group)} | {accuracy} | {rate:.3f} | {int(group[0]['parameters']):,} |")
    return "\n".join(lines)


def _by_encoder(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["encoder"], []).append(row)
    return groups


def _spread(rows: list[dict[str, str]], column: str) -> str:
    values = [float(row[column]) for row in rows]
    mean = statistics.mean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def _plot(path: Path, groups: dict[str, list[dict[str, str]]]) -> None:
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


def main() -> int:
    try:
        (path,) = sys.argv[1:]
        with open(path, newline="", encoding="utf-8") as file:
            print(table(list(csv.DictReader(file))))
    except (ValueError, OSError, KeyError) as error:
        print(f"report.py: needs one file of run_cifar.py's rows, results.csv ({error}).", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
