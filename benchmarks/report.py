"""One HTML page from the rows of runs, and the numbers of the Markdown pages.

    python benchmarks/report.py runs/cifar10                       # runs/cifar10/report.html
    python benchmarks/report.py runs --output report.html          # all runs below a folder
    python benchmarks/report.py --markdown                         # write the pages of results.yaml again
    python benchmarks/report.py --markdown --check                 # exit with 1 if a number is wrong; write nothing

The page has results.csv, result.csv, robustness.csv and speed.csv below the folder: rows of equal settings in tables
that sort, with plots inside; it needs no network. In a Markdown page, only the text between <!-- rows: NAME --> and
<!-- rows: end --> changes. --check also names numbers of the text that no row makes, and files that do not exist.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import write_atomically
from gac_sj.cli.program import program
from gac_sj.results import load
from gac_sj.results.index import read_index
from gac_sj.results.markdown import rewrite_pages
from gac_sj.results.quoted import check_text
from gac_sj.results.report import html

INDEX = Path(__file__).resolve().parents[1] / "results.yaml"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="finished runs, or a file of rows")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html in the folder)")
    parser.add_argument("--markdown", action="store_true", help="write the numbers of the Markdown pages again")
    parser.add_argument("--check", action="store_true", help="with --markdown: only say what is wrong")
    parser.add_argument(
        "--index", type=Path, default=INDEX, metavar="FILE", help="of the pages (default: results.yaml)"
    )
    return parser


@program(build_parser, interrupted="interrupted; nothing was written.")
def main(args: argparse.Namespace) -> int:
    if args.markdown == (args.folder is not None) or (args.check and not args.markdown):
        raise UsageError("Give a folder of runs or --markdown; --check belongs to --markdown")
    if args.markdown:
        index = read_index(args.index)
        stale = rewrite_pages(index, args.check)
        if not args.check:
            print(*stale, sep="\n", end="\n" if stale else "")
            return 0
        problems = [f"{page} is out of date; run python benchmarks/report.py --markdown." for page in stale]
        problems += check_text(index)
        for problem in problems:
            print(f"report.py: {problem}", file=sys.stderr)
        return int(bool(problems))
    text = html(f"Report on {args.folder}", load(args.folder))
    output = args.output or (args.folder if args.folder.is_dir() else args.folder.parent) / "report.html"
    try:
        write_atomically(output, text)
    except OSError as error:
        raise UsageError(f"{output} cannot be written ({error})", "give another --output") from error
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
