"""The index of the Markdown pages whose numbers are made from rows: one YAML file, with paths relative to its folder.

It has these entries:

- ``pages``: page -> names of its blocks.
- ``prose``: patterns of the pages whose text :mod:`gac_sj.results.quoted` checks.
- ``blocks``: name -> one kind with one or more files of rows, and the kind's own options: ``runs`` with their
  ``tables``; ``excerpt``, some ``encoders`` and ``columns`` of the tables of runs or of robustness; ``robustness``;
  ``speed`` of a ``benchmark``; ``speedups``, ``lines`` of chosen timings; ``paired``, runs ``against`` those of other
  files, ``over`` some settings; ``ledger`` and ``published`` with a folder of ``configs``; ``weights``, with folders
  instead of files.
- ``pairs``: pairs of encoders that tables of accuracy compare, by their labels.
- ``published``: config -> its published accuracy and the source.
- ``stated``: number of the text that comes from no row -> what it is.
- ``commands``: file of rows -> the commands that make it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_text
from gac_sj._utils.reading import parse_yaml
from gac_sj.results.load import Results, load

__all__ = ["Block", "Index", "read_index"]

_ENTRIES = {
    "pages": dict,
    "prose": list,
    "blocks": dict,
    "pairs": list,
    "published": dict,
    "stated": dict,
    "commands": dict,
}
#: The options of each kind of block.
_KINDS: dict[str, tuple[str, ...]] = {
    "runs": ("tables",),
    "excerpt": ("encoders", "columns"),
    "robustness": (),
    "speed": ("benchmark",),
    "speedups": ("lines",),
    "paired": ("against", "over"),
    "ledger": ("configs",),
    "published": ("configs",),
    "weights": (),
}


@dataclass(frozen=True)
class Block:
    """What fills a block.

    Args:
        kind: of its rows.
        paths: files or folders of rows.
        options: of the kind.
    """

    kind: str
    paths: Sequence[str]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Index:
    """What fills which block of which page.

    Args:
        path: the index file.
        pages: names of the blocks of each page.
        prose: patterns of pages whose text is checked.
        blocks: by name.
        pairs: labels of encoders that are compared.
        published: accuracy and source, by config.
        stated: numbers of the text that come from no row, and what they are.
        commands: what makes each file of rows.
    """

    path: Path
    pages: Mapping[str, Sequence[str]]
    prose: Sequence[str]
    blocks: Mapping[str, Block]
    pairs: Sequence[Sequence[str]]
    published: Mapping[str, tuple[float, str]]
    stated: Mapping[str, str]
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
            advice = f"make it with: {' and '.join(commands)}" if commands else "restore it"
            raise UsageError(f"{path} is missing", advice)
        return load(self.base / path)


def read_index(path: Path) -> Index:
    """Read and check an index.

    Args:
        path: a YAML file, as this module describes it.

    Raises:
        UsageError: it cannot be read, or an entry is missing, unknown or of another form.
    """
    try:
        content = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"The index {path} cannot be read ({str(error).rstrip('.')})", "restore it") from error
    if (
        not isinstance(content, dict)
        or content.keys() != _ENTRIES.keys()
        or not all(isinstance(content[name], kind) for name, kind in _ENTRIES.items())
    ):
        raise UsageError(
            f"The index {path} must have the mappings pages, blocks, published, stated and commands, the "
            "lists prose and pairs, and nothing else",
            "change it",
        )
    blocks = {name: _block(name, about, path) for name, about in content["blocks"].items()}
    for page, names in content["pages"].items():
        if missing := [name for name in names if name not in blocks]:
            raise UsageError(
                f"The index {path} has no block {missing[0]!r}, which it lists for {page}",
                options=blocks,
                given=missing[0],
            )
    for block in blocks.values():
        if block.kind not in ("ledger", "published") and (
            missing := [place for place in block.paths if place not in content["commands"]]
        ):
            raise UsageError(f"The index {path} has no commands that make {missing[0]}", "add them")
    return Index(path, **content | {"blocks": blocks})


def _block(name: str, about: Any, path: Path) -> Block:
    options = dict(about) if isinstance(about, dict) else {}
    kinds = [kind for kind in _KINDS if kind in options]
    if len(kinds) == 1:
        places = options.pop(kinds[0])
        if options.keys() == set(_KINDS[kinds[0]]):
            return Block(kinds[0], [places] if isinstance(places, str) else places, options)
    known = ", ".join(f"{option} of {kind}" for kind, parts in _KINDS.items() for option in parts)
    raise UsageError(
        f"The block {name!r} of the index {path} must have one of the kinds {', '.join(_KINDS)} and its options "
        f"({known}), got {about}",
        "change it",
    )
