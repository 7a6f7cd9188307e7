"""Numbers in Markdown pages, made from rows.

A block of a page is the text between two lines, and :mod:`gac_sj.results.index` says what fills it::

    <!-- rows: NAME -->
    <!-- rows: end -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_text, write_atomically
from gac_sj.results.card import shipped_table
from gac_sj.results.comparison import MIN_SEEDS, Interval, corrected, interval, pair
from gac_sj.results.index import Block, Index
from gac_sj.results.ledger import config_of, ledger, read_configs
from gac_sj.results.robustness import robustness_sets, robustness_tables
from gac_sj.results.run import Run, group
from gac_sj.results.run_tables import group_over_encoders, run_tables
from gac_sj.results.speed import speed_tables
from gac_sj.results.speedups import speedup_table
from gac_sj.results.table import MISSING, TIMED, Table, escape, markdown_table, mean

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
            parts.append(f"\n\n{_MAKERS[block.kind](block, index)}\n\n")
            name, place = None, marker.start()
    missing = [each for each in index.pages[page] if each not in found]
    if name is not None or missing:
        raise UsageError(f"{page} lacks {_END if name else f'the block {missing[0]!r}'}", f"add {_BEGIN} and {_END}")
    return "".join([*parts, text[place:]])


def _made_by(path: str, index: Index) -> str:
    """The commands that make the rows."""
    return f"Made by {', '.join(f'`{command}`' for command in index.commands[path])}."


def _tables(tables: Sequence[Table], path: str) -> str:
    """Tables, each with what it rests on."""
    return "\n\n".join(f"{table.markdown()}\n\n{table.markdown_note} Rows: `{path}`." for table in tables)


def _runs(block: Block, index: Index) -> str:
    """Some tables of runs, for each set of equal settings, and the pairs that are compared."""
    parts = []
    wanted = block.options["tables"]
    for path in block.paths:
        for title, runs in group_over_encoders(index.load(path).runs).items():
            tables = {table.title: table for table in run_tables(runs)}
            if unknown := [name for name in wanted if name not in tables]:
                raise UsageError(
                    f"{index.path.name} has the unknown table {unknown[0]!r}", options=tables, given=unknown[0]
                )
            shown = [table for name, table in tables.items() if name in wanted and not table.is_empty]
            parts += [f"With {escape(title)}:"] if title else []
            parts.append(_tables(shown, path) or f"The rows of `{path}` were not analysed.")
            if "Accuracy" in wanted and (found := _differences(runs, index.pairs)):
                parts.append(found)
        parts.append(_made_by(path, index))
    return "\n\n".join(parts)


def _excerpt(block: Block, index: Index) -> str:
    """Some encoders and columns of the tables of runs or of robustness, and the differences of these encoders."""
    parts = []
    for path in block.paths:
        found = index.load(path)
        for runs in group_over_encoders(found.runs).values() if found.runs else ():
            parts.append(_selected(run_tables(runs), block, index))
            if "last epoch" in block.options["columns"] and (
                differences := _differences(runs, index.pairs, block.options["encoders"])
            ):
                parts.append(differences)
        for tests in robustness_sets(found.robustness).values():
            parts.append(_selected(robustness_tables(tests), block, index))
        parts.append(f"Rows: `{path}`.")
    return "\n\n".join(parts)


def _selected(tables: Sequence[Table], block: Block, index: Index) -> str:
    """Lines and columns of tables that have the same encoders, as one table."""
    encoders, columns = block.options["encoders"], block.options["columns"]
    heads: dict[str, str] = {}
    cells: dict[str, dict[str, str]] = {}
    for table in tables:
        names = [name.partition(" (")[0] for name in table.head]
        heads |= dict(zip(names, table.head))
        for line in table.lines:
            cells.setdefault(line[0].text, {}).update(zip(names, (cell.text for cell in line)))
    for wanted, known in ((encoders, cells), (columns, heads)):
        if unknown := [name for name in wanted if name not in known]:
            problem = f"{index.path.name} has an excerpt with the unknown name {unknown[0]!r}"
            raise UsageError(problem, options=known, given=unknown[0])
    wanted = ["encoder", "n", *columns]
    return markdown_table(
        [heads[name] for name in wanted], [[cells[encoder][name] for name in wanted] for encoder in encoders]
    )


def _robustness(block: Block, index: Index) -> str:
    """Accuracy by corruption and attack, for each set of equal settings."""
    parts = []
    for path in block.paths:
        for title, tests in robustness_sets(index.load(path).robustness).items():
            parts += [f"With {escape(title)}:"] if title else []
            parts.append(_tables(robustness_tables(tests), path))
        parts.append(_made_by(path, index))
    return "\n\n".join(parts)


def _speed(block: Block, index: Index) -> str:
    """A table for each measurement of a benchmark."""
    parts = []
    wanted = block.options["benchmark"]
    for path in block.paths:
        timings = [timing for timing in index.load(path).speed if timing.settings["benchmark"] == wanted]
        if not timings:
            command = f"python benchmarks/speed.py {wanted} --output {path}"
            raise UsageError(f"{path} has no rows of {wanted}", f"add them with: {command}")
        for table in speed_tables(timings):
            note = table.note.splitlines()[0]
            parts.append(f"**{escape(table.title)}.** {escape(note)}\n\n{table.markdown().replace(TIMED, '')}")
        parts.append(f"Rows: `{path}`.")
    return "\n\n".join(parts)


def _speedups(block: Block, index: Index) -> str:
    """Chosen timings against SpikingJelly's."""
    return "\n\n".join(
        _tables([speedup_table(index.load(path).speed, block.options["lines"])], path) for path in block.paths
    )


def _paired(block: Block, index: Index) -> str:
    """What every encoder's runs in a file have before those in another file."""
    parts = []
    over = block.options["over"]
    for path, other in zip(block.paths, block.options["against"], strict=True):
        ours, theirs = (group(index.load(each).runs) for each in (path, other))
        lines = []
        for label, runs in ours.items():
            if label in theirs:
                found = _interval(pair(runs, theirs[label], over))
                ends = f"[{found.low:+.2f}, {found.high:+.2f}]"
                lines.append((f"`{label}`", str(found.n), f"{found.mean:+.2f}", ends))
        table = markdown_table(("encoder", "n", "difference (points)", "95 % confidence interval (points)"), lines)
        command = f"python experiments/compare.py {path}:ENCODER {other}:ENCODER --over {' '.join(over)}"
        parts.append(f"`{path}` minus `{other}`, last epoch, paired by seed:\n\n{table}\n\nMade by `{command}`.")
    return "\n\n".join(parts)


def _published(block: Block, index: Index) -> str:
    """Every config with its published accuracy, beside the rows of its runs."""
    configs = read_configs(index.base / block.options["configs"])
    if unknown := [name for name in index.published if name not in {path.stem for path in configs}]:
        raise UsageError(
            f"The index {index.path} has a published figure of the unknown config {unknown[0]!r}",
            options=[path.stem for path in configs],
            given=unknown[0],
        )
    runs = [run for path in block.paths for run in index.load(path).runs]
    lines = []
    for path in sorted(configs, key=lambda path: (path.stem.replace("_gac", "_direct"), path)):
        ours = [run for run in runs if config_of(run, configs) == path]
        figure, source = index.published.get(path.stem, (None, MISSING))
        last = mean("", "accuracy_last").cell(ours).text if ours else "not run"
        lines.append((f"`{path.stem}`", MISSING if figure is None else f"{figure:.2f}", source, last, str(len(ours))))
    return markdown_table(("config", "published (%)", "source", "ours, last epoch (%)", "n"), lines)


def _ledger(block: Block, index: Index) -> str:
    """The runs of configs."""
    runs = [run for path in block.paths for run in index.load(path).runs]
    return ledger(runs, read_configs(index.base / block.options["configs"]), index.base)


def _weights(block: Block, index: Index) -> str:
    """The pretrained weights in folders."""
    tables = {path: shipped_table(index.base / path) for path in block.paths}
    parts = [f"{table}\n\n{_made_by(path, index)}" for path, table in tables.items() if table]
    return "\n\n".join(parts) or "There are none in this version."


_MAKERS = {
    "runs": _runs,
    "excerpt": _excerpt,
    "robustness": _robustness,
    "speed": _speed,
    "speedups": _speedups,
    "paired": _paired,
    "published": _published,
    "ledger": _ledger,
    "weights": _weights,
}


def _differences(runs: Sequence[Run], pairs: Sequence[Sequence[str]], encoders: Sequence[str] | None = None) -> str:
    """The differences of pairs, last epoch, paired by seed; "" if none has enough common seeds.

    p-values are corrected for all pairs; ``encoders`` are those that are shown, None for all.
    """
    groups = group(runs)
    found: dict[tuple[str, str], Interval] = {}
    for a, b in pairs:
        ours, theirs = groups.get(a, []), groups.get(b, [])
        if len({run.seed for run in ours} & {run.seed for run in theirs}) >= MIN_SEEDS:
            found[a, b] = _interval(pair(ours, theirs))
    lines = []
    for ((a, b), each), p in zip(found.items(), corrected(list(found.values())) if found else (), strict=True):
        if encoders is not None and not {a, b} <= set(encoders):
            continue
        verdict = f"`{a}` is {'above' if each.mean > 0 else 'below'} `{b}`" if p < 0.05 else "no significant difference"
        lines.append(
            f"- `{a}` - `{b}`: {each.mean:+.2f} points, [{each.low:+.2f}, {each.high:+.2f}], {each.n} seeds, "
            f"{'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}: {verdict}."
        )
    if not lines:
        return ""
    count = f", corrected for {len(found)} comparisons (Holm)" if len(found) > 1 else ""
    head = (
        "Last epoch, paired by seed: the difference, its own 95 % confidence interval (Student's t), and the p-value "
        f"of the paired t-test{count}, which is significant below 0.05:"
    )
    return "\n".join([head, "", *lines])


def _interval(pairs: Sequence[tuple[Run, Run]]) -> Interval:
    """The difference of paired runs after the last epoch."""
    return interval([a.measured.accuracy_last - b.measured.accuracy_last for a, b in pairs])
