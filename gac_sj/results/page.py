"""One self-contained HTML page: tables that sort, with plots inside; it loads nothing from elsewhere."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import matplotlib

from gac_sj._utils.plotting import print_style
from gac_sj.results.table import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "page"]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  background: Canvas; }
h1, h2 { overflow-wrap: anywhere; line-height: 1.25; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.5rem 0 0; font-size: 1rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid; outline-offset: 2px; }
.hint { display: none; }
.wide > .hint { display: block; margin-top: 1.5rem; }
.wide caption { padding-top: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
caption { text-align: left; font-weight: 600; padding-top: 1.5rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; }
@media (min-width: 40rem) { th:first-child { position: sticky; left: 0; background: Canvas; } }
tbody tr:hover td { background: var(--soft); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; outline-offset: 2px; }
th[aria-sort] button::after { content: " \\2195"; opacity: .6; }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
.note, dd { color: color-mix(in srgb, currentColor 75%, transparent); font-size: .9rem; overflow-wrap: anywhere; }
.note { margin: .3rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 36rem), 1fr)); align-items: start; }
figure { margin: 1.5rem 0 0; min-width: 0; }
figure svg { width: 100%; min-width: 30rem; max-width: 40rem; height: auto; background: #fff; }
dt { font-weight: 600; }
dd { margin: 0 0 .4rem 1rem; }
@media print {
  body { max-width: none; margin: 0; font-size: 10px; }
  .scroll { overflow: visible; }
  .hint, .screen { display: none !important; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .plots { display: block; }
  figure svg { min-width: 0; }
  th, td { padding: .15rem .3rem; }
  table { white-space: normal; }
  th button::after { display: none; }
  table, figure { break-inside: avoid; }
}
"""

# numbers by their key, others as text; cells without a value come last in both directions
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = direction === "ascending" ? 1 : -1;
    heads.forEach(other => other.setAttribute("aria-sort", other === head ? direction : "none"));
    const compare = (a, b) => {
      const [x, y] = [a.cells[column], b.cells[column]];
      const [missingX, missingY] = [x, y].map(cell => cell.textContent === "-");
      if (missingX || missingY) return missingX - missingY;
      const [p, q] = [x.dataset.key, y.dataset.key];
      return sign * (p !== undefined && q !== undefined ? p - q : x.textContent.localeCompare(y.textContent));
    };
    body.append(...[...body.rows].sort(compare));
  }));
}
// what is wider than the page says so, and the keyboard reaches it
const measure = new ResizeObserver(entries => entries.forEach(({target}) => {
  const wide = target.scrollWidth > target.clientWidth + 1;
  target.parentElement.classList.toggle("wide", wide);
  if (wide) target.tabIndex = 0; else target.removeAttribute("tabindex");
}));
document.querySelectorAll(".scroll").forEach(each => measure.observe(each));
"""


@dataclass(frozen=True)
class Section:
    """A section of the page, about one set of rows.

    Args:
        title: heading.
        tables: its tables.
        plots: figures by caption.
        details: texts by name, which are folded away.
    """

    title: str
    tables: Iterable[Table]
    plots: Mapping[str, Figure]
    details: Mapping[str, str]


def page(title: str, intro: Mapping[str, str], sections: Iterable[Section]) -> str:
    """The whole page.

    Args:
        title: of the page.
        intro: what the columns mean, by heading.
        sections: in order.
    """
    body = "\n".join(map(_section, sections))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        f'<p class="screen">Click a heading to sort by it; click again to reverse the order.</p>\n'
        f"{_details('What the columns mean', intro)}\n{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>", *map(_table, section.tables)]
    plots = "\n".join(_figure(caption, figure) for caption, figure in section.plots.items())
    parts += [f'<div class="plots">\n{plots}\n</div>'] if plots else []
    return "\n".join([*parts, _details("All settings and versions", section.details), "</section>"])


def _table(table: Table) -> str:
    note = "".join(f'\n<p class="note">{escape(line)}</p>' for line in table.note.splitlines())
    if table.is_empty:
        return f"<h3>{escape(table.title)}</h3>{note}"
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>' for name in table.head
    )
    lines = "\n".join(
        f'<tr><th scope="row">{escape(first.text)}</th>{"".join(map(_cell, rest))}</tr>' for first, *rest in table.lines
    )
    content = (
        f"<table>\n<caption>{escape(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{lines}\n</tbody>\n</table>"
    )
    return _scrolling(table.title, content, "Scroll the table sideways for more columns.") + note


def _scrolling(name: str, content: str, hint: str) -> str:
    """Something that may be wider than the page, and a hint that is shown where it is."""
    return (
        f'<div>\n<p class="note hint">\u2194 {hint}</p>\n'
        f'<div class="scroll" role="region" aria-label="{escape(name)}">\n{content}\n</div>\n</div>'
    )


def _cell(cell: Cell) -> str:
    key = "" if cell.key is None else f' data-key="{cell.key!r}"'
    return f"<td{key}>{escape(cell.text)}</td>"


@print_style
def _figure(caption: str, figure: Figure) -> str:
    """The plot as SVG inside the page; its identifiers get a prefix, since other plots have the same ones."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = f"f{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    svg = _scrolling(caption, svg, "Scroll the figure sideways.")
    return f'<figure>\n{svg}\n<figcaption class="note">{escape(caption)}</figcaption>\n</figure>'


def _details(title: str, found: Mapping[str, str]) -> str:
    terms = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in found.items())
    return f"<details>\n<summary>{escape(title)}</summary>\n<dl>\n{terms}\n</dl>\n</details>" if found else ""
