"""The HTML page of benchmarks/report.py needs nothing else, and a benchmark's report shows its rows."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report
from helpers.programs import refused
from helpers.rows import ROBUSTNESS_ROWS, SPEED_ROWS, row, runs, seeds, write

from gac_sj.results.report import write_report

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).resolve().parent.parent
FORMS = REPOSITORY / "experiments/encoder_forms/results.csv"


class Parsed(HTMLParser):
    """Tables as lists of (text, key), attributes, identifiers; fails where tags are not closed in order."""

    VOID = {"meta", "br", "hr", "img", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.attributes, self.tags = [], [], [], Counter()
        self.titles, self.script = [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append(["", dict(attributes)])
        elif tag == "h2":
            self.titles.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1][0] += data
        elif "h2" in self.open:
            self.titles[-1] += data
        elif "script" in self.open:
            self.script += data


class TestPage:
    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        """Results at two T, one of them analysed, robustness and speed."""
        folder = tmp_path_factory.mktemp("runs")
        rows = seeds("gac", [60, 62.5], analysed=2) + seeds("direct", [61, 61], model_options={"a": "<script>&"})
        write(folder / "a/results.csv", [*rows, row(T=4), row("direct", T=4)])
        write(folder / "robustness.csv", ROBUSTNESS_ROWS)
        write(folder / "speed.csv", SPEED_ROWS)
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def text(cls, folder):
        assert report.main([str(folder), "--output", str(folder / "page.html")]) == 0
        return (folder / "page.html").read_text(encoding="utf-8")

    @pytest.mark.medium
    def test_sections_and_plots(self, text):
        found = Parsed(text)
        assert found.titles == [
            "digits, ms_resnet8_cifar, T = 2, 3 epochs (T=2)", "digits, ms_resnet8_cifar, T = 4, 3 epochs (T=4)",
            "Several T", "Robustness: digits, ms_resnet8_cifar, T = 2, 3 epochs", "Speed",
        ]  # fmt: skip
        captions = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", text)
        assert captions == [
            "Learning curves", "Accuracy against energy", "Firing rates by step", "Learning curves",
            "Accuracy against T", "Accuracy against severity",
        ]  # fmt: skip
        assert found.tags["svg"] == len(captions)
        # speeds of two seeds at T = 2, of one at T = 4, which was not analysed
        assert [len(table) - 1 for table in found.tables] == [2] * 4 + [2] + [2, 2, 4, 2]

    def test_what_may_be_wide_scrolls_by_itself_and_says_so(self, text):
        found = Parsed(text)
        regions = [value for _, name, value in found.attributes if (name, value) == ("role", "region")]
        assert len(regions) == len(found.tables) + found.tags["svg"] == text.count('class="note hint"')
        assert re.search(r"h1[^{}]*{[^}]*overflow-wrap: anywhere", text)

    def test_numbers_have_their_key(self, text):
        head, gac, direct = Parsed(text).tables[0]
        assert [cell for cell, _ in head[:3]] == ["encoder", "n", "last epoch (%)"]
        assert gac[2][0] == "61.25 ± 1.77" and float(gac[2][1]["data-key"]) == 61.25
        assert direct[2][0] == "61.00 ± 0.00" and float(direct[2][1]["data-key"]) == 61
        for table in Parsed(text).tables:
            for line in table[1:]:
                for cell, attributes in line[1:]:
                    if re.match(r"[\d,.]+( ±.*)?$", cell):
                        mean = float(cell.split(" ")[0].replace(",", ""))
                        assert float(attributes["data-key"]) == pytest.approx(mean, abs=0.051), cell

    def test_headings_sort(self, text):
        """By a button, so that the keyboard reaches it; they say how they are sorted."""
        found = Parsed(text)
        heads = [cell for table in found.tables for cell in table[0]]
        assert all(attributes == {"scope": "col", "aria-sort": "none"} for _, attributes in heads)
        assert found.tags["button"] == len(heads)
        for word in ("addEventListener", "aria-sort", "dataset.key"):
            assert word in found.script

    def test_it_needs_nothing_else(self, text):
        found = Parsed(text)
        assert not found.tags.keys() & {"link", "img", "iframe", "object", "embed", "audio", "video"}
        assert found.tags["script"] == 1
        for tag, name, value in found.attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
            elif not name.startswith("xmlns"):  # a name, which nobody fetches
                assert "//" not in (value or ""), (tag, name, value)
        assert "@import" not in text and not re.search(r"url\((?!#)", text) and "fetch(" not in found.script

    def test_identifiers_are_unique(self, text):
        found = [value for _, name, value in Parsed(text).attributes if name == "id"]
        assert len(found) == len(set(found)) > 100
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
        assert used and set(used) <= set(found)

    def test_names_are_escaped(self, text):
        assert "direct:a=&lt;script&gt;&amp;" in text and "a=<script>" not in text
        assert "direct:a=<script>&" in [line[0][0] for line in Parsed(text).tables[0]]

    def test_where_the_rows_come_from(self, text, folder):
        for word in (
            "abc123",
            "torch 9.9",
            "an abacus",
            "350",
            "lr=0.1",
            str(folder / "a/results.csv"),
            "† A measured",
        ):
            assert word in text

    @pytest.mark.medium
    def test_twice_the_same(self, text, folder):
        assert report.main([str(folder), "--output", str(folder / "again.html")]) == 0
        assert (folder / "again.html").read_text(encoding="utf-8") == text

    def test_where_it_is_written(self, tmp_path, capsys):
        path = write(tmp_path / "some.csv", [row()])
        assert report.main([str(path)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
        found = Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert len(found.tables) == 1 and "There is no analysis" in (tmp_path / "report.html").read_text()

    def test_rows_of_the_forms(self, tmp_path):
        """Some of their columns were not measured."""
        assert report.main([str(FORMS), "--output", str(tmp_path / "page.html")]) == 0
        assert "54.20 ± 2.20" in (tmp_path / "page.html").read_text(encoding="utf-8")

    def test_refusals(self, tmp_path, capsys):
        path = write(tmp_path / "results.csv", [row(accuracy_by_epoch="{}")])
        refused(
            capsys, report.main, [path, "--output", tmp_path / "nowhere/page.html"], "nowhere/page.html", "--output"
        )
        refused(capsys, report.main, [], "--markdown")
        refused(capsys, report.main, [path, "--markdown"], "--markdown")
        refused(capsys, report.main, [path, "--check"], "--markdown")
        write(path, [row(analysed=2, firing_rates_by_step="{")])
        refused(capsys, report.main, [path], str(path), "firing_rates_by_step")


class TestRunsReport:
    """What run_cifar.py leaves."""

    @pytest.mark.medium
    def test_files(self, tmp_path):
        rows = seeds("gac", [60, 62], analysed=2) + seeds("direct", [61, 61], analysed=1)
        printed = write_report(tmp_path, runs(*rows))
        names = {"learning_curves", "accuracy_against_energy", "firing_rates_by_step"}
        kinds = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
        assert {path.name for path in tmp_path.iterdir()} == kinds | {"report.md", "report.html"}
        text = (tmp_path / "report.md").read_text(encoding="utf-8")
        assert printed in text and "| gac | 2 | 61.00 ± 1.41 |" in printed and "\n\n" not in printed
        assert re.findall(r"!\[.*\]\((.*)\)", text) == [
            "learning_curves.png", "accuracy_against_energy.png", "firing_rates_by_step.png",
        ]  # fmt: skip
        for word in ("abc123", "torch 9.9", "an abacus", "seeds: 0; 1", "lr=0.1", "paper (µJ)", "† A measured time"):
            assert word in text
        found = Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert len(found.tables) == 4 and found.tags["svg"] == 3

    def test_without_analysis(self, tmp_path):
        write_report(tmp_path, runs(*seeds("gac", [60, 62])))
        files = {path.name for path in tmp_path.iterdir()}
        assert files == {"learning_curves.png", "learning_curves.svg", "report.md", "report.html"}
        energy = (tmp_path / "report.md").read_text().split("## Energy of one image")[1].split("## Dynamics")[0]
        assert "train.py --analyse" in energy and "|" not in energy

    def test_a_single_test(self, tmp_path):
        """A curve of one point is none."""
        write_report(tmp_path, runs(row(accuracy_by_epoch='{"3": 60.0}')))
        assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.html"}
