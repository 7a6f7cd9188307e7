"""Compare two sets of runs, paired by seed.

    python experiments/compare.py runs/cifar10_gac_T4 runs/cifar10_direct_T4
    python experiments/compare.py runs/mine/results.csv:gac:reference runs/mine/results.csv:direct
    python experiments/compare.py runs/bf16:gac runs/float32:gac --over amp channels_last

A and B are files of rows, or folders that hold result.csv or results.csv; :ENCODER, as report.py names it, selects
rows. Both must have the same settings but for model, encoder, form and those of --over. Prints the difference A - B of
every seed, and its mean with a 95 % confidence interval (Student's t, which takes the differences as normally
distributed).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gac_sj._utils.errors import UsageError
from gac_sj.cli.program import program
from gac_sj.encoders import encoder_label, find_encoder, parse_encoder
from gac_sj.results import Run, load
from gac_sj.results.comparison import differing, interval, pair
from gac_sj.results.table import markdown_table

MEASURES = {"last epoch": "accuracy_last", "best epoch": "accuracy_best"}


def read_set(text: str) -> list[Run]:
    """The runs that an argument names: of equal settings but for the seed.

    Args:
        text: a file or folder, followed by ":ENCODER" if it has several encoders.

    Raises:
        UsageError: there are none, or they have several settings.
    """
    place, _, wanted = text.partition(":")
    runs = load(Path(place)).runs
    if wanted:
        labels = dict.fromkeys(run.label for run in runs)
        if find_encoder(wanted.partition(":")[0]):  # rows of others are read without importing them
            wanted = encoder_label(*parse_encoder(wanted))
        runs = [run for run in runs if run.label == wanted]
        if not runs:
            raise UsageError(f"{place} has no rows of {wanted!r}; it has those of {', '.join(labels) or 'no encoder'}")
    if not runs:
        raise UsageError(f"{place} has no rows of runs", "give a file that a finished run has left")
    if mixed := differing(runs, [name for name in runs[0].settings if name != "seed"]):
        raise UsageError(f"{text} mixes several settings ({mixed})", "select with :ENCODER, or name one of the runs")
    return runs


def report(pairs: list[tuple[Run, Run]]) -> str:
    """Differences by seed in percentage points, their means and intervals, and what the last epoch's says.

    Args:
        pairs: runs of equal seeds.
    """
    head = ["seed", *(f"{name}, {part}" for name in MEASURES for part in ("A", "B", "A - B"))]
    lines = []
    differences: dict[str, list[float]] = {name: [] for name in MEASURES}
    for a, b in pairs:
        cells = [str(a.seed)]
        for name, column in MEASURES.items():
            left, right = a.value(column), b.value(column)
            differences[name].append(left - right)
            cells += [f"{left:.2f}", f"{right:.2f}", f"{left - right:+.2f}"]
        lines.append(cells)
    text = [markdown_table(head, lines), ""]
    found = {name: interval(values) for name, values in differences.items()}
    for name, each in found.items():
        ends = f"[{each.low:+.2f}, {each.high:+.2f}]"
        text.append(f"{name}: A - B = {each.mean:+.2f} points, 95 % confidence interval {ends}")
    return "\n".join([*text, f"The interval of the last epoch {found['last epoch'].verdict('A', 'B')}"])


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", help="FILE or FOLDER, followed by :ENCODER if it has several")
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument("--over", nargs="+", default=[], metavar="SETTING", help="in which A and B may differ too")
    return parser


@program(build_parser)
def main(args: argparse.Namespace) -> None:
    a, b = read_set(args.a), read_set(args.b)
    text = report(pair(a, b, args.over))
    for name, runs, place in (("A", a, args.a), ("B", b, args.b)):
        print(f"{name}: {runs[0].settings['model']}, {runs[0].label}, {len(runs)} seeds ({place})")
    print(f"\n{text}")


if __name__ == "__main__":
    sys.exit(main())
