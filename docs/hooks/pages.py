"""Hooks of MkDocs: what pages show that is not written in them.

- A line ``<!-- reference: NAME -->`` becomes a part of the reference (``reference.py``), and ``<!-- file: PATH -->`` a
  Markdown file of the repository.
- ``tutorials/NAME.md`` is the notebook ``experiments/tutorials/NAME.py``, with its outputs if ``make notebooks`` has
  made them.
- Formulas become MathML.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import jupytext
import nbformat
from math_core import LatexError, LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "experiments" / "tutorials"
NOTEBOOKS = ROOT / "build" / "notebooks"
_HOMES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_INSERT = re.compile(r"^<!-- (reference|file): (.+) -->$", re.MULTILINE)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)([^)]+)\)")
_logger = logging.getLogger("mkdocs.hooks.pages")
_latex = LatexToMathML(fancy_error=False)


def on_pre_build(config: MkDocsConfig) -> None:
    """Forget what an earlier build of the same process has read (``mkdocs serve``)."""
    _reference.cache_clear()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the tutorials and what they show."""
    for script in sorted(TUTORIALS.glob("*.py")):
        page, pictures = tutorial(script)
        files.append(File.generated(config, f"tutorials/{script.stem}.md", content=page))
        for name, content in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert what comes from the code and from other files."""

    def insert(match: re.Match[str]) -> str:
        kind, name = match.groups()
        return _reference()[name] if kind == "reference" else included(ROOT / name)

    return _INSERT.sub(insert, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Typeset the formulas."""

    def typeset(match: re.Match[str]) -> str:
        try:
            return _latex.convert_with_local_state(html.unescape(match[2]), displaystyle=match[1] == "div")
        except LatexError as error:
            _logger.warning("%s has a formula that cannot be typeset: %s (%s)", page.file.src_uri, match[2], error)
            return match[0]

    return _FORMULA.sub(typeset, content)


def included(path: Path) -> str:
    """A Markdown file of the repository, with links to pages of the documentation; other links become plain text.

    Args:
        path: the file.
    """

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        place, hash_, anchor = target.partition("#")
        if place in _HOMES:
            place = _HOMES[place]
        elif place.startswith("docs/"):
            place = place.removeprefix("docs/")
        elif path.parent == TUTORIALS and place.endswith(".py"):
            place = f"{place.removesuffix('.py')}.md"
        else:
            return text
        return f"[{text}]({place}{hash_}{anchor})"

    return _LINK.sub(link, path.read_text(encoding="utf-8"))


def tutorial(script: Path) -> tuple[str, dict[str, bytes]]:
    """A tutorial as a page, and the pictures that it shows.

    Args:
        script: the notebook as a script; its outputs are shown if it is what ``make notebooks`` has run.
    """
    book = jupytext.read(script)
    executed = NOTEBOOKS / f"{script.stem}.ipynb"
    if executed.exists():
        found = nbformat.read(executed, as_version=4)
        if [cell.source for cell in found.cells] == [cell.source for cell in book.cells]:
            book = found
    for cell in book.cells:  # without progress bars and warnings, which name places of this machine
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    book.metadata["language_info"] = {"name": "python"}
    page, resources = MarkdownExporter().from_notebook_node(book, {"unique_key": script.stem, "output_files_dir": "."})
    number, _, title = script.stem.partition("_")
    page = re.sub("^python .*$", r"`\g<0>`", page, count=1, flags=re.MULTILINE)
    title = title.capitalize().replace("_", " ").replace("gpus", "GPUs")
    return f"# {number}. {title}\n\n{page}", resources["outputs"]


@cache
def _reference() -> dict[str, str]:
    paths = [ROOT, ROOT / "benchmarks", ROOT / "experiments", *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, str(Path(__file__).with_name("reference.py"))]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
