"""Numbers and files that the text of the Markdown pages names: each number is one of a block, or stated in the index.

A number of a result is one with a unit (%, points, µJ, ms, images/s, times as fast) or beside ±, one with two digits
before and behind the point, as accuracies have, and all in a table's column whose heading has a unit. Code and formulas
are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gac_sj._utils.files import read_text
from gac_sj.results.index import Index

__all__ = ["check_text"]

_BLOCK = re.compile(r"^<!-- rows: (?!end).*? -->$.*?^<!-- rows: end -->$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)\n]*\)", re.MULTILINE | re.DOTALL)
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_UNIT = r"%|[µμnm]J\b|ms\b|images/s|points|times (?:as|faster|slower|longer|shorter|more|less)\b"
_QUOTED = re.compile(
    rf"(?<![\w.,])({_NUMBER})(?:(?: ± {_NUMBER})? ?({_UNIT})|(?= ±))"
    rf"|(?<=± )({_NUMBER})|(?<![\w.,])(\d\d\.\d\d)(?![\w.]*\d)"
)
_FILE = re.compile(
    r"(?<![\w./-])(?:gac_sj|benchmarks|experiments|tests|docs)/[\w./-]*\.(?:py|sh|md|yaml|csv|json|png|svg|cu|ipynb)\b"
)
_TARGET = re.compile(r"\]\([^)\n]*\)")
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


def check_text(index: Index) -> list[str]:
    """What pages name and nothing in the repository has, as one sentence each.

    Args:
        index: of the pages.

    Raises:
        UsageError: a page cannot be read.
    """
    prose_of = [path for pattern in index.prose for path in sorted(index.base.glob(pattern))]
    with_blocks = [index.base / page for page in index.pages]
    texts = {path: read_text(path).replace("\r\n", "\n") for path in {*prose_of, *with_blocks}}
    known = {figure for key in index.stated for figure in _figures(str(key))}
    for path in with_blocks:
        for block in _BLOCK.findall(texts[path]):
            known |= set(_figures(block))
    numbers = {number for number, _ in known}
    problems = []
    for path in dict.fromkeys(prose_of):
        page = path.relative_to(index.base).as_posix()
        prose = _BLOCK.sub("", texts[path])
        for number, unit in dict.fromkeys(_figures(prose)):
            if (number, unit) not in known if unit else number not in numbers:
                problems.append(
                    f"{page} has the number {f'{number} {unit}'.strip()}, which no block has; quote a block, or add "
                    f"it to stated in {index.path.name}."
                )
        missing = [file for file in _FILE.findall(_TARGET.sub("]", prose)) if not (index.base / file).exists()]
        if not page.startswith("docs/"):  # links of the documentation are checked when it is built
            missing += [link for link in _LINK.findall(prose) if not (path.parent / link).exists()]
        problems += [f"{page} names {file}, which does not exist." for file in dict.fromkeys(missing)]
    return problems


def _figures(text: str) -> Iterator[tuple[str, str]]:
    """The numbers of results in a text, with their units ("" without one)."""
    units: list[str] = []
    for line in _CODE.sub("``", text).splitlines():
        if not line.lstrip().startswith("|"):
            units = []
        else:
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            if not units:  # the heading
                units = [_unit(cell) for cell in cells]
                continue
            for cell, unit in zip(cells, units):
                if unit:
                    yield from ((number, unit) for number in re.findall(_NUMBER, cell))
        for match in _QUOTED.finditer(line):
            yield match[1] or match[3] or match[4], _unit(match[2] or "")


def _unit(text: str) -> str:
    """The last unit in a heading or behind a number."""
    found = re.findall(_UNIT, text)
    return {"μJ": "µJ"}.get(found[-1], found[-1].split()[0]) if found else ""
