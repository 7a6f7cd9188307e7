"""benchmarks/report.py: tables say what the rows say, the page needs nothing else, READMEs follow their rows."""

import csv
import json
import re
import statistics
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report

from gac_sj.results import markdown as readme
from gac_sj.results.files import read_folder
from gac_sj.results.robustness import robustness_sets, robustness_tables
from gac_sj.results.schema import ANALYSED, KEY, MEASURED, VOLATILE_COLUMNS, as_text
from gac_sj.results.speed import speed_sentences, speed_table
from gac_sj.results.table import Table
from gac_sj.results.tables import by_encoder, by_settings, result_tables
from gac_sj.training.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
FORMS = REPOSITORY / "experiments/encoder_forms/results.csv"


def row(encoder="gac", seed=0, last=60.0, best=None, analysed=None, **changes):
    """A row as a finished run leaves it; ``analysed``: a number on which all its analysis depends."""
    settings = {"model": "ms_resnet8_cifar", "T": 2, "epochs": 3, "dataset": "digits"}
    measured = {name: changes.pop(name) for name in tuple(changes) if name in MEASURED + ANALYSED}
    run = Settings(encoder=encoder, seed=seed, **settings | changes)
    found = as_text(run.key()) | {"data": "d4f8"} | dict.fromkeys(MEASURED, "1") | dict.fromkeys(ANALYSED, "")
    found |= {
        "accuracy_last": last, "accuracy_best": best or last, "accuracy_by_epoch": json.dumps({"1": 9.5, "3": last}),
        "train_accuracy_last": 70.0, "parameters": 85962, "train_images": 1437, "test_images": 360,
        "commit": "abc123", "device": "an abacus", "versions": "torch 9.9", "images_per_second": 100.0 + seed,
    }  # fmt: skip
    if analysed is not None:
        found |= {
            "analysed_images": 350, "energy_paper_pj": analysed * 1e6, "energy_complete_pj": analysed * 4e6,
            "energy_encoder_pj": analysed * 1e6, "dense_macs": 3_000_000, "effective_macs": analysed * 2e6,
            "effective_acs": analysed * 1e6, "non_spiking_layers": '["lif", "head"]', "silent": analysed / 10,
            "firing_rates_by_step": json.dumps({"lif": [analysed / 10, 0.5]}), "time_to_repeat": analysed,
            "energy_by_layer": json.dumps({
                "encoder.gau.temporal": [0, analysed * 1e6], "encoder.gau (gate)": [0, analysed * 5e5],
                "stages.0.0.attention.spatial.convolution": [0, analysed * 2.5e5], "lif": [analysed, analysed],
            }),
            "time_to_first_spike": "nan", "readout_by_step": json.dumps([0.5, analysed / 10]),
        }  # fmt: skip
    return {name: str(value) for name, value in (found | measured).items()}


def seeds(encoder, lasts, first=0, **changes):
    return [row(encoder, seed, last, **changes) for seed, last in enumerate(lasts, first)]


def robustness_row(encoder, seed, corruption, severity, accuracy, **changes):
    """A row of robustness.py, with a column that nobody knows."""
    run = {name: text for name, text in row(encoder, seed).items() if name in ("form", "model", "model_options", "T")}
    found = {"weights": f"{encoder}{seed}", "settings": "s1", "data": "d4f8", "dataset": "digits", "epochs": 3}
    found |= run | {"encoder": encoder, "seed": seed, "corruption": corruption, "severity": severity, "images": 50}
    found |= {"gradient": "surrogate" if corruption == "pgd" else "", "accuracy": accuracy, "mood": "calm"}
    return {name: str(value) for name, value in (found | {"commit": "abc123", "device": "an abacus"} | changes).items()}


def speed_row(variant, speedup, mode="forward", **changes):
    found = {"benchmark": "encoder", "variant": variant, "mode": mode, "T": 6, "batch": 4, "size": 32, "channels": 64}
    found |= {"repeats": 30, "date": "2026-01-01", "median_ms": 30 / speedup, "low_ms": 1, "high_ms": 40}
    found |= {"speedup": speedup, "commit": "abc123", "versions": "torch 9.9", "device": "an abacus"}
    return {name: str(value) for name, value in (found | changes).items()}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def cells(table: Table, encoder):
    """A line as {heading: text}, without the mark of times."""
    (line,) = (line for line in table.lines if line[0].text == encoder)
    return {name.removesuffix(" †"): cell.text for name, cell in zip(table.head, line, strict=True)}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, arguments, *words):
    assert report.main([str(argument) for argument in arguments]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("report.py: ") and error.count("\n") == 1, error
    assert all(word in error for word in words), error


class TestTables:
    def test_means_and_deviations_by_hand(self):
        rows = [row("gac", s, last, best) for s, last, best in ((0, 60, 61), (1, 62, 62), (2, 64, 66.5))]
        accuracy, *_ = result_tables([*rows, row("direct", 0, 50.125, parameters="77754")])
        assert cells(accuracy, "gac") == {
            "encoder": "gac", "n": "3", "last epoch (%)": "62.00 ± 2.00", "best epoch (%)": "63.17 ± 2.93",
            "training (%)": "70.00 ± 0.00", "firing rate": "1.000 ± 0.000", "parameters": "85,962",
        }  # fmt: skip
        line = cells(accuracy, "direct")
        assert (line["n"], line["last epoch (%)"], line["parameters"]) == ("1", "50.12", "77,754")

    def test_energy_by_hand(self):
        rows = [row("gac", 0, analysed=2), row("gac", 1, analysed=4)]
        line = cells(result_tables(rows)[1], "gac")
        # 2 and 4 million picojoules are 2 and 4 microjoules
        assert line["paper (µJ)"] == "3.00 ± 1.41" and line["complete (µJ)"] == "12.00 ± 5.66"
        assert line["attention (µJ)"] == "5.25 ± 2.47"  # of 3.5 and 7 million picojoules
        assert line["encoder's share (%)"] == "25.0 ± 0.0" and line["non-spiking layers"] == "2"
        assert line["dense MACs (million)"] == "3" and line["effective MACs (million)"] == "6.0 ± 2.8"
        assert line["effective ACs (million)"] == "3.0 ± 1.4"

    @pytest.mark.parametrize(
        ("analysed", "unit", "text"), [(0.5, "nJ", "500.00"), (1, "µJ", "1.00"), (2e3, "mJ", "2.00")]
    )
    def test_units(self, analysed, unit, text):
        assert cells(result_tables([row(analysed=analysed)])[1], "gac")[f"paper ({unit})"] == text

    def test_dynamics(self):
        line = cells(result_tables([row("gac", 0, analysed=2), row("gac", 1, analysed=4)])[2], "gac")
        assert line["time to repeat"] == "3.00 ± 1.41" and line["silent"] == "0.300 ± 0.141"
        assert line["read-out by step (%)"] == "50.0, 30.0"
        assert line["time to first spike"] == "-"  # it is nan where nothing fires

    def test_without_analysis(self):
        tables = result_tables(seeds("gac", [60, 61]))
        for table in tables[1:3]:
            assert set(list(cells(table, "gac").values())[2:]) == {"-"} and table.is_empty
            assert "Not analysed" in table.note
        assert not tables[0].is_empty

    def test_partly_analysed(self):
        rows = [row("gac", 0, analysed=2), row("gac", 1, analysed=4), row("gac", 2), row("direct", 0)]
        _, energy, dynamics, _ = result_tables(rows)
        assert cells(energy, "gac")["paper (µJ)"] == "3.00 ± 1.41 (n = 2)" and cells(energy, "gac")["n"] == "3"
        assert cells(dynamics, "gac")["read-out by step (%)"] == "50.0, 30.0 (n = 2)"
        assert cells(energy, "direct")["paper (µJ)"] == "-" and "Analysed on 350 test images." in energy.note

    def test_what_the_numbers_rest_on(self):
        rows = [*seeds("gac", [60, 61, 62]), row("direct", 1, commit="def456")]
        for table in result_tables(rows):
            for word in (
                "digits",
                "1,437 training and 360 test images",
                "T = 2",
                "0, 1, 2",
                "abc123",
                "def456",
                "abacus",
            ):
                assert word in table.note
        assert "n = 3" in result_tables(rows[:3])[0].note

    def test_times_and_speeds_are_marked(self):
        *others, speed = result_tables([row(analysed=1)])
        assert all(name.endswith(" †") for name in speed.head[2:]) and "† A measured time" in speed.note
        assert not any("†" in name for table in others for name in table.head)
        assert cells(result_tables(seeds("gac", [1, 2]))[3], "gac")["training (images/s)"] == "100.5 ± 0.7"
        assert "images_per_second" in VOLATILE_COLUMNS

    def test_a_damaged_number_is_named(self):
        with pytest.raises(ValueError, match="has 'much' as energy_paper_pj, where a number belongs"):
            result_tables([row(energy_paper_pj="much")])
        with pytest.raises(ValueError, match="has 'x' as readout_by_step, where a list"):
            result_tables([row(readout_by_step="x")])

    def test_markdown(self):
        line, rule, *lines = result_tables(seeds("gac", [60, 62]))[0].markdown().splitlines()
        assert line.startswith("| encoder | n | last epoch (%) |") and rule == "|---" * 7 + "|"
        assert lines == ["| gac | 2 | 61.00 ± 1.41 | 61.00 ± 1.41 | 70.00 ± 0.00 | 1.000 ± 0.000 | 85,962 |"]
        for table in result_tables([row()]):
            assert len(table.head) <= 10
        options = {"stem": "a|b<script>"}
        assert "gac:stem=a\\|b&lt;script>" in result_tables([row(model_options=options)])[0].markdown()


class TestGrouping:
    def test_settings_are_never_mixed(self):
        rows = [row(T=2), row(T=4, last=70), row(T=4, seed=1, last=72), row(T=4, lr=0.2)]
        sets = by_settings(rows)
        assert {title: len(group) for title, group in sets.items()} == {
            "T=2, lr=0.1": 1, "T=4, lr=0.1": 2, "T=4, lr=0.2": 1,
        }  # fmt: skip
        assert cells(result_tables(sets["T=4, lr=0.1"])[0], "gac")["last epoch (%)"] == "71.00 ± 1.41"
        with pytest.raises(ValueError, match="several settings"):
            result_tables(rows)

    @pytest.mark.parametrize("name", [name for name in KEY if name not in ("encoder", "form", "model_options", "seed")])
    def test_every_setting_counts(self, name):
        assert len(by_settings([row(), row(seed=1) | {name: "other"}])) == 2

    def test_encoders_have_their_own_lines(self):
        rows = [row(), row(form="reference"), row(model_options={"attention": "none"}), row("direct")]
        assert list(by_encoder(rows)) == ["gac", "gac:reference", "gac:attention=none", "direct"]
        assert len(by_settings(rows)) == 1

    def test_the_recipe_of_direct_coding_is_not_averaged_away(self):
        """Its neurons depend on it."""
        groups = by_encoder([row("direct"), row("direct", 1, form="reference")])
        assert [len(group) for group in groups.values()] == [1, 1] and all("direct (" in name for name in groups)

    def test_twins_stand_in_one_table(self):
        """train.py's configs name the network by its encoder."""
        (rows,) = by_settings([row("gac", model="gac_ms_resnet18"), row("direct", model="ms_resnet18")]).values()
        assert list(by_encoder(rows)) == ["gac", "direct"]

    def test_older_columns_beside_newer_ones(self, tmp_path):
        write(tmp_path / "results.csv", [row()])
        (tmp_path / "older").mkdir()
        (tmp_path / "older/results.csv").write_bytes(FORMS.read_bytes())
        sets = by_settings(read_folder(tmp_path).results)
        assert sorted(len(rows) for rows in sets.values()) == [1, 13]
        (older,) = (rows for rows in sets.values() if len(rows) == 13)
        accuracy = result_tables(older)[0]
        assert cells(accuracy, "gac:reference")["last epoch (%)"] == "54.20 ± 2.20"
        assert cells(accuracy, "direct")["training (%)"] == "-"


class TestReading:
    def test_all_kinds_below_a_folder(self, tmp_path):
        write(tmp_path / "a/results.csv", seeds("gac", [60, 61]))
        write(tmp_path / "b/seed0/result.csv", [row("direct")])
        write(tmp_path / "robustness.csv", [robustness_row("gac", 0, "clean", 0, 80)])
        write(tmp_path / "speed.csv", [speed_row("once", 1.0)])
        (tmp_path / "a/summary.csv").write_text("epoch,top1\n1,9\n")  # a log
        found = read_folder(tmp_path)
        assert (len(found.results), len(found.robustness), len(found.speed)) == (3, 1, 1)
        assert {Path(row["path"]).parent.name for row in found.results} == {"a", "seed0"}

    def test_a_copy_counts_once_and_the_analysed_one_stays(self, tmp_path):
        write(tmp_path / "a/results.csv", [row()])
        write(tmp_path / "b/results.csv", [row(analysed=2), row(seed=1)])
        write(tmp_path / "c/results.csv", [row()])
        first, second = read_folder(tmp_path).results
        assert first["analysed_images"] == "350" and second["seed"] == "1"

    def test_a_row_from_before_a_setting(self, tmp_path):
        """And from before the analysis."""
        new = {"cutout", *ANALYSED}
        write(tmp_path / "results.csv", [{name: text for name, text in row().items() if name not in new}])
        (found,) = read_folder(tmp_path).results
        assert found["cutout"] == "0" and found["analysed_images"] == ""

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, ["has no rows"]),
            (b"", ["another version", "make its rows again"]),
            (b"name,value\na,1\n", ["another version", "accuracy_last", "make its rows again"]),
            (b"encoder,recipe,seed,accuracy_last\ngac,none,0,9\n", ["another version", "accuracy_best"]),
            (b"\x89PNG\xff", ["cannot be read", "mend it"]),
            ("cut", ["is damaged", "mend it"]),
            ("empty", ["has no rows"]),
            ("word", ["'good' as accuracy_last", "mend it"]),
            ("none", ["without accuracy_last", "mend it"]),
        ],
    )
    def test_other_files(self, content, words, tmp_path, capsys):
        path = tmp_path / "runs/results.csv"
        path.parent.mkdir()
        (tmp_path / "runs/report.html").write_text("mine")
        if content in ("cut", "empty"):
            lines = FORMS.read_text().splitlines()
            content = f"{lines[0]}\n{lines[1][:60] if content == 'cut' else ''}".encode()
        if content in ("word", "none"):
            write(path, [row(accuracy_last="good" if content == "word" else "")])
        elif content is not None:
            path.write_bytes(content)
        before = contents(tmp_path)
        refused(capsys, [path.parent], str(path.parent), *words)
        assert contents(tmp_path) == before

    def test_two_results_of_one_seed(self, tmp_path, capsys):
        for name, last in (("a", 60), ("b", 61)):
            write(tmp_path / name / "results.csv", [row(last=last)])
        refused(capsys, [tmp_path], "a/results.csv", "b/results.csv", "seed 0", "keep one")


class TestRobustness:
    ROWS = [
        robustness_row(encoder, seed, corruption, severity, accuracy + shift - 10 * seed)
        for encoder, shift in (("gac", 0.0), ("direct", -5.0))
        for seed in (0, 1)
        for corruption, severity, accuracy in (
            ("blur", 1, 70.0), ("clean", 0, 80.0), ("blur", 5, 50.0), ("pgd", 1, 30.0), ("pgd", 5, 10.0),
        )
    ]  # fmt: skip

    def test_means_by_hand(self):
        corrupted, attacked = robustness_tables(self.ROWS)
        # blur: 60 and 50 over severities
        assert cells(corrupted, "gac") == {
            "encoder": "gac", "n": "2", "clean": "75.00 ± 7.07", "blur": "55.00 ± 7.07",
        }  # fmt: skip
        assert cells(attacked, "direct") == {
            "encoder": "direct", "n": "2", "clean": "70.00 ± 7.07", "pgd": "10.00 ± 7.07", "gradient": "surrogate",
        }  # fmt: skip
        for word in ("severities 1, 5", "50 test images", "seeds 0, 1", "abc123", "an abacus"):
            assert word in corrupted.note

    def test_a_run_that_lacks_a_severity_is_left_out(self):
        corrupted, _ = robustness_tables(self.ROWS[1:])  # gac, seed 0 has blur 5 alone
        assert (
            cells(corrupted, "gac")["blur"] == "50.00 (n = 1)" and cells(corrupted, "direct")["blur"] == "50.00 ± 7.07"
        )

    def test_settings_are_never_mixed(self):
        other = [
            robustness_row("gac", 0, "clean", 0, 40, settings="s2", weights="w"),
            robustness_row("gac", 0, "clean", 0, 45, images=9),
        ]
        sets = robustness_sets(self.ROWS + other)
        assert list(map(len, sets.values())) == [len(self.ROWS), 1, 1]
        assert list(sets) == ["settings=s1, images=50", "settings=s2, images=50", "settings=s1, images=9"]

    def test_two_accuracies_of_one_test(self):
        with pytest.raises(ValueError, match=r"two accuracies of gac, seed 0, clean 0; keep one"):
            robustness_sets([robustness_row("gac", 0, "clean", 0, 80), robustness_row("gac", 0, "clean", 0, 81)])
        assert len(robustness_sets([robustness_row("gac", 0, "clean", 0, 80)] * 2)[""]) == 1


class TestSpeed:
    ROWS = [
        speed_row("once", 3.0), speed_row("repeated", 1.0),
        speed_row("once", 3.546, "backward"), speed_row("repeated", 1.0, "backward"),
        speed_row("ours", 0.94, benchmark="loaders", T=0, device="a slide rule"),
        speed_row("timm", 1.0, benchmark="loaders", T=0, device="a slide rule"),
    ]  # fmt: skip

    def test_sentences(self):
        encoder, loaders = speed_sentences(self.ROWS)
        assert "forward, `once` 3.00 times as fast as `repeated`" in encoder and "3.55 times" in encoder
        assert "T = 6" in encoder and "30 timings" in encoder and "(an abacus, commit abc123)" in encoder
        assert "`ours` 0.94 times as fast as `timm`" in loaders and "slide rule" in loaders and "T =" not in loaders

    def test_table(self):
        table = speed_table(self.ROWS)
        assert len(table.lines) == len(self.ROWS)
        assert [cell.text for cell in table.lines[0][:6]] == ["encoder", "forward", "once", "3.00", "repeated", "10.00"]
        assert all(("†" in name) == (name.split()[0] in ("times", "median", "20", "80")) for name in table.head)

    def test_nothing_to_compare_with(self):
        with pytest.raises(ValueError, match="no variant of encoder, forward, with speedup 1"):
            speed_sentences([speed_row("once", 3.0)])


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
        write(folder / "robustness.csv", TestRobustness.ROWS)
        write(folder / "speed.csv", TestSpeed.ROWS)
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def text(cls, folder):
        assert report.main([str(folder), "--output", str(folder / "page.html")]) == 0
        return (folder / "page.html").read_text(encoding="utf-8")

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
        assert [len(table) - 1 for table in found.tables] == [2] * 8 + [2, 2, 6]

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

    def test_twice_the_same(self, text, folder):
        assert report.main([str(folder), "--output", str(folder / "again.html")]) == 0
        assert (folder / "again.html").read_text(encoding="utf-8") == text

    def test_where_it_is_written(self, tmp_path, capsys):
        path = write(tmp_path / "some.csv", [row()])
        assert report.main([str(path)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
        found = Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert len(found.tables) == 4 and {cell for cell, _ in found.tables[1][1][2:]} == {"-"}

    def test_rows_of_the_forms(self, tmp_path):
        """Their columns are older."""
        assert report.main([str(FORMS), "--output", str(tmp_path / "page.html")]) == 0
        assert "54.20 ± 2.20" in (tmp_path / "page.html").read_text(encoding="utf-8")

    def test_refusals(self, tmp_path, capsys):
        path = write(tmp_path / "results.csv", [row(accuracy_by_epoch="{}")])
        refused(capsys, [path, "--output", tmp_path / "nowhere/page.html"], "nowhere/page.html", "--output")
        refused(capsys, [], "--readme")
        refused(capsys, [path, "--readme"], "--readme")
        refused(capsys, [path, "--check"], "--readme")
        write(path, [row(analysed=2, firing_rates_by_step="{")])
        refused(capsys, [path], str(path), "firing_rates_by_step")


class TestRunsReport:
    """What run_cifar.py leaves."""

    def test_files(self, tmp_path):
        rows = seeds("gac", [60, 62], analysed=2) + seeds("direct", [61, 61], analysed=1)
        printed = report.write_report(tmp_path, rows)
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
        report.write_report(tmp_path, seeds("gac", [60, 62]))
        files = {path.name for path in tmp_path.iterdir()}
        assert files == {"learning_curves.png", "learning_curves.svg", "report.md", "report.html"}
        assert "Energy" not in (tmp_path / "report.md").read_text().split("## What the columns say")[0]

    def test_a_single_test(self, tmp_path):
        """A curve of one point is none."""
        report.write_report(tmp_path, [row(accuracy_by_epoch='{"3": 60.0}')])
        assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.html"}


class TestBlocks:
    @pytest.fixture
    def place(self, tmp_path, monkeypatch):
        """A repository with all rows, and blocks in both of its READMEs."""
        monkeypatch.setattr(readme, "REPOSITORY", tmp_path)
        gac, direct = [60.0, 61.0, 62.0], [62.0, 62.5, 64.0]
        rows = seeds("gac", gac, analysed=2) + seeds("direct", direct) + seeds("direct_lif", [50.0, 52.0, 51.0])
        write(tmp_path / readme.CIFAR, rows + seeds("direct_matched", [1.0, 2.0]))
        write(tmp_path / readme.DIGITS, seeds("gac", [90, 91, 92, 93, 94], analysed=3))
        write(tmp_path / readme.STEPS, seeds("gac", [80.0, 81.0, 82.0], T=8))
        write(tmp_path / readme.ATTENTION, seeds("direct", [70.0, 71.0], model_options={"block_attention": "TCSA"}))
        (tmp_path / readme.FORMS).parent.mkdir(parents=True)
        (tmp_path / readme.FORMS).write_bytes(FORMS.read_bytes())
        for path in (readme.ROBUST_CIFAR, readme.ROBUST_DIGITS):
            write(tmp_path / path, TestRobustness.ROWS)
        write(tmp_path / readme.SPEED, [*TestSpeed.ROWS, speed_row("naive", 1.0, benchmark="lif")])
        half = len(readme.BLOCKS) // 2
        for path, names in (
            ("README.md", [*readme.BLOCKS][:half]),
            ("benchmarks/README.md", [*readme.BLOCKS][half:]),
        ):
            blocks = [
                f"## {name}\n\n<!-- rows: {name} -->\nold 1.23\n<!-- rows: end -->\n\nafter {name}" for name in names
            ]
            (tmp_path / path).write_text("\n\n".join(["# Title", *blocks]) + "\n", encoding="utf-8")
        return tmp_path

    @staticmethod
    def block(place, name):
        text = "".join((place / path).read_text(encoding="utf-8") for path in readme.PAGES)
        return re.search(rf"<!-- rows: {name} -->\n(.*?)\n<!-- rows: end -->", text, re.DOTALL)[1]

    def test_only_what_lies_between_markers_changes(self, place):
        before = {path: (place / path).read_text() for path in readme.PAGES}
        assert report.main(["--readme"]) == 0
        inside = re.compile(r"(<!-- rows: (?!end).*? -->).*?(<!-- rows: end -->)", re.DOTALL)
        for path, text in before.items():
            after = (place / path).read_text(encoding="utf-8")
            assert "old 1.23" not in after and inside.sub(r"\1\2", after) == inside.sub(r"\1\2", text)
        written = contents(place)
        assert report.main(["--readme"]) == 0 == report.main(["--readme", "--check"])
        assert contents(place) == written

    def test_check_finds_a_changed_number(self, place, capsys):
        report.main(["--readme"])
        path = place / "README.md"
        path.write_text(path.read_text(encoding="utf-8").replace("61.00 ± 1.00", "61.01 ± 1.00", 1), encoding="utf-8")
        capsys.readouterr()
        before = contents(place)
        assert report.main(["--readme", "--check"]) == 1
        error = capsys.readouterr().err
        assert error == "report.py: README.md is out of date; run python benchmarks/report.py --readme.\n"
        assert contents(place) == before

    def test_check_finds_a_changed_row(self, place, capsys):
        report.main(["--readme"])
        write(place / readme.DIGITS, seeds("gac", [90, 91, 92, 93, 95], analysed=3))
        assert report.main(["--readme", "--check"]) == 1
        assert capsys.readouterr().err

    def test_every_block_says_what_it_rests_on(self, place):
        report.main(["--readme"])
        for name in readme.BLOCKS:
            commit, device = ("239c2429c7db", "AMD EPYC") if name == "encoder forms" else ("abc123", "abacus")
            text = self.block(place, name)
            device = "slide rule" if name == "speed loaders" else device
            assert commit in text and device in text, name
            (page,) = (page for page in readme.PAGES if text in (place / page).read_text(encoding="utf-8"))
            links = re.findall(r"\]\((.*?)\)", text)
            assert links and all(((place / page).parent / link).exists() for link in links), name

    def test_results(self, place):
        report.main(["--readme"])
        text = self.block(place, "cifar10 small")
        assert "| gac | 3 | 61.00 ± 1.00 | 61.00 ± 1.00 |" in text
        assert "| gac | 3 | 2.00 ± 0.00 | 8.00 ± 0.00 |" in text and "| direct | 3 | - | - |" in text
        assert "| gac | 5 | 92.00 ± 1.58 |" in self.block(place, "digits")
        assert "| gac:reference | 3 | 54.20 ± 2.20 |" in self.block(place, "encoder forms")
        dynamics = self.block(place, "dynamics")
        assert "| gac | 3 | 2.00 ± 0.00 |" in dynamics and "| gac | 5 | 3.00 ± 0.00 |" in dynamics
        assert "55.00 ± 7.07" in self.block(place, "robustness digits")

    def test_differences_by_hand(self, place):
        report.main(["--readme"])
        text = self.block(place, "cifar10 small")

        def expected(differences):
            # Student's t with 2 degrees of freedom is 4.302653 at 0.975
            mean, half = statistics.mean(differences), 4.302653 * statistics.stdev(differences) / 3**0.5
            return f"{mean:+.2f} points, [{mean - half:+.2f}, {mean + half:+.2f}], 3 seeds."

        against, below, above = (
            expected([-2, -1.5, -2]),
            "excludes 0: `gac` is below `direct`.",
            "is above `direct_lif`",
        )
        assert f"`gac` - `direct`: {against} The interval {below}" in text
        assert f"`gac` - `direct_lif`: {expected([10, 9, 11])} The interval excludes 0: `gac` {above}." in text
        assert "direct_matched`:" not in text  # two common seeds do not make an interval

    def test_an_interval_with_0(self, place):
        write(place / readme.CIFAR, seeds("gac", [60, 61, 62]) + seeds("direct", [61, 61, 61]))
        report.main(["--readme"])
        assert "includes 0: these 3 seeds do not tell them apart." in self.block(place, "cifar10 small")

    def test_settings_are_not_mixed(self, place):
        write(place / readme.DIGITS, [row(T=2, last=80), row(T=4, last=90)])
        report.main(["--readme"])
        text = self.block(place, "digits")
        assert text.index("With T=2:") < text.index("80.00") < text.index("With T=4:") < text.index("90.00")

    def test_rows_that_were_not_analysed(self, place):
        write(place / readme.DIGITS, [row()])
        report.main(["--readme"])
        assert "were not analysed" in self.block(place, "dynamics") and "µJ" not in self.block(place, "digits")

    @pytest.mark.parametrize("path", [*readme.COMMANDS])
    def test_missing_rows_name_their_command(self, path, place, capsys):
        (place / path).unlink()
        before = contents(place)
        refused(capsys, ["--readme"], path, "python benchmarks/")
        assert contents(place) == before

    def test_damaged_and_older_rows(self, place, capsys):
        path = place / readme.SPEED
        for content, word in (("benchmark,variant\nencoder,once\n", "version"), (path.read_text()[:-30], "damaged")):
            path.write_text(content)
            before = contents(place)
            refused(capsys, ["--readme"], "speed.csv", word)
            refused(capsys, ["--readme", "--check"], "speed.csv", word)
            assert contents(place) == before

    def test_a_benchmark_that_was_not_measured(self, place, capsys):
        write(place / readme.SPEED, TestSpeed.ROWS)
        refused(capsys, ["--readme"], "no rows of lif", "python benchmarks/speed.py lif")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("no block\n", ["one block at least"]),
            ("<!-- rows: speed -->\n", ["README.md", "<!-- rows: end -->"]),
            ("<!-- rows: end -->\n<!-- rows: speed -->\n", ["has <!-- rows: end -->", "<!-- rows: NAME -->"]),
            ("<!-- rows: speed -->\n<!-- rows: digits -->\n<!-- rows: end -->\n", ["has <!-- rows: digits -->"]),
            ("<!-- rows: tempo -->\n<!-- rows: end -->\n", ["'tempo'", "choose from", "speed"]),
            (None, ["README.md", "put it back"]),
        ],
    )
    def test_markers(self, text, words, place, capsys):
        """Of the second page; the first one stays as it was too."""
        path = place / "benchmarks/README.md"
        path.unlink()
        if text is not None:
            path.write_text(text)
        before = contents(place)
        refused(capsys, ["--readme"], "benchmarks/README.md", *words)
        assert contents(place) == before

    def test_markers_inside_a_line_are_text(self, place):
        path = place / "benchmarks/README.md"
        path.write_text("Between `<!-- rows: NAME -->` and its end.\n\n<!-- rows: speed -->\n<!-- rows: end -->\n")
        assert report.main(["--readme"]) == 0
        assert path.read_text(encoding="utf-8").startswith("Between `<!-- rows: NAME -->` and its end.\n")
