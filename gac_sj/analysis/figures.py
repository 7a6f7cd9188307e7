"""Figures of encoders, networks and results, from arrays and from stored rows.

Drawn for print: 16 cm wide, letters of 8 points, colours that colour-blind readers tell apart (Okabe and Ito's; viridis
for maps), another marker and line for every encoder. matplotlib's global state is neither read nor changed.

Rows are those of :func:`gac_sj.training.read_results`, as ``{name of the encoder: its rows, one per seed}``.
"""

from __future__ import annotations

import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from gac_sj._utils.files import write_atomically
from gac_sj.encoders import list_encoders

__all__ = [
    "accuracy_against_T", "accuracy_against_energy", "encoder_outputs", "firing_rates_by_step", "gates", "grad_cam",
    "learning_curves", "looks", "save",
]  # fmt: skip

Groups = Mapping[str, Sequence[Mapping[str, str]]]

#: Inches: the text of an A4 page.
WIDTH = 6.3
#: Okabe and Ito 2008 without yellow, which white paper swallows; neighbours differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)))
GREY = {"cmap": "gray", "vmin": 0, "vmax": 1}
ACCURACY = "test accuracy after the last epoch (%)"
BAND = "line: mean over seeds; band: smallest to largest"

_sizes = dict.fromkeys(("font.size", "axes.titlesize", "figure.titlesize", "legend.title_fontsize"), 8)
_lines = {"lines.linewidth": 1.2, "lines.markersize": 4.5, "grid.color": "0.9", "axes.axisbelow": True}
_frames = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "legend.frameon": False}
_print = style.context(["default", _sizes | _lines | _frames | {"svg.hashsalt": "gac_sj"}])


@_print
def encoder_outputs(image: ArrayLike, outputs: Mapping[str, ArrayLike]) -> Figure:
    """What encoders put out for one image at every step: the mean over channels and one channel, two rows an encoder.

    The channel is the one with the largest variance in the last encoder's output. The steps of a row share one scale;
    rows do not, as currents and gated spikes have no common one.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, 0 to 1.
        outputs: name of the encoder -> ``[T, C, h, w]``, from top to bottom.
    """
    arrays = {name: np.asarray(output) for name, output in outputs.items()}
    last = list(arrays.values())[-1]
    channel, steps = int(last.var((0, 2, 3)).argmax()), _steps(len(last))
    side = min(1.0, 4.0 / len(steps))
    figure = Figure((WIDTH, 0.2 + len(arrays) * (0.5 + 2 * side)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 5))
    _show(left.subplots(), image, "image", **GREY)
    parts = right.subfigures(len(arrays), 1, squeeze=False)[:, 0]
    for part, (name, array) in zip(parts, arrays.items()):
        part.suptitle(name, weight="bold")
        above, below = part.subplots(2, len(steps), squeeze=False)
        _maps(above, array.mean(1), steps)
        _maps(below, array[:, channel], dict.fromkeys(steps, ""))
        for axes, label in ((above[0], "mean"), (below[0], str(channel))):
            axes.set_ylabel(f"channel\n{label}", rotation=0, ha="right", va="center")
    return figure


@_print
def gates(image: ArrayLike, gate: ArrayLike, temporal: ArrayLike | None, spatial: ArrayLike | None) -> Figure:
    """The two attentions of Gated Attention Coding for one image, and the gate that they make at every step.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, 0 to 1.
        gate: ``[T, C, h, w]``, in (0, gain); shown as its mean over channels.
        temporal: ``[T]``, temporal attention; None where the gate has none.
        spatial: ``[C, h, w]`` or ``[T, C, h, w]``, spatial-channel attention, shown as its mean over channels (and
            steps); None where the gate has none.
    """
    gate = np.asarray(gate)
    steps = _steps(len(gate))
    side = min(1.3, 5.1 / len(steps))
    figure = Figure((WIDTH, 2.4 + side), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.8, 0.6 + side))
    picture, map_, line = top.subplots(1, 3, width_ratios=(1, 1.3, 1.7))
    _show(picture, image, "image", **GREY)
    if spatial is None:
        map_.remove()
    else:
        spatial = np.asarray(spatial)
        _maps([map_], spatial.reshape(1, -1, *spatial.shape[-2:]).mean(1), {0: "spatial-channel attention"})
    if temporal is None:
        line.remove()
    else:
        line.plot(range(1, len(gate) + 1), temporal, color=COLOURS[0], marker=MARKERS[0])
        line.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        line.set(xlabel="time step", title="temporal attention")
    bottom.suptitle("gate, mean over channels", weight="bold")
    _maps(bottom.subplots(1, len(steps), squeeze=False)[0], gate.mean(1), steps)
    return figure


@_print
def grad_cam(image: ArrayLike, over_time: ArrayLike, by_step: ArrayLike) -> Figure:
    """Maps of :func:`gac_sj.analysis.grad_cam.grad_cam` for one image, on one scale; below they lie over the image.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, 0 to 1.
        over_time: ``[h, w]``.
        by_step: ``[T, h, w]``.
    """
    image = np.asarray(image)
    grey = image if image.ndim == 2 else image @ [0.299, 0.587, 0.114]  # the colours belong to the map
    maps = np.stack([np.asarray(over_time), *np.asarray(by_step)])
    maps = maps / (maps.max() or 1.0)
    shown = {0: "all steps"} | {step + 1: title for step, title in _steps(len(maps) - 1).items()}
    side = min(1.1, 5.4 / (len(shown) + 1))
    figure = Figure((WIDTH, 0.5 + 2 * side), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(side, 5.7 - side))
    _show(left.subplots(), image, "image", **GREY)
    above, below = right.subplots(2, len(shown))
    extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
    for axes, at in zip(below, shown):
        _show(axes, 0.5 + 0.5 * grey, "", **GREY)
        axes.imshow(maps[at], vmin=maps.min(), vmax=1, alpha=0.6, extent=extent, interpolation="bilinear")
    _maps(above, maps, shown, below, "share of the largest")
    return figure


@_print
def firing_rates_by_step(groups: Groups) -> Figure:
    """Firing rate of every layer at every step, mean over seeds: a panel for each encoder, one scale for all."""
    panels: dict[str, dict[str, np.ndarray]] = {}
    for name, rows in groups.items():
        rates = [json.loads(row["firing_rates_by_step"]) for row in rows]
        panels[name] = {layer: np.mean([seed[layer] for seed in rates], 0) for layer in rates[0]}
    # the longest list first, so that the encoder's neuron stays in front where only some encoders have one
    layers = list(dict.fromkeys(layer for rates in sorted(panels.values(), key=len, reverse=True) for layer in rates))
    largest = max(rate.max() for rates in panels.values() for rate in rates.values()) or 1.0
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure((WIDTH, rows * (0.6 + max(0.9, 0.2 * len(layers)))), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for place, (name, rates) in zip(axes, panels.items()):
        T = max(map(len, rates.values()))
        table = np.array([rates.get(layer, np.full(T, np.nan)) for layer in layers])
        shown = place.imshow(table, vmin=0, vmax=largest, aspect="auto")
        place.set(title=name, xlabel="time step", facecolor="0.9")
        place.set(xticks=range(T), xticklabels=range(1, T + 1), yticks=range(len(layers)), yticklabels=layers)
        place.spines[:].set_visible(False)
        place.tick_params(length=0)
        place.grid(False)
        if T * columns <= 18:  # else the numbers do not fit
            for (layer, step), rate in np.ndenumerate(table):
                text = "" if np.isnan(rate) else f"{rate:.2f}".lstrip("0")
                place.text(step, layer, text, ha="center", va="center", color="w" if rate < 0.6 * largest else "k")
    for place in axes[len(panels) :]:
        place.remove()
    figure.colorbar(shown, ax=list(axes[: len(panels)]), label="spikes per neuron and step", pad=0.02)
    return figure


@_print
def accuracy_against_energy(groups: Groups) -> Figure:
    """Accuracy against energy per image in both ways of :mod:`gac_sj.analysis.energy`: means and seeds."""
    conventions = {"as the paper counts": "energy_paper_pj", "complete: all that ran": "energy_complete_pj"}
    largest = max(float(row[column]) for rows in groups.values() for row in rows for column in conventions.values())
    factor, unit = next(((f, u) for f, u in ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")) if largest >= f), (1.0, "pJ"))
    figure = Figure((WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    look_of = looks(groups)
    for axes, (title, column) in zip(panels, conventions.items()):
        for name, rows in groups.items():
            x, y = ([float(row[part]) for row in rows] for part in (column, "accuracy_last"))
            x = [value / factor for value in x]
            look = look_of[name] | {"linestyle": ""}
            axes.plot(statistics.mean(x), statistics.mean(y), **look, markersize=7)
            axes.plot(x, y, **look | {"label": None}, fillstyle="none", zorder=3)
        axes.set(title=title, xlabel=f"energy per image ({unit})")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_ylabel(ACCURACY)
    _legend(figure, panels[0], "filled: mean over seeds; open: every seed")
    return figure


@_print
def accuracy_against_T(groups: Groups) -> Figure:
    """Accuracy against the number of time steps that a network is trained and tested with; the rows differ in ``T``."""
    figure = Figure((WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    look_of = looks(groups)
    for name, rows in groups.items():
        by_T: dict[int, list[float]] = {}
        for row in sorted(rows, key=lambda row: int(row["T"])):
            by_T.setdefault(int(row["T"]), []).append(float(row["accuracy_last"]))
        _mean_and_range(axes, by_T, **look_of[name] | {"label": name})
    axes.set_xticks(sorted({int(row["T"]) for rows in groups.values() for row in rows}))
    axes.set(xlabel="time steps T", ylabel=ACCURACY)
    _legend(figure, axes, BAND)
    return figure


@_print
def learning_curves(groups: Groups) -> Figure:
    """Test accuracy after every epoch at which all seeds were tested: the mean, and a band from smallest to largest."""
    figure = Figure((WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    look_of = looks(groups)
    for name, rows in groups.items():
        curves = [json.loads(row["accuracy_by_epoch"]) for row in rows]
        epochs = sorted(set.intersection(*map(set, curves)), key=int)
        by_epoch = {int(epoch): [curve[epoch] for curve in curves] for epoch in epochs}
        _mean_and_range(axes, by_epoch, **look_of[name])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="test accuracy (%)")
    _legend(figure, axes, BAND)
    return figure


@_print
def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path``.png (200 dots per inch) and ``path``.svg; the same input gives the same bytes.

    Raises:
        OSError: they cannot be written.
    """
    contents = {}
    for kind, metadata in (("png", None), ("svg", {"Date": None})):
        figure.savefig(buffer := io.BytesIO(), format=kind, dpi=200, metadata=metadata)
        contents[kind] = buffer.getvalue()
    # clip paths have hashes of coordinates as names, and the layout's solver does not repeat their last digits
    names = {name: b"p%d" % at for at, name in enumerate(re.findall(rb'<clipPath id="(p\w+)"', contents["svg"]))}
    contents["svg"] = re.sub(rb"p[0-9a-f]{10}\b", lambda found: names.get(found[0], found[0]), contents["svg"])
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, content in contents.items():
        write_atomically(path.with_name(f"{path.name}.{kind}"), content)
    return [path.with_name(f"{path.name}.{kind}") for kind in contents]


def looks(groups: Groups) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of every encoder, its own as long as nobody before it has them, and its label."""
    known = {name: place for place, name in enumerate(list_encoders())}
    found, taken = {}, set()
    for name in sorted(groups, key=lambda name: known.get(name, len(known))):
        place = next(place for place in count(known.get(name, 0) % len(COLOURS)) if place not in taken)
        taken.add(place)
        turn, colour = divmod(place, len(COLOURS))
        other = (colour + turn) % len(MARKERS)  # the eighth has the first one's colour and another marker
        look = {"color": COLOURS[colour], "marker": MARKERS[other], "linestyle": LINES[other]}
        found[name] = look | {"label": f"{name} (n = {len(groups[name])})"}
    return found


def _mean_and_range(axes: Axes, values: Mapping[int, Sequence[float]], **look: Any) -> None:
    x, y = list(values), list(values.values())
    axes.plot(x, [statistics.mean(v) for v in y], markevery=-(-len(x) // 20), **look)
    axes.fill_between(x, [min(v) for v in y], [max(v) for v in y], color=look["color"], alpha=0.2, linewidth=0)


def _show(axes: Axes, values: ArrayLike, title: str, **how: Any) -> Any:
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)
    return axes.imshow(np.asarray(values), **how)


def _maps(axes: Sequence[Axes], maps: np.ndarray, shown: Mapping[int, str], more: Any = (), label: str = "") -> None:
    """Some of the maps with their titles, and the scale of all of them, to the right of these axes and of ``more``."""
    norm = Normalize(maps.min(), maps.max())
    for place, (at, title) in zip(axes, shown.items()):
        image = _show(place, maps[at], title, norm=norm)
    axes[0].figure.colorbar(image, ax=[*axes, *more], shrink=0.8, pad=0.02, aspect=15, label=label)


def _steps(T: int) -> dict[int, str]:
    """The steps that are shown, eight of them where there are more, and their titles."""
    return {int(step): f"step {int(step) + 1}" for step in np.linspace(0, T - 1, min(T, 8)).round()}


def _legend(figure: Figure, axes: Axes, title: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, int(WIDTH / (0.7 + 0.06 * max(map(len, labels)))))
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns, handlelength=3.5)
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(labels) // columns))
