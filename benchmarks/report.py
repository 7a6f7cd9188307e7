"""One HTML page, and Markdown, from the rows of runs.

    python benchmarks/report.py runs/cifar10                       # runs/cifar10/report.html
    python benchmarks/report.py runs --output report.html          # all runs below a folder
    python benchmarks/report.py --readme                           # the numbers of README.md and benchmarks/README.md
    python benchmarks/report.py --readme --check                   # 1 where they are out of date; nothing is written

The page has results.csv, result.csv, robustness.csv and speed.csv below the folder: rows of equal settings in tables
that sort, plots inside, no network. Of the READMEs only what lies between <!-- rows: NAME --> and <!-- rows: end -->
changes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from gac_sj._utils.files import write_atomically
from gac_sj.analysis import figures
from gac_sj.results.files import Found, read_folder
from gac_sj.results.page import Section, page
from gac_sj.results.robustness import CLEAN, robustness_plot, robustness_sets, robustness_tables
from gac_sj.results.speed import speed_table
from gac_sj.results.table import TIMES, Row, json_of, number, values
from gac_sj.results.tables import (
    VARYING,
    by_encoder,
    by_settings,
    label,
    network_name,
    result_tables,
    settings_of,
    spread,
)

__all__ = ["label", "spread", "write_report"]

#: What the columns of results say; see gac_sj.analysis.energy and gac_sj.analysis.dynamics.
MEANINGS = {
    "encoder": "With recipe and options where those are not the default ones.",
    "n": "Runs that differ in nothing but the seed. Numbers are mean ± standard deviation over them; (n = 2) behind "
    "one: only so many runs have it.",
    "last epoch, best epoch": "Test accuracy. Best is the best test epoch, which flatters: it chooses by the test set. "
    "Compare the last.",
    "training": "Accuracy on the training images as the network learned from them, last epoch.",
    "firing rate": "Spikes per neuron and step on the test set, mean over layers.",
    "paper, complete": "Energy of one image. Paper: the convention of GAC's authors, without attention and elementwise "
    "products. Complete: whatever ran. 4.6 pJ for a multiply-accumulate (MAC), 0.9 pJ for an accumulation (AC).",
    "attention": "What of the complete energy attention takes, the gate included: one in the encoder, or one in every "
    "block.",
    "encoder's share": "Of the complete energy.",
    "dense MACs, effective MACs, effective ACs": "Operations for one image and all steps, with and without zeros.",
    "non-spiking layers": "Layers behind the encoder that receive something else than spikes.",
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
#: What rows say of where they come from, beside their settings.
ORIGIN = {
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


def write_report(folder: Path, rows: list[Row]) -> str:
    """Write report.md, report.html and the plots of rows of equal settings into ``folder``; returns the first table.

    Raises:
        ValueError: no rows, or a damaged number.
        OSError: they cannot be written.
    """
    tables, drawn = result_tables(rows), dict(plots(rows))
    for name, figure in drawn.items():
        figures.save(figure, folder / name)
    parts = [f"# Encoders on {rows[0]['dataset']}"]
    parts += [f"## {table.title}\n\n{table.markdown()}\n\n{table.note}" for table in tables if not table.is_empty]
    parts += [f"![{_caption(name)}]({name}.png)" for name in drawn]
    parts += ["## What the columns say", _items(MEANINGS), "## Settings", _items(details(rows))]
    write_atomically(folder / "report.md", ("\n\n".join(parts) + "\n").encode())
    write_atomically(folder / "report.html", html(f"Encoders on {rows[0]['dataset']}", Found(rows)).encode())
    return tables[0].markdown()


def html(title: str, found: Found) -> str:
    """The page of all rows.

    Raises:
        ValueError: a damaged number; two accuracies of the same test.
    """
    return page(title, MEANINGS if found.results else {}, sections(found))


def sections(found: Found) -> Iterator[Section]:
    """A section for each set of rows that may be averaged."""
    if found.results:
        for title, rows in by_settings(found.results).items():
            drawn = {_caption(name): figure for name, figure in plots(rows)}
            yield Section(_heading(rows[0], title), result_tables(rows), drawn, details(rows))
        for title, rows in by_settings(found.results, (*VARYING, "T")).items():
            if len(values(rows, "T")) > 1:
                drawn = {"Accuracy against T": figures.accuracy_against_T(by_encoder(rows))}
                yield Section(f"Several T{f': {title}' if title else ''}", (), drawn, details(rows, (*VARYING, "T")))
    for title, rows in robustness_sets(found.robustness).items():
        corrupted = any(row["corruption"] != CLEAN for row in rows)
        drawn = {"Accuracy against severity": robustness_plot(rows)} if corrupted else {}
        yield Section(f"Robustness: {_heading(rows[0], title)}", robustness_tables(rows), drawn, _origin(rows))
    if found.speed:
        yield Section("Speed", [speed_table(found.speed)], {}, _origin(found.speed))


def plots(rows: list[Row]) -> Iterator[tuple[str, Figure]]:
    """Name and plot of all that rows of equal settings have; each is of the rows that have it."""
    if curves := [row for row in rows if len(json_of(row, "accuracy_by_epoch") or ()) > 1]:
        yield "learning_curves", figures.learning_curves(by_encoder(curves))
    if measured := [row for row in rows if number(row, "energy_complete_pj") is not None]:
        yield "accuracy_against_energy", figures.accuracy_against_energy(by_encoder(measured))
    if analysed := [row for row in rows if json_of(row, "firing_rates_by_step")]:
        yield "firing_rates_by_step", figures.firing_rates_by_step(by_encoder(analysed))


def details(rows: list[Row], but: tuple[str, ...] = VARYING) -> dict[str, str]:
    """Where rows come from, and all settings that they share, which are those but for some."""
    shared = settings_of(rows[0], but)
    return _origin(rows) | {"settings": ", ".join(f"{name}={value}" for name, value in shared.items())}


def _origin(rows: list[Row]) -> dict[str, str]:
    return {name: "; ".join(found) for column, name in ORIGIN.items() if (found := values(rows, column))}


def _heading(row: Row, differing: str) -> str:
    text = f"{row['dataset']}, {network_name(row)}, T = {row['T']}, {row['epochs']} epochs"
    return f"{text} ({differing})" if differing else text


def _caption(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _items(found: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in found.items())


def _readme(check: bool) -> int:
    from gac_sj.results.markdown import rewrite_pages  # imports experiments, which imports this module, and scipy

    stale = rewrite_pages(check)
    for path in stale:
        if check:
            print(f"report.py: {path} is out of date; run python benchmarks/report.py --readme.", file=sys.stderr)
        else:
            print(path)
    return int(check and bool(stale))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="with finished runs, or a file of rows")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html in the folder)")
    parser.add_argument("--readme", action="store_true", help="write the numbers of the READMEs again")
    parser.add_argument("--check", action="store_true", help="with --readme: only say whether they are up to date")
    args = parser.parse_args(arguments)
    try:
        if args.readme == (args.folder is not None) or (args.check and not args.readme):
            raise ValueError("Name a folder of runs, or give --readme (with --check, nothing is written).")
        if args.readme:
            return _readme(args.check)
        text = html(f"Report on {args.folder}", read_folder(args.folder))
        output = args.output or (args.folder if args.folder.is_dir() else args.folder.parent) / "report.html"
        try:
            write_atomically(output, text.encode())
        except OSError as error:
            raise ValueError(f"{output} cannot be written ({error}); give another --output.") from error
        print(output)
    except (ValueError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("report.py: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
