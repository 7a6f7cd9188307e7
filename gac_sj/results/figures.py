"""Figures of finished runs and of robustness tests.

Groups are those of :func:`gac_sj.results.group`: the runs of each encoder, one per seed, by its label.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gac_sj._utils.errors import UsageError
from gac_sj._utils.plotting import COLOURS, LINES, MARKERS, WIDTH, one_line, print_style
from gac_sj.analysis import figures as network_figures
from gac_sj.encoders import list_encoders
from gac_sj.results.robustness import CLEAN, RobustnessTest, robustness_groups, severities
from gac_sj.results.run import Run, group
from gac_sj.results.schema import TO_ANALYSE
from gac_sj.results.table import mean

__all__ = [
    "KINDS", "Kind", "accuracy_against_T", "accuracy_against_energy", "accuracy_against_severity", "figures_of_runs",
    "firing_rates_by_step", "learning_curves", "line_styles",
]  # fmt: skip

Groups = Mapping[str, Sequence[Run]]

_ACCURACY = "test accuracy after the last epoch (%)"
_BAND = "line: mean over seeds; band: smallest to largest"


@dataclass(frozen=True)
class Kind:
    """A kind of figure of runs.

    Args:
        draw: draws groups of runs.
        uses: whether a run has its data.
        lack: what runs without that data lack.
        over_T: whether its runs differ in T.
        whole: whether an encoder with the data is drawn with all its seeds, as tables average over them.
    """

    draw: Callable[[Groups], Figure]
    uses: Callable[[Run], bool] = lambda run: True
    lack: str = ""
    over_T: bool = False
    whole: bool = False

    def select(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that it is drawn of.

        Args:
            runs: of equal settings but for encoder and seed, and T if its runs differ in it.
        """
        if not self.whole:
            return [run for run in runs if self.uses(run)]
        return [run for found in group(runs).values() if any(map(self.uses, found)) for run in found]


def figures_of_runs(runs: Sequence[Run]) -> Iterator[tuple[str, Figure]]:
    """The name and the figure of everything that runs of equal settings allow; each is of the runs that have the data.

    Args:
        runs: of equal settings but for encoder and seed.
    """
    for name, kind in KINDS.items():
        if not kind.over_T and (used := kind.select(runs)):
            yield name, kind.draw(group(used))


@print_style
def learning_curves(groups: Groups) -> Figure:
    """Test accuracy after every epoch at which all seeds were tested: the mean, and a band from smallest to largest.

    Args:
        groups: runs by the label of their encoder.
    """
    figure = Figure((WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(groups)
    for name, runs in groups.items():
        curves = [run.measured.accuracy_by_epoch for run in runs]
        epochs = sorted(set.intersection(*map(set, curves)), key=int)
        if not epochs:
            raise UsageError(f"Rows of {name} have no epoch in common in accuracy_by_epoch", "make them again")
        by_epoch = {int(epoch): [curve[epoch] for curve in curves] for epoch in epochs}
        _mean_and_range(axes, by_epoch, **styles[name])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="test accuracy (%)")
    _legend(figure, axes, _BAND)
    return figure


@print_style
def accuracy_against_T(groups: Groups) -> Figure:
    """Accuracy against the number of time steps that a network is trained and tested with.

    Args:
        groups: runs of several T by the label of their encoder.
    """
    figure = Figure((WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(groups)
    for name, runs in groups.items():
        by_T: dict[int, list[float]] = {}
        for run in sorted(runs, key=lambda run: run.settings["T"]):
            by_T.setdefault(run.settings["T"], []).append(run.measured.accuracy_last)
        _mean_and_range(axes, by_T, **styles[name] | {"label": one_line(name)})
    axes.set_xticks(sorted({run.settings["T"] for runs in groups.values() for run in runs}))
    axes.set(xlabel="time steps T", ylabel=_ACCURACY)
    _legend(figure, axes, _BAND)
    return figure


@print_style
def accuracy_against_energy(groups: Groups) -> Figure:
    """Accuracy against energy per image, *paper* and *complete* (:mod:`gac_sj.analysis.energy`).

    A mean is the one that the tables show, and has the encoder's number of the legend beside it; seeds are small.

    Args:
        groups: runs by the label of their encoder, of which some are analysed.
    """
    conventions = {"as the paper counts": "energy_paper_pj", "complete: all that ran": "energy_complete_pj"}
    analysed = {name: [run for run in runs if run.analysed is not None] for name, runs in groups.items()}
    largest = max(run.value(column) for runs in analysed.values() for run in runs for column in conventions.values())
    factor, unit = next(((f, u) for f, u in ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")) if largest >= f), (1.0, "pJ"))
    figure = Figure((WIDTH, 5.6), layout="constrained")
    panels = figure.subplots(2, 1, sharey=True)
    styles = line_styles(groups)
    for axes, (title, column) in zip(panels, conventions.items()):
        means = [mean(title, name, unit=unit) for name, unit in ((column, factor), ("accuracy_last", 1.0))]
        for number, (name, runs) in enumerate(groups.items(), 1):
            look = styles[name] | {"linestyle": "", "label": f"{number}  {styles[name]['label']}"}
            axes.plot(*([each.cell(runs).key] for each in means), **look, markersize=6, zorder=3)
            seeds = [(run.value(column) / factor, run.measured.accuracy_last) for run in analysed[name]]
            axes.plot(*zip(*seeds), **look | {"label": None}, markersize=3, alpha=0.5)
        axes.set(title=title, xlabel=f"energy per image ({unit})", ylabel=_ACCURACY)
        axes.margins(0.08)
    _legend(figure, panels[0], "large: mean over seeds, as in the tables; small: every analysed seed")
    figure.draw_without_rendering()  # places the panels, in which numbers keep clear of each other
    for axes in panels:
        _number_means(axes)
    return figure


def firing_rates_by_step(groups: Groups) -> Figure:
    """Firing rate of every layer at every step, mean over seeds: a panel for each encoder, one scale for all.

    Args:
        groups: analysed runs by the label of their encoder.
    """
    panels = {}
    for name, runs in groups.items():
        rates = [run.value("firing_rates_by_step") for run in runs]
        if len({frozenset((layer, len(steps)) for layer, steps in each.items()) for each in rates}) > 1:
            raise UsageError(
                f"Rows of {name} have different layers or numbers of steps in firing_rates_by_step", "make them again"
            )
        panels[name] = {layer: np.mean([seed[layer] for seed in rates], 0) for layer in rates[0]}
    return network_figures.firing_rates_by_step(panels)


#: The figures of runs by name.
KINDS = {
    "learning_curves": Kind(
        learning_curves, lambda run: len(run.measured.accuracy_by_epoch) > 1, "tests at several epochs"
    ),
    "accuracy_against_T": Kind(accuracy_against_T, over_T=True),
    "accuracy_against_energy": Kind(
        accuracy_against_energy,
        lambda run: run.analysed is not None,
        f"an analysis of their energy ({TO_ANALYSE})",
        whole=True,
    ),
    "firing_rates_by_step": Kind(
        firing_rates_by_step, lambda run: run.analysed is not None, f"an analysis of their firing rates ({TO_ANALYSE})"
    ),
}


@print_style
def accuracy_against_severity(tests: Sequence[RobustnessTest]) -> Figure:
    """Accuracy against severity: a panel for each corruption, the mean over seeds of each encoder.

    Args:
        tests: one set of :func:`gac_sj.results.robustness.robustness_sets`, with one corruption at least.
    """
    groups = robustness_groups(tests)
    styles = {name: look | {"label": one_line(name), "markersize": 3.5} for name, look in line_styles(groups).items()}
    names = [name for name in severities(tests) if name != CLEAN]
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure((WIDTH, 1.0 + 1.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, name in zip(panels, names):
        for encoder, found in groups.items():
            by_severity: dict[int, list[float]] = {}
            for test in found:
                if test.corruption in (CLEAN, name):
                    by_severity.setdefault(test.severity, []).append(test.measured.accuracy)
            means = {severity: statistics.mean(by_severity[severity]) for severity in sorted(by_severity)}
            axes.plot(list(means), list(means.values()), **styles[encoder])
        axes.set_title(one_line(name.replace("_", " ")))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelbottom=True)  # also where no panel is below
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel("severity (0: clean)", fontsize=8)
    figure.supylabel("test accuracy (%), mean over seeds", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def line_styles(groups: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Colour, marker, line and legend of every encoder.

    The forms and options of an encoder are a family: tones of one colour, each with its own marker and line. An encoder
    of the package has the same colour in every figure.

    Args:
        groups: records by the label of their encoder.
    """
    families: dict[str, list[str]] = {}
    for name in groups:
        families.setdefault(re.split("[: ]", name, maxsplit=1)[0], []).append(name)
    known = list_encoders()
    places = {name: place for place, name in enumerate([*known, *(name for name in families if name not in known)])}
    found: dict[str, dict[str, Any]] = {}
    for family, names in families.items():
        place = places[family]
        for turn, name in enumerate(sorted(names, key=lambda name: name != family)):
            other = (place + place // len(COLOURS) + turn) % len(MARKERS)
            red, green, blue = (c + (1 - c) * 0.6 * turn / len(names) for c in to_rgb(COLOURS[place % len(COLOURS)]))
            look = {"color": to_hex((red, green, blue)), "marker": MARKERS[other], "linestyle": LINES[other]}
            found[name] = look | {"label": f"{one_line(name)} (n = {len(groups[name])})"}
    return {name: found[name] for name in groups}


def _number_means(axes: Axes) -> None:
    """Write the number that begins a point's legend beside the point, where no other point or number is."""
    marked = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    points = np.array([line.get_xydata() for line in marked.values()])[:, 0]
    places = axes.transData.transform(points) * 72 / axes.figure.dpi
    taken = list(places)
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    around = [radius * np.array([np.sin(turn), np.cos(turn)]) for radius in range(9, 60, 3) for turn in turns]
    look: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "zorder": 4}
    arrow = {"arrowstyle": "-", "color": "0.4", "linewidth": 0.5, "shrinkA": 3, "shrinkB": 2}
    for label, (x, y), place in zip(marked, points, places):
        free = (each for each in around if all(np.hypot(*(place + each - other)) > 9 for other in taken))
        offset = next(free, around[0])
        taken.append(place + offset)
        axes.annotate(label.split()[0], (x, y), (offset[0], offset[1]), arrowprops=arrow, **look)


def _mean_and_range(axes: Axes, values: Mapping[int, Sequence[float]], **look: Any) -> None:
    x, y = list(values), list(values.values())
    axes.plot(x, [statistics.mean(v) for v in y], markevery=-(-len(x) // 20), **look)
    axes.fill_between(x, [min(v) for v in y], [max(v) for v in y], color=look["color"], alpha=0.2, linewidth=0)


def _legend(figure: Figure, axes: Axes, title: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, int(WIDTH / (0.7 + 0.06 * max(map(len, labels)))))
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns, handlelength=3.5)
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(labels) // columns))
