"""report.md and accuracy.png from the rows of run_cifar.py."""

from __future__ import annotations

import statistics
from pathlib import Path

COMMON = ("dataset", "train_limit", "model", "T", "epochs", "batch_size", "learning_rate", "momentum", "weight_decay",
          "warmup_epochs", "augmentation", "train_images", "test_images", "commit", "versions", "device")  # fmt: skip


def write_report(folder: Path, rows: list[dict[str, str]]) -> str:
    """Write report.md and accuracy.png into ``folder``; the table as text."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["encoder"], []).append(row)
    table = _table(groups)
    seeds = ", ".join(sorted({row["seed"] for row in rows}, key=int))
    common = "\n".join(f"- {name}: {'; '.join(sorted({row[name] for row in rows}))}" for name in COMMON)
    _plot(folder / "accuracy.png", groups)
    (folder / "report.md").write_text(
        f"# Encoders on {rows[0]['dataset']}\n\n{table}\n\n"
        "Test accuracy in percent: mean ± standard deviation over seeds. Best is the best test epoch, which flatters; "
        f"compare the last.\nFiring rate: spikes per neuron and step, mean over layers. Seeds: {seeds}.\n\n"
        f"![accuracy](accuracy.png)\n\n{common}\n",
        encoding="utf-8",
    )
    return table


def _table(groups: dict[str, list[dict[str, str]]]) -> str:
    lines = [
        "| encoder | n | last epoch | best epoch | firing rate | parameters | images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in groups.items():
        cells = [
            name,
            len(rows),
            _spread(rows, "accuracy_last"),
            _spread(rows, "accuracy_best"),
            f"{statistics.mean(float(row['firing_rate_mean']) for row in rows):.3f}",
            f"{int(rows[0]['parameters']):,}",
            f"{statistics.mean(float(row['images_per_second']) for row in rows):.0f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


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
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
