"""Reports on results: one HTML page of everything, and what a benchmark leaves beside its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gac_sj._utils.files import write_atomically
from gac_sj._utils.plotting import save
from gac_sj.results.columns import text_of
from gac_sj.results.figures import accuracy_against_severity, accuracy_against_T, figures_of_runs
from gac_sj.results.load import Results
from gac_sj.results.page import Section, page
from gac_sj.results.robustness import CLEAN, robustness_sets, robustness_tables
from gac_sj.results.run import ENCODER_SETTINGS, Record, Run, group
from gac_sj.results.run_tables import group_over_encoders, run_tables
from gac_sj.results.speed import speed_tables
from gac_sj.results.table import TIMES, escape, values

__all__ = ["html", "write_report"]

#: What the headings of tables of runs mean; see gac_sj.analysis.energy and gac_sj.analysis.dynamics.
MEANINGS = {
    "encoder": "With form and options if they are not the defaults.",
    "n": "Runs that differ in nothing but the seed. Numbers are mean ± standard deviation over them; (n = 2) after "
    "a number: only so many runs have it.",
    "last epoch, best epoch": "Test accuracy. Best is the best test epoch, which flatters: it chooses by the test set. "
    "Compare the last.",
    "training": "Accuracy on the training images as the network learned from them, last epoch.",
    "firing rate": "Spikes per neuron and step on the test set, mean over layers.",
    "paper, complete": "Energy of one image. Paper: the convention of GAC's authors, without attention and elementwise "
    "products. Complete: everything that ran. 4.6 pJ for a multiply-accumulate (MAC), 0.9 pJ for an accumulation (AC), "
    "unless the note names other costs than 45nm.",
    "dense, event-driven, with memory": "Energy of one image with the reads and writes of memory: on a machine that "
    "does all operations and uses whatever it reads for all that needs it, and on one that moves nothing for what is "
    "zero and reads weights and potentials for every spike.",
    "attention": "The part of attention in the complete energy, the gate included: one in the encoder, or one in every "
    "block.",
    "encoder's share": "Of the complete energy.",
    "dense MACs, effective MACs, effective ACs": "Operations for one image and all steps, with and without zeros.",
    "non-spiking layers": "Layers behind the encoder that receive other values than spikes.",
    "time to repeat": "Steps, 1 to T, until the encoder's output repeats, mean over units and images.",
    "duration not shorter": "Fraction of units and images whose time to repeat is not below that of direct coding with "
    "the same stem and the network's neuron.",
    "entropy": "Bits of a unit's output over images.",
    "time to first spike": "First step with an output, from 1.",
    "silent": "Fraction of units and images without output.",
    "information by step": "Bits that a step adds to those before it.",
    "change by step": "Mean absolute difference to the step before, in units of the mean absolute output.",
    "read-out by step": "Accuracy of a linear classifier on the encoder's output at one step alone.",
    "†": TIMES.removeprefix("† "),
}
#: Where rows come from: column, and its name on the page.
_ORIGIN = {
    "path": "rows",
    "seed": "seeds",
    "train_images": "training images",
    "test_images": "test images",
    "analysed_images": "analysed images",
    "processes": "processes",
    "commit": "commit",
    "versions": "versions",
    "device": "device",
}


def write_report(folder: Path, runs: Sequence[Run]) -> str:
    """Write report.md, report.html and the figures of some runs.

    Args:
        folder: that gets the files.
        runs: of equal settings but for encoder and seed.

    Returns:
        The table of accuracies, in Markdown.

    Raises:
        UsageError: there are no runs, or their settings differ.
        OSError: the files cannot be written.
    """
    tables, drawn = run_tables(runs), dict(figures_of_runs(runs))
    for name, figure in drawn.items():
        save(figure, folder / name)
    title = f"Encoders on {runs[0].settings['dataset']}"
    parts = [f"# {escape(title)}"]
    parts += [
        f"## {table.title}\n\n{table.markdown()}\n\n{table.markdown_note}" for table in tables if not table.is_empty
    ]
    parts += [f"![{_caption(name)}]({name}.png)" for name in drawn]
    parts += ["## What the columns mean", _items(MEANINGS), "## Settings", _items(_details(runs, ("encoder", "seed")))]
    write_atomically(folder / "report.md", "\n\n".join(parts) + "\n")
    write_atomically(folder / "report.html", html(title, Results(list(runs))))
    return tables[0].markdown()


def html(title: str, results: Results) -> str:
    """The page of all rows.

    Args:
        title: of the page.
        results: what it shows.

    Raises:
        UsageError: two accuracies of the same robustness test, or timings without a baseline.
    """
    return page(title, MEANINGS if results.runs else {}, _sections(results))


def _sections(results: Results) -> Iterator[Section]:
    """A section for each set of rows that can be averaged."""
    if results.runs:
        for title, runs in group_over_encoders(results.runs).items():
            drawn = {_caption(name): figure for name, figure in figures_of_runs(runs)}
            yield Section(_heading(runs[0], title), run_tables(runs), drawn, _details(runs, ("encoder", "seed")))
        over = ("encoder", "seed", "T")
        for title, runs in group(results.runs, over).items():
            if len(values(runs, "T")) > 1:
                drawn = {"Accuracy against T": accuracy_against_T(group(runs, ("seed", "T")))}
                yield Section(f"Several T{f': {title}' if title else ''}", (), drawn, _details(runs, over))
    for title, tests in robustness_sets(results.robustness).items():
        corrupted = any(test.corruption != CLEAN for test in tests)
        drawn = {"Accuracy against severity": accuracy_against_severity(tests)} if corrupted else {}
        yield Section(f"Robustness: {_heading(tests[0], title)}", robustness_tables(tests), drawn, _origin(tests))
    if results.speed:
        yield Section("Speed", speed_tables(results.speed), {}, _origin(results.speed))


def _details(runs: Sequence[Run], over: Sequence[str]) -> dict[str, str]:
    """Where runs come from, and the settings that they share: all but some."""
    varying = {*over, *ENCODER_SETTINGS}
    shared = {**runs[0].settings, "model": runs[0].network}
    text = ", ".join(f"{name}={text_of(value)}" for name, value in shared.items() if name not in varying)
    return _origin(runs) | {"settings": text}


def _origin(records: Sequence[Record]) -> dict[str, str]:
    return {name: "; ".join(found) for column, name in _ORIGIN.items() if (found := values(records, column))}


def _heading(record: Record, differing: str) -> str:
    settings = record.settings
    text = f"{settings['dataset']}, {record.network}, T = {settings['T']}, {settings['epochs']} epochs"
    return f"{text} ({differing})" if differing else text


def _caption(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _items(found: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {escape(text)}" for name, text in found.items())
