"""The documentation: every public name has a page, what comes from the code is complete, pages stand alone."""

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import gac_sj
from gac_sj.cli.main import COMMANDS
from gac_sj.results.robustness import ROBUSTNESS
from gac_sj.results.schema import ANALYSED_COLUMNS, MEASURED_COLUMNS
from gac_sj.results.speed import SPEED
from gac_sj.training import Settings

pytestmark = pytest.mark.one_release

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGES = ["gac_sj"] + [
    f"gac_sj.{path.parent.name}"
    for path in sorted((ROOT / "gac_sj").glob("[a-z]*/__init__.py"))
    if hasattr(importlib.import_module(f"gac_sj.{path.parent.name}"), "__all__")
]
PUBLIC = [(package, name) for package in PACKAGES for name in sys.modules[package].__all__]


def named(path):
    """A module, or what a module has, by its full name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def documented():
    """Everything that the reference shows; a package does not show functions that have the name of their module."""
    for page in (DOCS / "reference").rglob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            yield (found := named(path))
            is_package = hasattr(found, "__path__")
            for name in getattr(found, "__all__", ()):
                if not (is_package and find_spec(f"{path}.{name}")):
                    yield getattr(found, name)


def test_every_public_name_is_on_a_page_of_the_reference():
    assert len(PACKAGES) > 7
    shown = {id(each) for each in documented()}
    missing = [f"{package}.{name}" for package, name in PUBLIC if id(getattr(sys.modules[package], name)) not in shown]
    assert missing == []


def test_every_environment_variable_is_on_its_page():
    page = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "gac_sj").rglob("*.py")]
    names = set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', "".join(sources)))
    assert {"GAC_SJ_OPS", "CXX"} <= names
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


@pytest.mark.medium
def test_what_comes_from_the_code_is_complete():
    paths = [ROOT, ROOT / "benchmarks", ROOT / "experiments", os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(DOCS / "hooks" / "reference.py")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    parts = json.loads(done.stdout)
    for part, names in {
        "public names": gac_sj.__all__,
        "settings": [field.name for field in fields(Settings)],
        "columns measured": MEASURED_COLUMNS,
        "columns analysed": ANALYSED_COLUMNS,
        "columns robustness": ROBUSTNESS.names,
        "columns speed": SPEED.names,
    }.items():
        assert set(re.findall(r"^\| \[?`(\w+)`", parts[part], re.MULTILINE)) == set(names), part
    programs = [f"{path.parent.name}/{path.name}" for path in ROOT.glob("[be]*s/*.py")]
    helps = dict(re.findall(r"^##+ (.+)\n\n```text\nusage: (.*)$", parts["command line"], re.MULTILINE))
    assert {"gac-sj", "benchmarks/speed.py lif", *programs, *(f"gac-sj {name}" for name in COMMANDS)} <= helps.keys()
    assert all(usage.startswith(name.rpartition("/")[2]) for name, usage in helps.items())


class TestHooks:
    @pytest.fixture
    def pages(self):
        pytest.importorskip("mkdocs")  # the oldest supported releases are tested without it
        return importlib.import_module("pages")

    @pytest.fixture
    def page(self):
        from mkdocs.structure.files import File
        from mkdocs.structure.pages import Page

        file = File("page.md", "docs", "site", use_directory_urls=False)
        return Page(None, file, {"site_url": None, "edit_uri": None, "repo_url": None})

    def test_formulas_become_mathml(self, pages, page):
        content = '<p><span class="arithmatex">\\(a &lt; b\\)</span></p>'
        content += '<div class="arithmatex">\\[\\frac{1}{2}\\]</div>'
        content = pages.on_page_content(content, page, None, None)
        assert re.search(r"<p><math><mi>a</mi><mo>(<|&lt;)</mo><mi>b</mi></math></p>", content)
        assert re.search(r'<math display="block"><mfrac><mn>1</mn><mn>2</mn></mfrac></math>$', content)

    def test_a_wrong_formula_is_a_warning_that_names_it(self, pages, page, caplog):
        pages.on_page_content('<span class="arithmatex">\\(\\wrong{x}\\)</span>', page, None, None)
        (record,) = caplog.records
        assert record.levelname == "WARNING" and "page.md" in record.message and "\\wrong{x}" in record.message

    def test_links_of_an_included_file_lead_to_pages(self, pages, tmp_path):
        (tmp_path / "FILE.md").write_text(
            "[a](CHANGELOG.md) [b](docs/guides/energy.md#x) [c](https://a.org/b) [d](gac_sj/attach.py)"
        )
        text = pages.included(tmp_path / "FILE.md")
        assert text == "[a](changelog.md) [b](guides/energy.md#x) [c](https://a.org/b) d"

    def test_a_tutorial_shows_the_outputs_of_the_same_code_only(self, pages, tmp_path, monkeypatch):
        jupytext, nbformat = pytest.importorskip("jupytext"), pytest.importorskip("nbformat")
        monkeypatch.setattr(pages, "NOTEBOOKS", tmp_path)
        script = tmp_path / "1_many_gpus.py"
        script.write_text("# %% [markdown]\n# Two numbers.\n\n# %%\nprint(6 * 7)\n")
        text, pictures = pages.tutorial(script)
        assert text.startswith("# 1. Many GPUs\n") and "```python\nprint(6 * 7)" in text and pictures == {}
        book = jupytext.read(script)
        book.cells[1].outputs = [
            nbformat.v4.new_output("stream", text="42\n"),
            nbformat.v4.new_output("stream", name="stderr", text="file.py:7: a warning\n"),
            nbformat.v4.new_output("display_data", {"image/png": "AAAA"}),
        ]
        nbformat.write(book, tmp_path / "1_many_gpus.ipynb")
        text, pictures = pages.tutorial(script)
        (name,) = pictures
        assert "    42\n" in text and f"({name})" in text and "a warning" not in text
        script.write_text(script.read_text().replace("7", "8"))
        text, pictures = pages.tutorial(script)
        assert "42" not in text and pictures == {}


class Html(HTMLParser):
    """The ids of a page, its links, and the files that a browser loads for it."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found["href"])
        elif tag not in ("a", "link"):
            self.loaded += [found[name] for name in ("src", "data", "poster", "srcset") if found.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def parsed(site):
    return {name: Html(path.read_text(encoding="utf-8")) for name, path in site.items() if name.endswith(".html")}


def target(page, link):
    """The file of the site that a relative link leads to."""
    path = unquote(urlsplit(link).path)
    if path.startswith("/"):  # of 404.html, which a server shows anywhere
        return path.removeprefix("/") or "index.html"
    return os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page


@pytest.mark.slow
class TestSite:
    def test_every_page_of_docs_is_there(self, site):
        written = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
        assert written <= site.keys() and not any(name.startswith("hooks/") for name in site)

    def test_pages_load_nothing_from_elsewhere(self, site, parsed):
        loaded = [(page, link) for page, found in parsed.items() for link in found.loaded]
        for name, path in site.items():
            if name.endswith(".css"):
                urls = re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", path.read_text(encoding="utf-8"))
                loaded += [(name, url) for url in urls if not url.startswith("#")]
        loaded = [(page, link) for page, link in loaded if not link.startswith("data:")]
        assert len(loaded) > 100
        assert [(page, link) for page, link in loaded if target(page, link) not in site] == []

    def test_links_lead_to_files_and_anchors_of_the_site(self, parsed, site):
        found = {(page, link) for page, each in parsed.items() for link in each.links if not urlsplit(link).scheme}
        assert len(found) > 1000
        assert [(page, link) for page, link in found if target(page, link) not in site] == []
        anchors = [(page, link) for page, link in found if urlsplit(link).fragment not in ("", "__skip")]
        assert [
            (page, link)
            for page, link in anchors
            if unquote(urlsplit(link).fragment) not in parsed[target(page, link)].ids
        ] == []

    def test_every_public_name_has_an_anchor(self, site, parsed):
        index = site["reference/index.html"].read_text(encoding="utf-8")
        linked = re.findall(r'<a [^>]*href="[^"#]*#[^"]+"[^>]*><code>(\w+)</code></a>', index)
        assert set(gac_sj.__all__) <= set(linked)
        ids = set().union(*(found.ids for page, found in parsed.items() if page.startswith("reference/")))
        for package, name in PUBLIC:
            found = getattr(sys.modules[package], name)
            defined = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
            assert package == "gac_sj" or {f"{package}.{name}", defined} & ids, f"{package}.{name}"

    def test_docstrings_and_formulas_are_typeset(self, site):
        left = r":(?:attr|class|data|func|meth|mod):(?:<|`)|class=\"arithmatex\"|<!-- (?:file|reference):"
        pages = {name: path.read_text(encoding="utf-8") for name, path in site.items() if name.endswith(".html")}
        assert [name for name, text in pages.items() if re.search(left, text)] == []
