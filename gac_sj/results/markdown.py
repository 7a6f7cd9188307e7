"""Numbers in Markdown pages, made from rows.

A block of a page is the text between two lines, and :mod:`gac_sj.results.index` says what fills it::

    <!-- rows: NAME -->
    <!-- rows: end -->
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_text, write_atomically
from gac_sj.results.card import shipped_table
from gac_sj.results.comparison import MIN_SEEDS, Interval, corrected, interval, pair
from gac_sj.results.index import Block, Index
from gac_sj.results.ledger import ledger, read_configs
from gac_sj.results.robustness import robustness_sets, robustness_tables
from gac_sj.results.run import Run, group
from gac_sj.results.run_tables import group_over_encoders, run_tables
from gac_sj.results.speed_sentences import speed_sentences
from gac_sj.results.table import Table, escape

__all__ = ["rewrite", "rewrite_pages"]

_BEGIN, _END = "<!-- rows: NAME -->", "<!-- rows: end -->"
_MARKER = re.compile(r"^<!-- rows: (.*) -->$", re.MULTILINE)


def rewrite_pages(index: Index, check: bool = False) -> list[str]:
    """Write the blocks of all pages again.

    Args:
        index: of the pages.
        check: only compare, and write nothing.

    Returns:
        The pages that were out of date.

    Raises:
        UsageError: see :func:`rewrite`; or a page cannot be read. Then no page is written.
        OSError: a page cannot be written.
    """
    before = {}
    for page in index.pages:
        try:
            before[page] = read_text(index.base / page).replace("\r\n", "\n")
        except (OSError, UsageError) as error:
            reason = str(error).rstrip(".")
            raise UsageError(f"{page}, a page of {index.path.name}, cannot be read ({reason})", "restore it") from error
    after = {page: rewrite(text, index, page) for page, text in before.items()}
    stale = [page for page in index.pages if after[page] != before[page]]
    for page in [] if check else stale:
        write_atomically(index.base / page, after[page])
    return stale


def rewrite(text: str, index: Index, page: str) -> str:
    """The text of a page with every block as its rows say.

    Args:
        text: of the page.
        index: that lists the page.
        page: its path, relative to the index.

    Raises:
        UsageError: a block without end, or other blocks than those of the index; rows that are missing or cannot be
            read.
    """
    parts, place, found = [], 0, []
    name: str | None = None
    for marker in _MARKER.finditer(text):
        if (marker[1] == "end") != (name is not None):
            raise UsageError(
                f"{page} has {marker[0]}, and needs {_END if name else _BEGIN} there", "each block needs both"
            )
        if name is None:
            name = marker[1]
            found.append(name)
            if name not in index.pages[page]:
                raise UsageError(
                    f"{page} has the block {name!r}, which {index.path.name} does not list for it",
                    options=index.pages[page],
                    given=name,
                )
            parts.append(text[place : marker.end()])
        else:
            block = index.blocks[name]
            parts.append(f"\n\n{_MAKERS[block.kind](block, _Place(index, page))}\n\n")
            name, place = None, marker.start()
    missing = [each for each in index.pages[page] if each not in found]
    if name is not None or missing:
        raise UsageError(f"{page} lacks {_END if name else f'the block {missing[0]!r}'}", f"add {_BEGIN} and {_END}")
    return "".join([*parts, text[place:]])


@dataclass(frozen=True)
class _Place:
    """Where a block is written: the index, and the page's path in it."""

    index: Index
    page: str

    @property
    def folder(self) -> Path:
        """The folder of the page."""
        return (self.index.base / self.page).parent

    def link(self, path: str) -> str:
        """A link to a file below the index's folder."""
        return f"[{path}]({os.path.relpath(self.index.base / path, self.folder)})"

    def made_by(self, path: str) -> str:
        """The commands that make the rows."""
        return f"Made by {', '.join(f'`{command}`' for command in self.index.commands[path])}."

    def tables(self, tables: Sequence[Table], path: str) -> str:
        """Tables, each with what it rests on."""
        return "\n\n".join(f"{table.markdown()}\n\n{table.markdown_note} Rows: {self.link(path)}." for table in tables)


def _runs(block: Block, place: _Place) -> str:
    """Some tables of runs, for each set of equal settings, and the pairs that are compared."""
    parts = []
    wanted = block.options["tables"]
    for path in block.paths:
        for title, runs in group_over_encoders(place.index.load(path).runs).items():
            tables = {table.title: table for table in run_tables(runs)}
            if unknown := [name for name in wanted if name not in tables]:
                raise UsageError(
                    f"{place.index.path.name} has the unknown table {unknown[0]!r}", options=tables, given=unknown[0]
                )
            shown = [table for name, table in tables.items() if name in wanted and not table.is_empty]
            parts += [f"With {escape(title)}:"] if title else []
            parts.append(place.tables(shown, path) or f"The rows of {place.link(path)} were not analysed.")
            if "Accuracy" in wanted and (found := _differences(runs, place.index.pairs)):
                parts.append(found)
        parts.append(place.made_by(path))
    return "\n\n".join(parts)


def _robustness(block: Block, place: _Place) -> str:
    """Accuracy by corruption and attack, for each set of equal settings."""
    parts = []
    for path in block.paths:
        for title, tests in robustness_sets(place.index.load(path).robustness).items():
            parts += [f"With {escape(title)}:"] if title else []
            parts.append(place.tables(robustness_tables(tests), path))
        parts.append(place.made_by(path))
    return "\n\n".join(parts)


def _speed(block: Block, place: _Place) -> str:
    """A sentence for each measurement, of one benchmark or all."""
    parts = []
    wanted = block.options.get("benchmark")
    for path in block.paths:
        timings = place.index.load(path).speed
        timings = [timing for timing in timings if wanted in (None, timing.settings["benchmark"])]
        if not timings:
            command = f"python benchmarks/speed.py {wanted} --output {path}"
            raise UsageError(f"{path} has no rows of {wanted}", f"add them with: {command}")
        parts += [*(f"- {sentence}" for sentence in speed_sentences(timings)), "", f"Rows: {place.link(path)}."]
    return "\n".join(parts)


def _ledger(block: Block, place: _Place) -> str:
    """The runs of configs."""
    runs = [run for path in block.paths for run in place.index.load(path).runs]
    return ledger(runs, read_configs(place.index.base / block.options["configs"]), place.folder)


def _weights(block: Block, place: _Place) -> str:
    """The pretrained weights in folders."""
    tables = {path: shipped_table(place.index.base / path, place.folder) for path in block.paths}
    parts = [f"{table}\n\n{place.made_by(path)}" for path, table in tables.items() if table]
    return "\n\n".join(parts) or "There are none in this version."


_MAKERS = {"runs": _runs, "robustness": _robustness, "speed": _speed, "ledger": _ledger, "weights": _weights}


def _differences(runs: Sequence[Run], pairs: Sequence[Sequence[str]]) -> str:
    """The differences of pairs, last epoch, paired by seed; "" if none has enough common seeds."""
    groups = group(runs)
    found: dict[tuple[str, str], Interval] = {}
    for a, b in pairs:
        ours, theirs = groups.get(a, []), groups.get(b, [])
        if len({run.seed for run in ours} & {run.seed for run in theirs}) >= MIN_SEEDS:
            both = pair(ours, theirs)
            found[a, b] = interval([x.measured.accuracy_last - y.measured.accuracy_last for x, y in both])
    if not found:
        return ""
    lines = []
    for ((a, b), each), p in zip(found.items(), corrected(list(found.values())), strict=True):
        verdict = f"`{a}` is {'above' if each.mean > 0 else 'below'} `{b}`" if p < 0.05 else "no significant difference"
        lines.append(
            f"- `{a}` - `{b}`: {each.mean:+.2f} points, [{each.low:+.2f}, {each.high:+.2f}], {each.n} seeds, "
            f"{'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}: {verdict}."
        )
    count = f", corrected for {len(found)} comparisons (Holm)" if len(found) > 1 else ""
    head = (
        "Last epoch, paired by seed: the difference, its own 95 % confidence interval (Student's t), and the p-value "
        f"of the paired t-test{count}, which is significant below 0.05:"
    )
    return "\n".join([head, "", *lines])
