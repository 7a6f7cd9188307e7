"""Tables and plot of accuracies on corrupted images and under attack, rows of benchmarks/robustness.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gac_sj.analysis import figures
from gac_sj.results.table import Row, Table, Text, column, number, tabulate, values
from gac_sj.results.tables import by_encoder, label

__all__ = ["CLEAN", "robustness_plot", "robustness_sets", "robustness_tables"]

#: The "corruption" that is none.
CLEAN = "clean"
#: What the rows of one table have in common; "settings" stands for all others of the run.
SHARED = ("dataset", "model", "T", "epochs", "settings", "data", "images", "batch_size", "corruption_seed")
RUN = ("encoder", "form", "model_options", "model", "seed")


def robustness_sets(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows that may stand in one table, by the settings in which the sets differ.

    Raises:
        ValueError: two accuracies of one encoder, seed, corruption and severity in a set.
    """
    sets: dict[tuple[str, ...], dict[tuple[str, ...], Row]] = {}
    for row in rows:
        runs = sets.setdefault(tuple(row.get(name, "") for name in SHARED), {})
        test = tuple(row.get(name, "") for name in (*RUN, "corruption", "severity"))
        other = runs.setdefault(test, row)
        if (other["accuracy"], other.get("weights")) != (row["accuracy"], row.get("weights")):
            places = " and ".join(values([other, row], "path")) or "The rows"
            raise ValueError(
                f"{places} have two accuracies of {label(row)}, seed {row['seed']}, {row['corruption']} "
                f"{row['severity']}; keep one."
            )
    differing = [name for place, name in enumerate(SHARED) if len({shared[place] for shared in sets}) > 1]
    return {
        ", ".join(f"{name}={value}" for name, value in zip(SHARED, shared) if name in differing): list(runs.values())
        for shared, runs in sets.items()
    }


def robustness_tables(rows: list[Row]) -> list[Table]:
    """Accuracy by corruption, and by attack where there is one: the mean over severities of a run, then over seeds.

    An attack follows the gradient of the neurons' surrogates, and behind some encoders one that is put in its place.
    """
    attacks = {row["corruption"] for row in rows if row.get("gradient")}
    severities, note = _severities(rows), _note(rows)
    groups = by_encoder(_runs(rows, severities))
    columns = {name: column(name.replace("_", " "), name) for name in severities}
    calm = [each for name, each in columns.items() if name not in attacks]
    attacked = [each for name, each in columns.items() if name in attacks or name == CLEAN]
    tables = [tabulate("Accuracy on corrupted images (%)", groups, calm, note)]
    if attacks:
        columns = [*attacked, Text("gradient", "gradient")]
        tables.append(tabulate("Accuracy under attack (%)", groups, columns, note))
    return tables


def _note(rows: list[Row]) -> str:
    """One line: severities, seeds, data, network, commit and device."""
    dataset, model, T, epochs = (", ".join(values(rows, name)) for name in ("dataset", "model", "T", "epochs"))
    seeds = ", ".join(sorted(values(rows, "seed"), key=int))
    levels = sorted({int(level) for name, found in _severities(rows).items() if name != CLEAN for level in found})
    images = " or ".join(values(rows, "images")) or "an unknown number of"
    over = f"Mean over the severities {', '.join(map(str, levels))}, then mean" if levels else "Mean"
    return (
        f"{over} ± standard deviation over the seeds {seeds}: {dataset}, {images} test images, {model}, T = {T}, "
        f"epochs: {epochs}; commit {', '.join(values(rows, 'commit'))}; {'; '.join(values(rows, 'device'))}."
    )


@matplotlib.rc_context({"font.size": 8, "axes.titlesize": 8})
def robustness_plot(rows: list[Row]) -> Figure:
    """Accuracy against severity: a panel for each corruption, the mean over seeds of each encoder."""
    groups = by_encoder(rows)
    looks = {name: look | {"label": name, "markersize": 3.5} for name, look in figures.looks(groups).items()}
    names = [name for name in _severities(rows) if name != CLEAN]
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure((figures.WIDTH, 1.0 + 1.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, name in zip(panels, names):
        for encoder, found in groups.items():
            by_severity: dict[int, list[float]] = {}
            for row in found:
                if row["corruption"] in (CLEAN, name):
                    by_severity.setdefault(int(row["severity"]), []).append(number(row, "accuracy"))
            means = {severity: statistics.mean(by_severity[severity]) for severity in sorted(by_severity)}
            axes.plot(list(means), list(means.values()), **looks[encoder])
        axes.set_title(name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelbottom=True)  # also where no panel stands below
        axes.grid(color="0.9")
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel("severity (0: clean)", fontsize=8)
    figure.supylabel("test accuracy (%), mean over seeds", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def _severities(rows: Iterable[Row]) -> dict[str, set[str]]:
    """Of every corruption, clean first."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["corruption"], set()).add(row["severity"])
    return {name: found[name] for name in sorted(found, key=lambda name: name != CLEAN)}


def _runs(rows: Iterable[Row], severities: Mapping[str, set[str]]) -> list[Row]:
    """A row for every run: its mean accuracy by corruption, where it was tested at all severities, and its gradient."""
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        runs.setdefault(tuple(row.get(name, "") for name in RUN), []).append(row)
    found = []
    for run, tests in runs.items():
        means = {}
        for name, levels in severities.items():
            accuracies = {row["severity"]: number(row, "accuracy") for row in tests if row["corruption"] == name}
            if accuracies.keys() == levels:
                means[name] = str(statistics.mean(accuracies.values()))
        found.append(dict(zip(RUN, run)) | means | {"gradient": ", ".join(values(tests, "gradient"))})
    return found
