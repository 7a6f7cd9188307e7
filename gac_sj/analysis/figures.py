"""Figures of encoders and networks, from arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from gac_sj._utils.plotting import COLOURS, MARKERS, WIDTH, one_line, print_style, save, set_heading

__all__ = ["encoder", "encoder_outputs", "firing_rates_by_step", "gates", "grad_cam", "save", "set_heading"]

_GREY = {"cmap": "gray", "vmin": 0, "vmax": 1}


@print_style
def encoder(image: ArrayLike, stages: Mapping[str, ArrayLike]) -> Figure:
    """What an encoder with a gate does to one image, in one channel: a row for each stage, a column for each step.

    The channel is the one with the largest variance in the output. Spikes are black, gated ones have the colours of the
    gate, and zeros are white.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, 0 to 1.
        stages: label -> ``[T, C, h, w]`` of what the gate weighs, of the gate, and of the output.
    """
    arrays = [np.asarray(stage) for stage in stages.values()]
    channel, steps = int(arrays[-1].var((0, 2, 3)).argmax()), _steps(len(arrays[-1]))
    weighed, gate, output = (array[:, channel] for array in arrays)
    scales = [Normalize(maps.min(), maps.max()) for maps in (weighed, gate, gate if _are_spikes(weighed) else output)]
    side = min(0.9, 3.6 / len(steps))
    figure = Figure((WIDTH, 0.5 + 3.1 * side), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 4))[0]
    _show(left.subplots(), image, "image", **_GREY)
    # the steps, the scale, and space where there are fewer than four steps
    columns = [1.0] * len(steps) + [0.08] + [1.0] * (4 - len(steps))
    grid = right.subplots(3, len(columns), width_ratios=columns)
    titles = steps
    for row, label, maps, scale in zip(grid, stages, (weighed, gate, output), scales):
        binary = _are_spikes(maps)
        how: dict[str, Any] = {"cmap": "gray_r", "vmin": 0, "vmax": 1} if binary else {"norm": scale}
        for place, (at, title) in zip(row, titles.items()):
            shown = _show(place, np.where(maps[at] == 0, np.nan, maps[at]), title, interpolation="nearest", **how)
            place.spines[:].set(visible=True, color="0.7", linewidth=0.5)
        titles = dict.fromkeys(steps, "")
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
        bar, *spare = row[len(steps) :]
        if binary:
            spare.append(bar)
        else:
            right.colorbar(shown, cax=bar, ticks=MaxNLocator(3)).formatter.set_useOffset(False)
        for place in spare:
            place.remove()
    return figure


@print_style
def encoder_outputs(image: ArrayLike, outputs: Mapping[str, ArrayLike]) -> Figure:
    """The output of encoders for one image at every step: the mean over channels and one channel, in two rows each.

    The channel is the one with the largest variance in the last encoder's output. The steps of a row share one scale;
    rows do not, because currents and gated spikes have no common one.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, 0 to 1.
        outputs: name of the encoder -> ``[T, C, h, w]``, from top to bottom.
    """
    arrays = {name: np.asarray(output) for name, output in outputs.items()}
    last = list(arrays.values())[-1]
    channel, steps = int(last.var((0, 2, 3)).argmax()), _steps(len(last))
    side = min(1.0, 4.0 / len(steps))
    figure = Figure((WIDTH, 0.2 + len(arrays) * (0.5 + 2 * side)), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 5))[0]
    _show(left.subplots(), image, "image", **_GREY)
    parts = right.subfigures(len(arrays), 1, squeeze=False)[:, 0]
    for part, (name, array) in zip(parts, arrays.items()):
        part.suptitle(one_line(name), weight="bold")
        above, below = part.subplots(2, len(steps), squeeze=False)
        _maps(above, array.mean(1), steps)
        _maps(below, array[:, channel], dict.fromkeys(steps, ""))
        for axes, label in ((above[0], "mean"), (below[0], str(channel))):
            axes.set_ylabel(f"channel\n{label}", rotation=0, ha="right", va="center")
    return figure


@print_style
def gates(image: ArrayLike, gate: ArrayLike, temporal: ArrayLike | None, spatial: ArrayLike | None) -> Figure:
    """The two attentions of a gate for one image, and the gate that they make at every step.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, 0 to 1.
        gate: ``[T, C, h, w]``, in (0, gain); shown as its mean over channels.
        temporal: ``[T]``, temporal attention, or ``[T, C]``, a line for each channel; None if the gate has none.
        spatial: ``[C, h, w]`` or ``[T, C, h, w]``, spatial-channel attention, shown as its mean over channels (and
            steps); None if the gate has none.
    """
    gate = np.asarray(gate)
    steps = _steps(len(gate))
    side = min(1.3, 5.1 / len(steps))
    figure = Figure((WIDTH, 2.4 + side), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.8, 0.6 + side))[:, 0]
    picture, map_, line = top.subplots(1, 3, width_ratios=(1, 1.3, 1.7))
    _show(picture, image, "image", **_GREY)
    if spatial is None:
        map_.remove()
    else:
        spatial = np.asarray(spatial)
        _maps([map_], spatial.reshape(1, -1, *spatial.shape[-2:]).mean(1), {0: "spatial-channel\nattention"})
    if temporal is None:
        line.remove()
    else:
        line.plot(range(1, len(gate) + 1), temporal, color=COLOURS[0], marker=MARKERS[0])
        line.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        line.set(xlabel="time step", title="temporal attention")
    bottom.suptitle("gate, mean over channels", weight="bold")
    _maps(bottom.subplots(1, len(steps), squeeze=False)[0], gate.mean(1), steps)
    return figure


@print_style
def grad_cam(image: ArrayLike, over_time: ArrayLike, by_step: ArrayLike, target: str) -> Figure:
    """Maps of :func:`gac_sj.analysis.grad_cam.grad_cam` for one image, on one scale: alone, and over the image.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``, 0 to 1.
        over_time: ``[h, w]``.
        by_step: ``[T, h, w]``.
        target: the class that the maps explain, such as "cat (predicted)".
    """
    image = np.asarray(image)
    grey = image if image.ndim == 2 else image @ [0.299, 0.587, 0.114]  # the colours belong to the map
    maps = np.stack([np.asarray(over_time), *np.asarray(by_step)])
    maps = maps / (maps.max() or 1.0)
    shown = {0: "all steps"} | {step + 1: title for step, title in _steps(len(maps) - 1).items()}
    side = min(1.1, 5.4 / (len(shown) + 1))
    figure = Figure((WIDTH, 0.7 + 2 * side), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(side, 5.7 - side))[0]
    right.suptitle(one_line(f"evidence for class {target}"), weight="bold")
    _show(left.subplots(), image, "image", **_GREY)
    above, below = right.subplots(2, len(shown))
    extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
    for axes, at in zip(below, shown):
        _show(axes, 0.5 + 0.5 * grey, "", **_GREY)
        axes.imshow(maps[at], vmin=maps.min(), vmax=1, alpha=0.6, extent=extent, interpolation="bilinear")
    _maps(above, maps, shown, below, "share of the largest")
    return figure


@print_style
def firing_rates_by_step(rates: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """Firing rate of every layer at every step: a panel for each encoder, one scale for all.

    Args:
        rates: name of the encoder -> layer -> ``[T]``, as :func:`gac_sj.analysis.firing_rates` measures them.
    """
    panels = {name: {layer: np.asarray(rate) for layer, rate in by_layer.items()} for name, by_layer in rates.items()}
    # the longest list first, so that the encoder's neuron stays in front if only some encoders have one
    longest_first = sorted(panels.values(), key=len, reverse=True)
    layers = list(dict.fromkeys(layer for by_layer in longest_first for layer in by_layer))
    largest = max(rate.max() for by_layer in panels.values() for rate in by_layer.values()) or 1.0
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    titles = {name: _wrapped(name, 60 // columns) for name in panels}
    above = 0.13 * max(title.count("\n") for title in titles.values())
    figure = Figure((WIDTH, 0.6 + rows * (0.6 + above + max(0.9, 0.2 * len(layers)))), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for place, (name, by_layer) in zip(axes, panels.items()):
        T = max(map(len, by_layer.values()))
        table = np.array([by_layer.get(layer, np.full(T, np.nan)) for layer in layers])
        shown = place.imshow(table, vmin=0, vmax=largest, aspect="auto")
        place.set(title=titles[name], xlabel="time step", facecolor="0.9")
        place.set(xticks=range(T), xticklabels=range(1, T + 1))
        place.set(yticks=range(len(layers)), yticklabels=map(one_line, layers))
        place.spines[:].set_visible(False)
        place.tick_params(length=0)
        place.grid(False)
        if T * columns <= 18:  # else the numbers do not fit
            for (layer, step), rate in np.ndenumerate(table):
                text = "" if np.isnan(rate) else f"{rate:.2f}".lstrip("0")
                place.text(step, layer, text, ha="center", va="center", color="w" if rate < 0.6 * largest else "k")
    for place in axes[len(panels) :]:
        place.remove()
    # below all panels: beside them it would be as thick as they are many
    where: dict[str, Any] = {"location": "bottom", "shrink": 0.6, "aspect": 40, "pad": 0.03 / rows}
    figure.colorbar(shown, ax=list(axes[: len(panels)]), label="spikes per neuron and step", **where)
    return figure


def _are_spikes(array: np.ndarray) -> bool:
    return bool(((array == 0) | (array == 1)).all())


def _wrapped(name: str, width: int) -> str:
    """A name in lines that fit above a panel, broken behind a colon or a comma where there is one."""
    return "\n".join(re.findall(rf".{{1,{width}}}(?:(?<=[:,])|$)|.{{1,{width}}}", one_line(name)))


def _show(axes: Axes, values: ArrayLike, title: str, **how: Any) -> AxesImage:
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
