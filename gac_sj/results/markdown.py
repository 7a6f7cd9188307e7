"""Numbers in Markdown pages, made from rows.

An index, one YAML file, says which blocks are on which page and which rows fill them. In a page, a block is the text
between two lines::

    <!-- rows: NAME -->
    <!-- rows: end -->

The index has four entries, with paths relative to its folder:

- ``pages``: page -> names of its blocks.
- ``blocks``: name -> one kind (``runs``, ``robustness``, ``speed`` or ``ledger``) with one or more files of rows, and
  the kind's own options: ``tables`` of runs, the ``benchmark`` of speed, the ``configs`` of the ledger.
- ``pairs``: pairs of encoders that tables of accuracy compare, by their labels.
- ``commands``: file of rows -> the commands that make it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import write_atomically
from gac_sj.results.comparison import MIN_SEEDS, interval, pair
from gac_sj.results.ledger import ledger, read_configs
from gac_sj.results.load import Results, load
from gac_sj.results.robustness import robustness_sets, robustness_tables
from gac_sj.results.run import Run, group
from gac_sj.results.run_tables import group_over_encoders, run_tables
from gac_sj.results.speed import speed_sentences
from gac_sj.results.table import Table

__all__ = ["Index", "read_index", "rewrite", "rewrite_pages"]

_BEGIN, _END = "<!-- rows: NAME -->", "<!-- rows: end -->"
_MARKER = re.compile(r"^<!-- rows: (.*) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Index:
    """What fills which block of which page.

    Args:
        path: the index file.
        pages: names of the blocks of each page.
        blocks: kind, rows and options of each block.
        pairs: labels of encoders that are compared.
        commands: what makes each file of rows.
    """

    path: Path
    pages: Mapping[str, Sequence[str]]
    blocks: Mapping[str, Mapping[str, Any]]
    pairs: Sequence[Sequence[str]]
    commands: Mapping[str, Sequence[str]]

    @property
    def base(self) -> Path:
        """The folder that all paths are relative to."""
        return self.path.parent

    def load(self, path: str) -> Results:
        """The rows of a file or folder.

        Args:
            path: relative to the index.

        Raises:
            UsageError: it is missing, or see :func:`gac_sj.results.load`.
        """
        if not (self.base / path).exists():
            commands = self.commands.get(path)
            raise UsageError(
                f"{path} is missing", f"make it with: {' and '.join(commands)}" if commands else "restore it"
            )
        return load(self.base / path)


def read_index(path: Path) -> Index:
    """Read and check an index.

    Args:
        path: a YAML file, as this module describes it.

    Raises:
        UsageError: it cannot be read, or an entry is missing, unknown or of another form.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"The index {path} cannot be read ({' '.join(str(error).split())})", "restore it") from error
    names = ("pages", "blocks", "pairs", "commands")
    if not isinstance(content, dict) or set(content) != set(names):
        raise UsageError(
            f"The index {path} must have the entries {', '.join(names)} and no others", "add or remove them"
        )
    for name, about in content["blocks"].items():
        kinds = [kind for kind in _KINDS if kind in about]
        unknown = set(about) - {kinds[0], *_KINDS[kinds[0]].options} if len(kinds) == 1 else set(about)
        if unknown:
            raise UsageError(
                f"The block {name!r} of the index {path} must have one of the kinds {', '.join(_KINDS)} and that "
                f"kind's options, got {', '.join(about)}",
                "change it",
            )
    for page, blocks in content["pages"].items():
        if missing := [name for name in blocks if name not in content["blocks"]]:
            raise UsageError(
                f"The index {path} has no block {missing[0]!r}, which it lists for {page}",
                options=content["blocks"],
                given=missing[0],
            )
    return Index(path, content["pages"], content["blocks"], content["pairs"], content["commands"])


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
            before[page] = (index.base / page).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{page}, a page of {index.path.name}, cannot be read ({error})", "restore it") from error
    after = {page: rewrite(text, index, page) for page, text in before.items()}
    stale = [page for page in index.pages if after[page] != before[page]]
    for page in [] if check else stale:
        write_atomically(index.base / page, after[page].encode())
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
                f"{page} has {marker[0]} where {_END if name else _BEGIN} belongs", "each block needs both"
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
            parts.append(f"\n\n{_block(index, name, page)}\n\n")
            name, place = None, marker.start()
    missing = [each for each in index.pages[page] if each not in found]
    if name is not None or missing:
        raise UsageError(f"{page} lacks {_END if name else f'the block {missing[0]!r}'}", f"add {_BEGIN} and {_END}")
    return "".join([*parts, text[place:]])


@dataclass(frozen=True)
class _Block:
    """A block on its page."""

    index: Index
    about: Mapping[str, Any]
    paths: Sequence[str]
    page: str

    def link(self, path: str) -> str:
        """A link to a file below the index's folder."""
        return f"[{path}]({os.path.relpath(self.index.base / path, self.folder)})"

    @property
    def folder(self) -> Path:
        """The folder of the page."""
        return (self.index.base / self.page).parent

    def made_by(self, path: str) -> str:
        """The commands that make the rows."""
        return f"Made by {', '.join(f'`{command}`' for command in self.index.commands[path])}."

    def tables(self, tables: Sequence[Table], path: str) -> str:
        """Tables, each with what it rests on."""
        return "\n\n".join(f"{table.markdown()}\n\n{table.note} Rows: {self.link(path)}." for table in tables)


def _block(index: Index, name: str, page: str) -> str:
    about = index.blocks[name]
    kind = next(kind for kind in _KINDS if kind in about)
    paths = [about[kind]] if isinstance(about[kind], str) else about[kind]
    return _KINDS[kind].make(_Block(index, about, paths, page))


def _runs(block: _Block) -> str:
    """Some tables of runs, for each set of equal settings, and the pairs that are compared."""
    parts = []
    titles = block.about.get("tables", ())
    for path in block.paths:
        for title, runs in group_over_encoders(block.index.load(path).runs).items():
            tables = [table for table in run_tables(runs) if table.title in titles and not table.is_empty]
            parts += [f"With {title}:"] if title else []
            parts.append(block.tables(tables, path) or f"The rows of {block.link(path)} were not analysed.")
            if "Accuracy" in titles and (found := _differences(runs, block.index.pairs)):
                parts.append(found)
        parts.append(block.made_by(path))
    return "\n\n".join(parts)


def _robustness(block: _Block) -> str:
    """Accuracy by corruption and attack, for each set of equal settings."""
    parts = []
    for path in block.paths:
        for title, tests in robustness_sets(block.index.load(path).robustness).items():
            parts += [f"With {title}:"] if title else []
            parts.append(block.tables(robustness_tables(tests), path))
        parts.append(block.made_by(path))
    return "\n\n".join(parts)


def _speed(block: _Block) -> str:
    """A sentence for each measurement, of one benchmark or all."""
    parts = []
    wanted = block.about.get("benchmark")
    for path in block.paths:
        timings = block.index.load(path).speed
        timings = [timing for timing in timings if wanted in (None, timing.settings["benchmark"])]
        if not timings:
            command = f"python benchmarks/speed.py {wanted} --output {path}"
            raise UsageError(f"{path} has no rows of {wanted}", f"add them with: {command}")
        parts += [*(f"- {sentence}" for sentence in speed_sentences(timings)), "", f"Rows: {block.link(path)}."]
    return "\n".join(parts)


def _ledger(block: _Block) -> str:
    """The runs of configs."""
    runs = [run for path in block.paths for run in block.index.load(path).runs]
    return ledger(runs, read_configs(block.index.base / block.about["configs"]), block.folder)


@dataclass(frozen=True)
class _Kind:
    """What makes a block, and the options that it takes."""

    make: Callable[[_Block], str]
    options: Sequence[str] = ()


_KINDS = {
    "runs": _Kind(_runs, ("tables",)),
    "robustness": _Kind(_robustness),
    "speed": _Kind(_speed, ("benchmark",)),
    "ledger": _Kind(_ledger, ("configs",)),
}


def _differences(runs: Sequence[Run], pairs: Sequence[Sequence[str]]) -> str:
    """The differences of pairs, last epoch, paired by seed; "" if none has enough common seeds."""
    groups = group(runs)
    lines = []
    for a, b in pairs:
        ours, theirs = groups.get(a, []), groups.get(b, [])
        if len({run.seed for run in ours} & {run.seed for run in theirs}) >= MIN_SEEDS:
            paired = pair(ours, theirs)
            found = interval([left.measured.accuracy_last - right.measured.accuracy_last for left, right in paired])
            lines.append(
                f"- `{a}` - `{b}`: {found.mean:+.2f} points, [{found.low:+.2f}, {found.high:+.2f}], {found.n} seeds. "
                f"The interval {found.verdict(f'`{a}`', f'`{b}`')}"
            )
    head = "Last epoch, paired by seed, each with its own 95 % confidence interval (Student's t):"
    return "\n".join([head, "", *lines]) if lines else ""
