"""Print the parts of the reference that declarations in the code define, as a JSON object of Markdown by name.

The hooks of the documentation run it in a process of its own, so that every build sees the code as it is now.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gac_sj
from gac_sj._utils.configuration import default_of
from gac_sj.cli import main as gac_sj_program
from gac_sj.results.columns import ColumnInfo, columns_of
from gac_sj.results.robustness import ROBUSTNESS
from gac_sj.results.schema import Analysed, Measured
from gac_sj.results.speed import SPEED
from gac_sj.training import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "experiments")  # of the programs


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown.

    Args:
        head: names of the columns.
        rows: cells, in the order of the columns.
    """
    head = tuple(head)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ("---",) * len(head), *rows))


def public_names() -> str:
    """The names of ``import gac_sj``, with the first sentence of what documents them."""
    return table(("name", "what it is"), ((f"[`{name}`][gac_sj.{name}]", _summary(name)) for name in gac_sj.__all__))


def _summary(name: str) -> str:
    text = inspect.getdoc(getattr(gac_sj, name)) or ""
    return re.sub(r":\w+:(?=`)", "", " ".join(text.partition("\n\n")[0].split()))


def settings() -> str:
    """A table for each group of the settings of a run."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for field in dataclasses.fields(Settings):
        about = field.metadata
        choices = ", ".join(about["choices"]())
        text = about["help"] + (f": {choices}" if choices else "") + ("" if about["option"] else " (no option)")
        default = default_of(field)
        value = default if isinstance(default, str) else json.dumps(default)
        groups.setdefault(about["group"], []).append((f"`{field.name}`", f"`{field.type}`", f"`{value}`", text))
    head = ("setting", "type", "default", "meaning")
    return "\n".join(f"## {group.capitalize()}\n\n{table(head, rows)}" for group, rows in groups.items())


def columns(found: Iterable[ColumnInfo]) -> str:
    """A table of the columns of a file."""
    rows = ((f"`{each.name}`", f"`{_type(each.hint)}`", each.help) for each in found)
    return table(("column", "type", "meaning"), rows)


def _type(hint: Any) -> str:
    return inspect.formatannotation(hint).replace("typing.", "")


def command_line() -> str:
    """The help of every program and of its commands."""
    parts = [_program("gac-sj", gac_sj_program.main, gac_sj_program._parser())]
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")):
        module = importlib.import_module(path.stem)
        parts.append(_program(f"{path.parent.name}/{path.name}", module.main, module.build_parser()))
    return "\n".join(parts)


def _program(name: str, main: Callable[[list[str]], int], parser: argparse.ArgumentParser) -> str:
    text = f"## {name}\n\n{_help(name, main)}"
    for command in _commands(parser):
        text += f"\n### {name} {command}\n\n{_help(name, main, command)}"
    return text


def _help(name: str, main: Callable[[list[str]], int], *command: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return f"```text\n{output.getvalue().strip()}\n```\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices


if __name__ == "__main__":
    os.environ |= {"COLUMNS": "82", "PYTHON_COLORS": "0"}  # of argparse; so wide is a page
    parts = {
        "public names": public_names(),
        "settings": settings(),
        "columns measured": columns(columns_of(Measured)),
        "columns analysed": columns(columns_of(Analysed)),
        "columns robustness": columns(ROBUSTNESS.columns),
        "columns speed": columns(SPEED.columns),
        "command line": command_line(),
    }
    print(json.dumps(parts))
