"""Write the tables of experiments/RESULTS.md again, from the rows that finished runs left.

    python experiments/ledger.py                 # rows in experiments/results
    python experiments/ledger.py --runs runs     # and every result.csv and results.csv below these folders
    python experiments/ledger.py --check         # 1 where RESULTS.md is out of date, and nothing is written

Only what lies between the two markers changes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from gac_sj._utils.configuration import read_yaml
from gac_sj._utils.files import write_atomically
from gac_sj.results.schema import as_text
from gac_sj.results.sets import SHARED, Row, group, label, read_rows, result_files, spread
from gac_sj.training.settings import Settings

FOLDER = Path(__file__).resolve().parent
LEDGER, RESULTS = FOLDER / "RESULTS.md", FOLDER / "results"
BEGIN, END = "<!-- ledger: begin -->", "<!-- ledger: end -->"
COLUMNS = (
    "config", "model", "encoder", "data set", "T", "epochs", "n", "seeds", "last epoch (%)", "best epoch (%)",
    "still rising", "images/s", "commit", "rows",
)  # fmt: skip


def configs() -> dict[str, dict[str, str]]:
    """The settings of every YAML file, as they stand in rows, without seed and images.

    Raises:
        ValueError: see :func:`gac_sj._utils.configuration.read_yaml` and :class:`Settings`.
    """
    names = [field.name for field in fields(Settings)]
    found = {}
    for path in sorted((FOLDER / "configs").glob("*.yaml")):
        settings = Settings(**read_yaml(path, names)).key()
        del settings["seed"]
        found[path.name] = as_text(settings)
    return found


def tables(sets: list[list[Row]], known: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown: a line for every set, and one for every config without rows."""
    names = [_config(rows[0], known) for rows in sets]
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))] + [_line(_cells(*pair)) for pair in zip(names, sets)]
    idle = [_line([f"[{name}](configs/{name})", "not run"]) for name in known if name not in names]
    return "\n".join([
        "## Runs", "", *(lines if sets else ["No run has left rows yet."]), "",
        "## Configs that were never run", "", _line(["config", "status"]), _line(["---"] * 2), *idle,
    ])  # fmt: skip


def rising(rows: list[Row]) -> str:
    """Whether the test accuracy still rose: the gain of the last test over the one before, and its standard error.

    It did where the mean gain over the seeds is above the standard error; one seed, or one test, cannot say.
    """
    curves = [list(json.loads(row["accuracy_by_epoch"]).values()) for row in rows]
    if len(rows) < 2 or len(curves[0]) < 2:
        return "-"
    gains = [curve[-1] - curve[-2] for curve in curves]
    mean, error = statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    return f"{'yes' if mean > error else 'no'} ({mean:+.2f} ± {error:.2f})"


def rewrite(text: str, content: str) -> str:
    """The text with the content between its markers.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in tail:
        raise ValueError(f"{LEDGER.name} needs the lines {BEGIN} and {END} once each, in this order; put them back.")
    return f"{head}{BEGIN}\n\n{content}\n\n{END}{tail}"


def _config(row: Row, known: Mapping[str, Mapping[str, str]]) -> str | None:
    """The YAML file with exactly these settings."""
    settings = {name: row[name] for name in SHARED if name != "data"}
    return next((name for name, config in known.items() if config == settings), None)


def _cells(config: str | None, rows: list[Row]) -> list[str]:
    first = rows[0]
    files = list(dict.fromkeys(os.path.relpath(row["path"], FOLDER) for row in rows))
    limit = "" if first["train_limit"] == "None" else f", {int(first['train_limit']):,} training images"
    speed = statistics.mean(float(row["images_per_second"]) for row in rows)
    return [
        f"[{config}](configs/{config})" if config else files[0],
        first["model"],
        label(first),
        first["dataset"] + limit,
        first["T"],
        first["epochs"],
        str(len(rows)),
        _values(rows, "seed"),
        spread(rows, "accuracy_last"),
        spread(rows, "accuracy_best"),
        rising(rows),
        f"{speed:,.0f} on {_values(rows, 'device')}",
        _values(rows, "commit"),
        ", ".join(f"[{file}]({file})" for file in files),
    ]


def _values(rows: list[Row], name: str) -> str:
    return "; ".join(dict.fromkeys(row[name] for row in rows))


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, default=[], metavar="DIR", help="folders with further rows")
    parser.add_argument("--check", action="store_true", help="only say whether RESULTS.md is up to date")
    args = parser.parse_args(arguments)
    try:
        files = sorted(RESULTS.rglob("*.csv")) + [file for place in args.runs for file in result_files(place)]
        before = LEDGER.read_text(encoding="utf-8")
        after = rewrite(before, tables(group(read_rows(files)), configs()))
        if not args.check:
            write_atomically(LEDGER, after.encode())
    except (ValueError, OSError) as error:
        print(f"ledger.py: {error}", file=sys.stderr)
        return 2
    if args.check and after != before:
        print("ledger.py: RESULTS.md is out of date; run python experiments/ledger.py.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
