"""Print the ledger of finished runs: a line for every set that differs in nothing but the seed.

    python experiments/ledger.py                 # rows in experiments/results
    python experiments/ledger.py --runs runs     # every result.csv and results.csv below these folders

Paths are relative to the current folder. docs/benchmarks/ledger.md has the ledger of experiments/results, which
python benchmarks/report.py --markdown writes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gac_sj.cli.program import program
from gac_sj.results import load
from gac_sj.results.ledger import ledger, read_configs

FOLDER = Path(__file__).resolve().parent


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ledger.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        default=[FOLDER / "results"],
        metavar="DIR",
        help="folders of finished runs, or files of rows (default: experiments/results)",
    )
    return parser


@program(build_parser)
def main(args: argparse.Namespace) -> None:
    print(ledger(load(*args.runs).runs, read_configs(FOLDER / "configs"), Path.cwd()))


if __name__ == "__main__":
    sys.exit(main())
