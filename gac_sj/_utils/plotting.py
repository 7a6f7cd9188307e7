"""How figures are drawn and saved: for print, the same bytes from the same input.

16 cm wide, letters of 8 points, colours that colour-blind readers tell apart (Okabe and Ito's; viridis for maps).
matplotlib's global state is neither read nor changed.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

from gac_sj._utils.files import write_atomically

__all__ = ["COLOURS", "LINES", "MARKERS", "WIDTH", "one_line", "print_style", "save", "set_heading"]

#: Inches: the text of an A4 page.
WIDTH = 6.3
#: Okabe and Ito 2008 without yellow, which is too light on white paper, then wine (Tol 2021) and grey; neighbours
#: differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#D55E00", "#882255", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)))

_sizes = dict.fromkeys(("font.size", "axes.titlesize", "figure.titlesize", "legend.title_fontsize"), 8)
_lines = {"lines.linewidth": 1.2, "lines.markersize": 4.5, "grid.color": "0.9", "axes.axisbelow": True}
_frames = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "legend.frameon": False}
#: Decorator of functions that draw.
print_style = style.context(
    ["default", _sizes | _lines | _frames | {"svg.hashsalt": "gac_sj", "text.parse_math": False}]
)
#: Characters of a text that are drawn: matplotlib needs a millisecond for each.
_LONGEST = 150


def one_line(text: str) -> str:
    """A name as figures show it: one line of characters that can be drawn, shortened if it is very long.

    Args:
        text: such as a label that comes from a row.
    """
    line = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(text.split()))
    line = f" {line}" if line.startswith("_") else line  # matplotlib leaves such names out of legends
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


@print_style
def set_heading(figure: Figure, text: str) -> None:
    """Write a heading above the panels of a figure.

    Args:
        figure: that gets it.
        text: it is written as :func:`one_line` returns it.
    """
    figure.suptitle(one_line(text), fontsize=9)


@print_style
def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path``.png (200 dots per inch) and ``path``.svg.

    Args:
        figure: what to write.
        path: without the suffix; its folder is made when needed.

    Returns:
        The paths of both files.

    Raises:
        OSError: they cannot be written.
    """
    contents: dict[str, bytes] = {}
    for kind, metadata in (("png", None), ("svg", {"Date": None})):
        figure.savefig(buffer := io.BytesIO(), format=kind, dpi=200, metadata=metadata)
        contents[kind] = buffer.getvalue()
    # clip paths have hashes of coordinates as names, and the layout's solver does not repeat their last digits
    names = {name: b"p%d" % at for at, name in enumerate(re.findall(rb'<clipPath id="(p\w+)"', contents["svg"]))}
    contents["svg"] = re.sub(rb"p[0-9a-f]{10}\b", lambda found: names.get(found[0], found[0]), contents["svg"])
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, content in contents.items():
        write_atomically(path.with_name(f"{path.name}.{kind}"), content)
    return [path.with_name(f"{path.name}.{kind}") for kind in contents]
