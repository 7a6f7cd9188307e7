"""A sub-command of speed.py in this checkout and in another revision: how many times as long this checkout takes.

Each side is timed by its own speed.py in its own processes, except that steps of training are timed by the program
:mod:`speeds.stepping` of this checkout, which knows any revision of the package. They run in pairs of alternating
order, so that changes in the speed of the machine affect both. The sides share only the command line and the columns of
the rows.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gac_sj._utils.errors import UsageError

__all__ = ["Checkout", "add_arguments", "compare", "measure_pairs", "quantiles", "ratio_lines"]

REPOSITORY = Path(__file__).resolve().parents[2]
MIN_PAIRS = 15
MIN_PAIRS_QUICK = 2
#: Columns that must be equal on both sides; defaults may differ between revisions.
SETTINGS = ("benchmark", "model", "dtype", "T", "batch", "size", "channels", "repeats", "versions", "device")

#: The program that times both sides of a sub-command; each side has one of its own for the others.
PROGRAMS = {"train": "speeds.stepping"}

#: The rows of one process by mode and variant.
Rows = dict[tuple[str, str], dict[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--against`` and ``--pairs``, which are absent from the result unless they are given.

    Args:
        parser: of a sub-command.
    """
    group = parser.add_argument_group("comparison with another revision")
    group.add_argument(
        "--against",
        metavar="REV",
        default=argparse.SUPPRESS,
        help="print how many times as long this checkout takes as this git revision",
    )
    group.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        default=argparse.SUPPRESS,
        help=f"pairs of processes, one of each side; default and minimum: {MIN_PAIRS}, with --quick {MIN_PAIRS_QUICK}",
    )


@dataclass(frozen=True)
class Checkout:
    """A clean checkout of one commit.

    Args:
        name: what messages call it.
        folder: its root.
        commit: the full hash.
    """

    name: str
    folder: Path
    commit: str

    def measure(self, arguments: list[str]) -> Rows:
        """Run this checkout's speed.py once, or the program of :data:`PROGRAMS`.

        Args:
            arguments: the sub-command and its options.

        Returns:
            Its rows.

        Raises:
            UsageError: the process fails, or it measures a ``gac_sj`` of another commit.
        """
        shared = PROGRAMS.get(arguments[0])
        program = ["-m", shared, *arguments[1:]] if shared else ["benchmarks/speed.py", *arguments]
        own = [str(Path(__file__).resolve().parents[1])] if shared else []
        # in front of an installed gac_sj
        paths = [str(self.folder), *own, *filter(None, [os.environ.get("PYTHONPATH")])]
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "rows.csv"
            process = subprocess.run(
                [sys.executable, *program, "--output", str(output)],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                capture_output=True,
                text=True,
            )
            if process.returncode != 0:
                raise UsageError(f"speed.py of {self.name} failed: {_last_line(process.stderr).rstrip('.')}")
            with open(output, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        for row in rows:
            commit = row.get("commit") or "unknown"
            if not self.commit.startswith(commit):
                raise UsageError(
                    f"speed.py of {self.name} must measure gac_sj of commit {self.commit[:12]}, got {commit}",
                    "check which gac_sj it imports, and leave the checkout unchanged while it is measured",
                )
        return {(row["mode"], row["variant"]): row for row in rows}


def compare(args: argparse.Namespace, arguments: list[str]) -> None:
    """Measure a sub-command in this checkout and in a temporary worktree of a revision, and print the ratios.

    Args:
        args: the parsed arguments.
        arguments: the same unparsed; the processes get them without the options of :func:`add_arguments`.

    Raises:
        UsageError: the arguments, the git repository or the revision cannot be used, or a process fails.
    """
    minimum = MIN_PAIRS_QUICK if args.quick else MIN_PAIRS
    pairs = getattr(args, "pairs", minimum)
    if pairs < minimum:
        advice = "" if args.quick else f"with --quick {MIN_PAIRS_QUICK} are enough"
        raise UsageError(f"must be at least {minimum}, got {pairs}", advice, argument="pairs")
    if args.output:
        raise UsageError("cannot be used with --against, which writes no rows", "omit one of them", argument="output")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_arguments(own)
    _, passed_on = own.parse_known_args(arguments)
    commit = _resolve(args.against)
    here = Checkout("this checkout", REPOSITORY, _git("rev-parse", "HEAD"))
    with _worktree(commit) as folder:
        there = Checkout(args.against, folder, commit)
        measured = measure_pairs(here, there, passed_on, pairs)
    print(
        f"this checkout ({here.commit[:12]}) against {there.name} ({commit[:12]}), {pairs} pairs: "
        "ratios of time here / time there, above 1 where this checkout is slower"
    )
    for line in ratio_lines(measured):
        print(line)


def measure_pairs(here: Checkout, there: Checkout, arguments: list[str], pairs: int) -> list[tuple[Rows, Rows]]:
    """Measure two checkouts in turns: A B, B A, A B, ...

    Args:
        here: a checkout.
        there: the other one.
        arguments: the sub-command and its options.
        pairs: number of pairs; one more is measured first and not returned, because it may compile kernels.

    Returns:
        The rows of ``here`` and of ``there`` for each pair.

    Raises:
        UsageError: a process fails, or the sides do not measure the same.
    """
    measured = []
    for pair in tqdm(range(1 + pairs), desc="pairs, one to warm up", disable=None, leave=False):
        order = (here, there) if pair % 2 else (there, here)
        rows = {checkout: checkout.measure(arguments) for checkout in order}
        _require_same_settings(here, rows[here], there, rows[there])
        measured.append((rows[here], rows[there]))
    return measured[1:]


def ratio_lines(measured: list[tuple[Rows, Rows]]) -> Iterator[str]:
    """Describe the ratios of times.

    Args:
        measured: the rows of this checkout and of the other one for each pair.

    Yields:
        A line of settings, one for each mode of each own variant, and one for each that a side lacks.
    """
    first_here, first_there = measured[0]
    settings = next(iter(first_here.values()))
    yield ", ".join(f"{name} {settings[name]}" for name in SETTINGS[1:] if settings.get(name))
    for mode, variant in dict.fromkeys([*first_here, *first_there]):
        if not _is_ours(variant):
            continue
        label = f"{settings['benchmark']:<8} {mode:<17} {variant:<13}"
        pairs = [(here.get((mode, variant)), there.get((mode, variant))) for here, there in measured]
        if None in (present := pairs[0]):
            yield f"{label} not compared: only {'there' if present[0] is None else 'here'}"
            continue
        times = [[float(row["median_ms"]) for row in side] for side in zip(*pairs)]
        low, lower, median, upper, high = quantiles([here / there for here, there in zip(*times)])
        paths = " / ".join(dict.fromkeys(row["ops_path"] for row in present))
        milliseconds = " / ".join(f"{statistics.median(side):.3f}" for side in times)
        yield (
            f"{label} {paths:<7} takes {median:.3f} times as long  "
            f"[5 %: {low:.3f}, 25 %: {lower:.3f}, 75 %: {upper:.3f}, 95 %: {high:.3f}]  {milliseconds} ms here / there"
        )


def quantiles(values: list[float]) -> tuple[float, float, float, float, float]:
    """The 5, 25, 50, 75 and 95 % quantiles, interpolated linearly.

    Args:
        values: at least two numbers.
    """
    twentieths = statistics.quantiles(values, n=20, method="inclusive")
    return twentieths[0], twentieths[4], twentieths[9], twentieths[14], twentieths[18]


def _is_ours(variant: str) -> bool:
    return not variant.startswith(("naive", "spikingjelly"))


def _require_same_settings(here: Checkout, rows: Rows, there: Checkout, others: Rows) -> None:
    """Refuse to compare different work.

    Raises:
        UsageError: no variant ``ours`` is on both sides, or a setting differs.
    """
    common = rows.keys() & others.keys()
    if not any(_is_ours(variant) for _, variant in common):
        raise UsageError(f"speed.py of {here.name} and of {there.name} have no variant of ours in common")
    for key in common:
        for name in SETTINGS:
            one, other = rows[key].get(name), others[key].get(name)
            if None not in (one, other) and one != other:
                raise UsageError(
                    f"must be equal on both sides, got {one} in {here.name} and {other} in {there.name}",
                    "pass it on the command line if it is an option",
                    argument=name,
                )


def _resolve(rev: str) -> str:
    """The commit of a revision, after a check that this checkout has no changes.

    Raises:
        UsageError: there is no git repository or no such revision, or files that git tracks have changed.
    """
    if not (REPOSITORY / ".git").exists():
        raise UsageError(
            f"needs a git checkout, and {REPOSITORY} is not one", "clone the repository", argument="against"
        )
    if _git("status", "--porcelain", "--untracked-files=no"):
        raise UsageError(
            "compares commits, and this checkout has uncommitted changes", "commit or stash them", argument="against"
        )
    try:
        return _git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}")
    except UsageError as error:
        raise UsageError(
            f"must name a commit of this repository, got {rev!r}",
            "`git log` lists them; a shallow clone may have to fetch it",
            argument="against",
        ) from error


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    """A temporary worktree, which is always removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="gac_sj_") as parent:
        folder = Path(parent) / commit[:12]
        try:
            _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
            yield folder
        finally:
            if folder.exists():
                _git("worktree", "remove", "--force", "--force", str(folder))  # twice: also if it is locked


def _git(*arguments: str) -> str:
    """The output of a git command.

    Raises:
        UsageError: git is not installed, or it fails.
    """
    try:
        process = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True)
    except OSError as error:
        raise UsageError(
            f"needs git, which does not run ({error.strerror})", "install it", argument="against"
        ) from error
    if process.returncode != 0:
        raise UsageError(f"git {arguments[0]} failed: {_last_line(process.stderr).rstrip('.')}")
    return process.stdout.strip()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed no error"])[-1]
