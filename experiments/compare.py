"""Compare two sets of runs, paired by seed.

    python experiments/compare.py runs/cifar10_gac_T4 runs/cifar10_direct_T4
    python experiments/compare.py runs/mine/results.csv:gac:reference runs/mine/results.csv:direct

A and B are files of rows, or folders that hold result.csv or results.csv; :ENCODER, as report.py names it, selects
rows. Both must have the same settings but for model, encoder and recipe. Prints the difference A - B of every seed, and
its mean with a 95 % confidence interval (Student's t, which takes the differences as normally distributed).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from scipy import stats

from gac_sj.encoders import encoder_label, parse_encoder
from gac_sj.results.sets import SHARED, Row, group, label, read_rows, result_files

#: What A and B may differ in, and so what is compared.
COMPARED = ("model", "encoder", "form", "model_options")
MEASURES = {"last epoch": "accuracy_last", "best epoch": "accuracy_best"}
LEAST = 3


def read_set(text: str) -> list[Row]:
    """The rows that an argument names: one set.

    Raises:
        ValueError: there are none, or they have several settings.
    """
    place, _, wanted = text.partition(":")
    rows = read_rows(result_files(Path(place)))
    if wanted:
        names = dict.fromkeys(label(row) for row in rows)
        wanted = encoder_label(*parse_encoder(wanted))
        rows = [row for row in rows if label(row) == wanted]
        if not rows:
            raise ValueError(f"{place} has no rows of {wanted!r}; it has those of {', '.join(names) or 'none'}.")
    if not rows:
        raise ValueError(f"{place} has no rows of results; give a file that a finished run has left.")
    if mixed := _differing(rows, SHARED):
        raise ValueError(f"{text} mixes several settings ({mixed}); select with :ENCODER, or name one of the runs.")
    return group(rows)[0]


def pair(a: list[Row], b: list[Row]) -> list[tuple[Row, Row]]:
    """Rows of the same seed.

    Raises:
        ValueError: the sets differ in more than what is compared, or in nothing; fewer than three common seeds.
    """
    if other := _differing([a[0], b[0]], tuple(name for name in SHARED if name not in COMPARED)):
        raise ValueError(f"A and B differ in more than the network ({other}); compare runs of one recipe.")
    if not _differing([a[0], b[0]], COMPARED):
        raise ValueError("A and B are the same settings; name two different ones.")
    seeds = {row["seed"]: row for row in b}
    pairs = [(row, seeds[row["seed"]]) for row in a if row["seed"] in seeds]
    if len(pairs) < LEAST:
        shared = ", ".join(row["seed"] for row, _ in pairs) or "none"
        raise ValueError(f"A and B share {len(pairs)} seeds ({shared}), and this needs {LEAST}; train more.")
    return pairs


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean, and both ends of its 95 % confidence interval (Student's t)."""
    mean, n = statistics.mean(differences), len(differences)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5
    return mean, mean - half, mean + half


def report(pairs: list[tuple[Row, Row]]) -> str:
    """Differences by seed in percentage points, their means and intervals, and what the last epoch's says."""
    columns = ["seed", *(f"{name}, {part}" for name in MEASURES for part in ("A", "B", "A - B"))]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    differences: dict[str, list[float]] = {name: [] for name in MEASURES}
    for a, b in pairs:
        cells = [a["seed"]]
        for name, column in MEASURES.items():
            left, right = float(a[column]), float(b[column])
            differences[name].append(left - right)
            cells += [f"{left:.2f}", f"{right:.2f}", f"{left - right:+.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for name in MEASURES:
        mean, low, high = interval(differences[name])
        lines.append(f"{name}: A - B = {mean:+.2f} points, 95 % confidence interval [{low:+.2f}, {high:+.2f}]")
    mean, low, high = interval(differences["last epoch"])
    if low <= 0 <= high:
        verdict = f"The interval of the last epoch includes 0: these {len(pairs)} seeds do not tell A and B apart."
    else:
        verdict = f"The interval of the last epoch excludes 0: A is {'above' if mean > 0 else 'below'} B."
    return "\n".join([*lines, verdict])


def _differing(rows: list[Row], names: tuple[str, ...]) -> str:
    """The settings in which rows differ, with their values."""
    values = {name: list(dict.fromkeys(row[name] for row in rows)) for name in names}
    return "; ".join(f"{name}: {', '.join(found)}" for name, found in values.items() if len(found) > 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A", help="FILE or FOLDER, :ENCODER where it has several")
    parser.add_argument("b", metavar="B", help="the same")
    args = parser.parse_args(arguments)
    try:
        a, b = read_set(args.a), read_set(args.b)
        pairs = pair(a, b)
    except ValueError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    for name, rows, place in (("A", a, args.a), ("B", b, args.b)):
        first = rows[0]
        print(f"{name}: {first['model']}, {label(first)}, {len(rows)} seeds ({place})")
    print(f"\n{report(pairs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
