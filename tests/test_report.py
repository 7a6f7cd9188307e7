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
import yaml
from helpers.files import contents
from helpers.programs import refused

from gac_sj.results import Run, group, load
from gac_sj.results.index import read_index
from gac_sj.results.report import write_report
from gac_sj.results.robustness import ROBUSTNESS, RobustnessTest, robustness_sets, robustness_tables
from gac_sj.results.run_tables import run_tables
from gac_sj.results.schema import ANALYSED_COLUMNS, KEY_COLUMNS, MEASURED_COLUMNS, RUNS, VOLATILE_COLUMNS, as_text
from gac_sj.results.speed import SPEED, Timing, speed_sentences, speed_table
from gac_sj.results.table import Table
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).resolve().parent.parent
FORMS = REPOSITORY / "experiments/encoder_forms/results.csv"


CHECKED_IN = sorted(
    path.relative_to(REPOSITORY)
    for folder in ("benchmarks/results", "experiments/results", "experiments/encoder_forms", "experiments/reruns")
    for path in (REPOSITORY / folder).rglob("*.csv")
)
OVER_ENCODERS = ("encoder", "seed")


def row(encoder="gac", seed=0, last=60.0, best=None, analysed=None, **changes):
    """A row as a finished run leaves it; ``analysed``: a number on which all its analysis depends."""
    settings = {"model": "ms_resnet8_cifar", "T": 2, "epochs": 3, "dataset": "digits"}
    columns = MEASURED_COLUMNS + ANALYSED_COLUMNS
    measured = {name: changes.pop(name) for name in tuple(changes) if name in columns}
    run = Settings(encoder=encoder, seed=seed, **settings | changes)
    found = as_text(run.key()) | {"data": "d4f8"} | dict.fromkeys(MEASURED_COLUMNS, "1")
    found |= dict.fromkeys(ANALYSED_COLUMNS, "") | {
        "accuracy_last": last, "accuracy_best": best or last, "accuracy_by_epoch": json.dumps({"1": 9.5, "3": last}),
        "train_accuracy_last": 70.0, "parameters": 85962, "train_images": 1437, "test_images": 360,
        "commit": "abc123", "device": "an abacus", "versions": "torch 9.9", "images_per_second": 100.0 + seed,
        "accuracy_by_steps": "[9.5]", "firing_rates": "{}",
    }  # fmt: skip
    if analysed is not None:
        found |= dict.fromkeys(ANALYSED_COLUMNS, 1) | {
            "analysed_images": 350, "energy_paper_pj": analysed * 1e6, "energy_complete_pj": analysed * 4e6,
            "energy_encoder_pj": analysed * 1e6, "dense_macs": 3_000_000, "effective_macs": analysed * 2e6,
            "effective_acs": analysed * 1e6, "non_spiking_layers": '["lif", "head"]', "silent": analysed / 10,
            "firing_rates_by_step": json.dumps({"lif": [analysed / 10, 0.5]}), "time_to_repeat": analysed,
            "energy_by_layer": json.dumps({
                "encoder.gau.temporal": [0, analysed * 1e6], "encoder.gau (gate)": [0, analysed * 5e5],
                "stages.0.0.attention.spatial.convolution": [0, analysed * 2.5e5], "lif": [analysed, analysed],
            }),
            "time_to_first_spike": "nan", "readout_by_step": json.dumps([0.5, analysed / 10]),
            "information_by_step": "[1.0, 0.5]", "change_by_step": "[]",
        }  # fmt: skip
    return {name: str(value) for name, value in (found | measured).items()}


def seeds(encoder, lasts, first=0, **changes):
    return [row(encoder, seed, last, **changes) for seed, last in enumerate(lasts, first)]


def runs(*rows):
    return [Run.from_row(each) for each in rows]


def robustness_row(encoder, seed, corruption, severity, accuracy, **changes):
    """A row of robustness.py."""
    run = {name: text for name, text in row(encoder, seed).items() if name in ("form", "model", "model_options", "T")}
    found = {"weights": f"{encoder}{seed}", "settings": "s1", "data": "d4f8", "dataset": "digits", "epochs": 3}
    found |= run | {"encoder": encoder, "seed": seed, "corruption": corruption, "severity": severity, "images": 50}
    found |= {"batch_size": 100, "corruption_seed": 0, "pgd_steps": 10 if corruption == "pgd" else "", "strength": 0.1}
    found |= {"gradient": "surrogate" if corruption == "pgd" else "", "accuracy": accuracy, "seconds": 0.5}
    found |= {"commit": "abc123", "versions": "torch 9.9", "device": "an abacus", "date": "2026-01-01"}
    return {name: str((found | changes)[name]) for name in ROBUSTNESS.names}


def robustness_tests(*rows):
    return [RobustnessTest.from_row(each) for each in rows]


def speed_row(variant, speedup, mode="forward", **changes):
    found = {"benchmark": "encoder", "variant": variant, "mode": mode, "T": 6, "batch": 4, "size": 32, "channels": 64}
    found |= {"repeats": 30, "date": "2026-01-01", "median_ms": 30 / speedup, "low_ms": 1, "high_ms": 40}
    found |= {"speedup": speedup, "commit": "abc123", "versions": "torch 9.9", "device": "an abacus"}
    return {name: str((found | changes).get(name, "")) for name in SPEED.names}


def timings(*rows):
    return [Timing.from_row(each) for each in rows]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def tables(*rows):
    return run_tables(runs(*rows))


def cells(table: Table, encoder):
    """A line as {heading: text}, without the mark of times."""
    (line,) = (line for line in table.lines if line[0].text == encoder)
    return {name.removesuffix(" †"): cell.text for name, cell in zip(table.head, line, strict=True)}


class TestTables:
    def test_means_and_stds_by_hand(self):
        rows = [row("gac", s, last, best) for s, last, best in ((0, 60, 61), (1, 62, 62), (2, 64, 66.5))]
        accuracy, *_ = tables(*rows, row("direct", 0, 50.125, parameters="77754"))
        assert cells(accuracy, "gac") == {
            "encoder": "gac", "n": "3", "last epoch (%)": "62.00 ± 2.00", "best epoch (%)": "63.17 ± 2.93",
            "training (%)": "70.00 ± 0.00", "firing rate": "1.000 ± 0.000", "parameters": "85,962",
        }  # fmt: skip
        line = cells(accuracy, "direct")
        assert (line["n"], line["last epoch (%)"], line["parameters"]) == ("1", "50.12", "77,754")

    def test_energy_by_hand(self):
        line = cells(tables(row("gac", 0, analysed=2), row("gac", 1, analysed=4))[1], "gac")
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
        assert cells(tables(row(analysed=analysed))[1], "gac")[f"paper ({unit})"] == text

    def test_dynamics(self):
        line = cells(tables(row("gac", 0, analysed=2), row("gac", 1, analysed=4))[2], "gac")
        assert line["time to repeat"] == "3.00 ± 1.41" and line["silent"] == "0.300 ± 0.141"
        assert line["read-out by step (%)"] == "50.0, 30.0"
        assert line["time to first spike"] == "-"  # it is nan if nothing fires

    def test_without_analysis(self):
        accuracy, *rest = tables(*seeds("gac", [60, 61]))
        for table in rest[:2]:
            assert set(list(cells(table, "gac").values())[2:]) == {"-"} and table.is_empty
            assert "Not analysed" in table.note
        assert not accuracy.is_empty

    def test_partly_analysed(self):
        rows = [row("gac", 0, analysed=2), row("gac", 1, analysed=4), row("gac", 2), row("direct", 0)]
        _, energy, dynamics, _ = tables(*rows)
        assert cells(energy, "gac")["paper (µJ)"] == "3.00 ± 1.41 (n = 2)" and cells(energy, "gac")["n"] == "3"
        assert cells(dynamics, "gac")["read-out by step (%)"] == "50.0, 30.0 (n = 2)"
        assert cells(energy, "direct")["paper (µJ)"] == "-" and "Analysed on 350 test images." in energy.note

    def test_what_the_numbers_rest_on(self):
        rows = [*seeds("gac", [60, 61, 62]), row("direct", 1, commit="def456")]
        for table in tables(*rows):
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
        assert "n = 3" in tables(*rows[:3])[0].note

    def test_times_and_speeds_are_marked(self):
        *others, speed = tables(row(analysed=1))
        assert all(name.endswith(" †") for name in speed.head[2:]) and "† A measured time" in speed.note
        assert not any("†" in name for table in others for name in table.head)
        assert cells(tables(*seeds("gac", [1, 2]))[3], "gac")["training (images/s)"] == "100.5 ± 0.7"
        assert "images_per_second" in VOLATILE_COLUMNS

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"energy_paper_pj": "much"}, ["'much'", "energy_paper_pj", "a number"]),
            ({"readout_by_step": "x"}, ["'x'", "readout_by_step", "a JSON list"]),
            ({"accuracy_by_epoch": "[]"}, ["accuracy_by_epoch", "a JSON object"]),
            ({"parameters": "1.5"}, ["'1.5'", "parameters", "an integer"]),
            ({"accuracy_last": ""}, ["''", "accuracy_last", "a number"]),
        ],
    )
    def test_a_damaged_value_is_named(self, changes, words):
        with pytest.raises(ValueError, match=r"mine\.csv") as error:
            Run.from_row(row(analysed=1, **changes), Path("mine.csv"))
        assert all(word in str(error.value) for word in words), error.value

    def test_markdown(self):
        line, rule, *lines = tables(*seeds("gac", [60, 62]))[0].markdown().splitlines()
        assert line.startswith("| encoder | n | last epoch (%) |") and rule == "|---" * 7 + "|"
        assert lines == ["| gac | 2 | 61.00 ± 1.41 | 61.00 ± 1.41 | 70.00 ± 0.00 | 1.000 ± 0.000 | 85,962 |"]
        for table in tables(row()):
            assert len(table.head) <= 10
        options = {"stem": "a|b<script>"}
        assert "gac:stem=a\\|b&lt;script>" in tables(row(model_options=options))[0].markdown()


class TestGrouping:
    def test_settings_are_never_mixed(self):
        rows = runs(row(T=2), row(T=4, last=70), row(T=4, seed=1, last=72), row(T=4, lr=0.2))
        sets = group(rows, over=OVER_ENCODERS)
        assert {title: len(found) for title, found in sets.items()} == {
            "T=2, lr=0.1": 1, "T=4, lr=0.1": 2, "T=4, lr=0.2": 1,
        }  # fmt: skip
        assert cells(run_tables(sets["T=4, lr=0.1"])[0], "gac")["last epoch (%)"] == "71.00 ± 1.41"
        with pytest.raises(ValueError, match="several settings"):
            run_tables(rows)

    @pytest.mark.parametrize(
        "name",
        [name for name in KEY_COLUMNS if name not in ("encoder", "form", "encoder_source", "model_options", "seed")],
    )
    def test_every_setting_counts(self, name):
        first, second = runs(row(), row(seed=1))
        second = Run({**second.settings, name: "other"}, None, second.measured)
        assert len(group([first, second], over=OVER_ENCODERS)) == len(group([first, second])) == 2

    def test_encoders_have_their_own_lines(self):
        rows = runs(row(), row(form="reference"), row(model_options={"attention": "none"}), row("direct"))
        assert list(group(rows)) == ["gac", "gac:reference", "gac:attention=none", "direct"]
        assert list(group(rows, over=OVER_ENCODERS)) == [""]

    def test_the_form_of_direct_coding_is_not_averaged_away(self):
        """Its neurons depend on it."""
        groups = group(runs(row("direct"), row("direct", 1, form="reference")))
        assert {title: len(found) for title, found in groups.items()} == {
            "direct (form=None)": 1, "direct (form=reference)": 1,
        }  # fmt: skip

    def test_counterparts_share_a_table(self):
        """train.py's configs name the network by its encoder."""
        rows = runs(row("gac", model="gac_ms_resnet18"), row("direct", model="ms_resnet18"))
        assert list(group(rows, over=OVER_ENCODERS)) == [""] and list(group(rows)) == ["gac", "direct"]

    def test_one_label_of_two_networks(self):
        rows = runs(row(model="gac_ms_resnet18"), row(model="ms_resnet18"))
        assert list(group(rows)) == ["gac (model=gac_ms_resnet18)", "gac (model=ms_resnet18)"]

    def test_a_setting_that_another_one_determines_is_not_in_the_title(self):
        rows = runs(row(epochs=3, lr=0.1), row(epochs=5, lr=0.2))
        assert list(group(rows, over=OVER_ENCODERS)) == ["epochs=3", "epochs=5"]

    def test_several_T(self):
        rows = runs(row(T=2), row(T=4), row("direct", T=4))
        assert {name: len(found) for name, found in group(rows, over=("seed", "T")).items()} == {"gac": 2, "direct": 1}
        assert list(group(rows)) == ["gac (T=2)", "gac (T=4)", "direct"]


class TestReading:
    def test_all_kinds_below_a_folder(self, tmp_path):
        write(tmp_path / "a/results.csv", seeds("gac", [60, 61]))
        write(tmp_path / "b/seed0/result.csv", [row("direct")])
        write(tmp_path / "robustness.csv", [robustness_row("gac", 0, "clean", 0, 80)])
        write(tmp_path / "speed.csv", [speed_row("once", 1.0)])
        (tmp_path / "a/summary.csv").write_text("epoch,top1\n1,9\n")  # a log
        found = load(tmp_path)
        assert (len(found.runs), len(found.robustness), len(found.speed)) == (3, 1, 1)
        assert {run.path.parent.name for run in found.runs} == {"a", "seed0"}
        assert len(load(tmp_path / "a", tmp_path / "speed.csv").runs) == 2

    def test_values_have_the_types_of_their_columns(self, tmp_path):
        path = write(tmp_path / "some.csv", [row(analysed=2, model_options={"drop_rate": 0.1}, hflip=0.5)])
        (run,) = load(path).runs
        settings = run.settings
        assert settings["T"] == 2 and settings["hflip"] == 0.5 and settings["compile"] is False
        assert settings["model_options"] == {"drop_rate": 0.1} and settings["train_limit"] is None
        assert settings["data"] == "d4f8" and run.seed == 0 and list(settings) == list(KEY_COLUMNS)
        assert run.measured.accuracy_by_epoch == {"1": 9.5, "3": 60.0} and run.measured.parameters == 85962
        assert run.analysed.readout_by_step == [0.5, 0.2] and run.analysed.time_to_first_spike is None
        assert run.value("commit") == "abc123" and run.value("analysed_images") == 350 and run.value("path") == path
        with pytest.raises(AttributeError):
            run.path = None

    def test_the_columns_of_the_file_are_the_fields_of_the_record(self):
        assert (*KEY_COLUMNS, *MEASURED_COLUMNS, *ANALYSED_COLUMNS) == RUNS.names
        assert set(VOLATILE_COLUMNS) == {
            "train_seconds", "images_per_second", "inference_images_per_second", "encoder_images_per_second", "date",
        }  # fmt: skip
        assert all(column.help for column in (*RUNS.columns, *ROBUSTNESS.columns, *SPEED.columns))

    def test_a_copy_counts_once_and_the_analysed_one_is_kept(self, tmp_path):
        write(tmp_path / "a/results.csv", [row()])
        write(tmp_path / "b/results.csv", [row(analysed=2), row(seed=1)])
        write(tmp_path / "c/results.csv", [row()])
        first, second = load(tmp_path).runs
        assert first.analysed.analysed_images == 350 and second.seed == 1

    def test_a_row_from_before_a_setting(self, tmp_path):
        """And from before the analysis."""
        new = {"cutout", "encoder_source", *ANALYSED_COLUMNS}
        write(tmp_path / "results.csv", [{name: text for name, text in row().items() if name not in new}])
        (found,) = load(tmp_path).runs
        assert found.settings["cutout"] == 0 and found.settings["encoder_source"] is None and found.analysed is None

    def test_rows_of_an_encoder_that_is_not_registered(self, tmp_path, capsys):
        """They load, group and tabulate beside others."""
        source = {"encoder": "affine", "form": "None", "encoder_source": "affine.py:0123456789ab"}
        theirs = [each | source for each in seeds("direct", [70.0, 72.0], model_options={"gain": 2})]
        path = write(tmp_path / "results.csv", [*seeds("gac", [60, 61]), *theirs])
        found = load(path).runs
        assert list(group(found)) == ["gac", "affine:gain=2"]
        assert cells(run_tables(found)[0], "affine:gain=2")["last epoch (%)"] == "71.00 ± 1.41"
        assert report.main([str(path)]) == 0
        assert "affine:gain=2" in (tmp_path / "report.html").read_text(encoding="utf-8")
        other = [each | source | {"encoder_source": "affine.py:ba9876543210"} for each in seeds("direct", [1.0])]
        titles = list(group([*found[2:], *runs(*(each | {"model_options": '{"gain": 2}'} for each in other))]))
        assert titles == [
            "affine:gain=2 (encoder_source=affine.py:0123456789ab)",
            "affine:gain=2 (encoder_source=affine.py:ba9876543210)",
        ]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, ["results.csv"]),
            (b"", ["damaged or empty"]),
            (b"name,value\na,1\n", ["unknown columns: name, value", "lacks columns", "move it away"]),
            (b"encoder,recipe,seed,accuracy_last\ngac,none,0,9\n", ["unknown columns: recipe", "accuracy_best"]),
            (b"\x89PNG\xff", ["cannot be read"]),
            ("unknown", ["unknown columns: mood", "rename"]),
            ("cut", ["is damaged"]),
            ("empty", ["has no rows"]),
            ("word", ["'good'", "accuracy_last"]),
            ("none", ["''", "accuracy_last"]),
        ],
    )
    def test_other_files(self, content, words, tmp_path, capsys):
        path = tmp_path / "runs/results.csv"
        path.parent.mkdir()
        (tmp_path / "runs/report.html").write_text("mine")
        if content in ("cut", "empty"):
            lines = FORMS.read_text().splitlines()
            content = f"{lines[0]}\n{lines[1][:60] if content == 'cut' else ''}".encode()
        if content == "unknown":
            write(path, [row() | {"mood": "calm"}])
        elif content in ("word", "none"):
            write(path, [row(accuracy_last="good" if content == "word" else "")])
        elif content is not None:
            path.write_bytes(content)
        refused(capsys, report.main, [path.parent], str(path.parent), *words, folder=tmp_path)

    @pytest.mark.parametrize(
        ("name", "rows", "lacking"),
        [
            ("robustness.csv", [robustness_row("gac", 0, "clean", 0, 80)], "strength"),
            ("speed.csv", [speed_row("once", 1.0)], "median_ms"),
        ],
    )
    def test_columns_of_other_kinds_are_checked_too(self, name, rows, lacking, tmp_path, capsys):
        write(tmp_path / name, [each | {"mood": "calm"} for each in rows])
        refused(capsys, report.main, [tmp_path], name, "unknown columns: mood")
        write(tmp_path / name, [{key: text for key, text in each.items() if key != lacking} for each in rows])
        refused(capsys, report.main, [tmp_path], name, f"lacks columns: {lacking}")

    def test_two_results_of_one_seed(self, tmp_path, capsys):
        for name, last in (("a", 60), ("b", 61)):
            write(tmp_path / name / "results.csv", [row(last=last)])
        refused(capsys, report.main, [tmp_path], "a/results.csv", "b/results.csv", "seed 0", "keep one")

    @pytest.mark.parametrize("path", CHECKED_IN, ids=str)
    def test_checked_in_rows_can_be_read(self, path):
        found = load(REPOSITORY / path)
        assert found.runs or found.robustness or found.speed


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
        corrupted, attacked = robustness_tables(robustness_tests(*self.ROWS))
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
        corrupted, _ = robustness_tables(robustness_tests(*self.ROWS[1:]))  # gac, seed 0 has blur 5 alone
        assert (
            cells(corrupted, "gac")["blur"] == "50.00 (n = 1)" and cells(corrupted, "direct")["blur"] == "50.00 ± 7.07"
        )

    def test_settings_are_never_mixed(self):
        other = [
            robustness_row("gac", 0, "clean", 0, 40, settings="s2", weights="w"),
            robustness_row("gac", 0, "clean", 0, 45, images=9),
        ]
        sets = robustness_sets(robustness_tests(*self.ROWS, *other))
        assert list(map(len, sets.values())) == [len(self.ROWS), 1, 1]
        assert list(sets) == ["settings=s1, images=50", "settings=s2, images=50", "settings=s1, images=9"]

    def test_two_accuracies_of_one_test(self):
        first, second = (robustness_row("gac", 0, "clean", 0, accuracy) for accuracy in (80, 81))
        with pytest.raises(ValueError, match=r"two accuracies of gac, seed 0, clean 0; keep one"):
            robustness_sets(robustness_tests(first, second))
        assert len(robustness_sets(robustness_tests(first, first))[""]) == 1


class TestSpeed:
    ROWS = [
        speed_row("once", 3.0), speed_row("repeated", 1.0),
        speed_row("once", 3.546, "backward"), speed_row("repeated", 1.0, "backward"),
        speed_row("ours", 0.94, benchmark="loaders", T=0, device="a slide rule"),
        speed_row("timm", 1.0, benchmark="loaders", T=0, device="a slide rule"),
    ]  # fmt: skip

    def test_sentences(self):
        encoder, loaders = speed_sentences(timings(*self.ROWS))
        assert "forward, `once` 3.00 times as fast as `repeated`" in encoder and "3.55 times" in encoder
        assert "T = 6" in encoder and "30 timings" in encoder and "(an abacus, commit abc123)" in encoder
        assert "`ours` 0.94 times as fast as `timm`" in loaders and "slide rule" in loaders and "T =" not in loaders

    def test_table(self):
        table = speed_table(timings(*self.ROWS))
        assert len(table.lines) == len(self.ROWS)
        assert [cell.text for cell in table.lines[0][:6]] == ["encoder", "forward", "once", "3.00", "repeated", "10.00"]
        assert all(("†" in name) == (name.split()[0] in ("times", "median", "20", "80")) for name in table.head)

    def test_nothing_to_compare_with(self):
        with pytest.raises(ValueError, match="no variant of encoder, forward, with speedup 1"):
            speed_sentences(timings(speed_row("once", 3.0)))


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

    @pytest.mark.medium
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
        assert "Energy" not in (tmp_path / "report.md").read_text().split("## What the columns mean")[0]

    def test_a_single_test(self, tmp_path):
        """A curve of one point is none."""
        write_report(tmp_path, runs(row(accuracy_by_epoch='{"3": 60.0}')))
        assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.html"}


class TestMarkdown:
    INDEX = {
        "pages": {
            "README.md": ["small", "forms", "speed lif"],
            "docs/PAGE.md": ["digits", "dynamics", "robustness", "speed", "ledger"],
        },
        "blocks": {
            "small": {"runs": "rows/small/results.csv", "tables": ["Accuracy", "Energy of one image"]},
            "forms": {"runs": "rows/forms/results.csv", "tables": ["Accuracy"]},
            "digits": {"runs": "rows/digits/results.csv", "tables": ["Accuracy", "Energy of one image"]},
            "dynamics": {"runs": ["rows/small/results.csv", "rows/digits/results.csv"], "tables": ["Dynamics"]},
            "robustness": {"robustness": "rows/robustness.csv"},
            "speed": {"speed": "rows/speed.csv"},
            "speed lif": {"speed": "rows/speed.csv", "benchmark": "lif"},
            "ledger": {"ledger": "rows/small", "configs": "configs"},
        },
        "pairs": [["gac", "direct"], ["gac", "direct_lif"], ["gac", "direct_matched"]],
        "commands": {
            "rows/small/results.csv": ["python benchmarks/run_cifar.py small", "python benchmarks/run_cifar.py more"],
            "rows/forms/results.csv": ["python benchmarks/run_cifar.py forms"],
            "rows/digits/results.csv": ["python benchmarks/run_cifar.py digits"],
            "rows/robustness.csv": ["python benchmarks/robustness.py"],
            "rows/speed.csv": ["python benchmarks/speed.py"],
        },
    }

    @pytest.fixture
    def place(self, tmp_path):
        """A repository with rows, and two pages with blocks."""
        gac, direct = [60.0, 61.0, 62.0], [62.0, 62.5, 64.0]
        rows = seeds("gac", gac, analysed=2) + seeds("direct", direct) + seeds("direct_lif", [50.0, 52.0, 51.0])
        write(tmp_path / "rows/small/results.csv", rows + seeds("direct_matched", [1.0, 2.0]))
        write(tmp_path / "rows/digits/results.csv", seeds("gac", [90, 91, 92, 93, 94], analysed=3))
        (tmp_path / "rows/forms").mkdir()
        (tmp_path / "rows/forms/results.csv").write_bytes(FORMS.read_bytes())
        write(tmp_path / "rows/robustness.csv", TestRobustness.ROWS)
        write(tmp_path / "rows/speed.csv", [*TestSpeed.ROWS, speed_row("naive", 1.0, benchmark="lif")])
        (tmp_path / "configs").mkdir()
        (tmp_path / "configs/one.yaml").write_text("model: ms_resnet18_cifar\n")
        (tmp_path / "docs").mkdir()
        for page, names in self.INDEX["pages"].items():
            blocks = [f"## {name}\n\n<!-- rows: {name} -->\nold 1.23\n<!-- rows: end -->\n\nafter" for name in names]
            (tmp_path / page).write_text("\n\n".join(["# Title", *blocks]) + "\n", encoding="utf-8")
        self.change(tmp_path)
        return tmp_path

    def change(self, place, **entries):
        (place / "results.yaml").write_text(yaml.safe_dump(self.INDEX | entries))

    @staticmethod
    def run(place, *arguments):
        return report.main(["--markdown", "--index", str(place / "results.yaml"), *arguments])

    @staticmethod
    def refused(capsys, place, *words):
        for more in ([], ["--check"]):
            arguments = ["--markdown", "--index", place / "results.yaml", *more]
            refused(capsys, report.main, arguments, *words, folder=place)

    def block(self, place, name):
        text = "".join((place / page).read_text(encoding="utf-8") for page in self.INDEX["pages"])
        return re.search(rf"<!-- rows: {name} -->\n(.*?)\n<!-- rows: end -->", text, re.DOTALL)[1]

    def test_only_blocks_change(self, place):
        before = {page: (place / page).read_text() for page in self.INDEX["pages"]}
        assert self.run(place) == 0
        inside = re.compile(r"(<!-- rows: (?!end).*? -->).*?(<!-- rows: end -->)", re.DOTALL)
        for page, text in before.items():
            after = (place / page).read_text(encoding="utf-8")
            assert "old 1.23" not in after and inside.sub(r"\1\2", after) == inside.sub(r"\1\2", text)
        written = contents(place)
        assert self.run(place) == 0 == self.run(place, "--check")
        assert contents(place) == written

    @pytest.mark.parametrize(
        ("page", "number"), [("README.md", "61.00 ± 1.00"), ("docs/PAGE.md", "92.00 ± 1.58"), ("docs/PAGE.md", "| 2 |")]
    )
    def test_check_names_the_page_of_a_changed_number(self, place, capsys, page, number):
        self.run(place)
        path = place / page
        text = path.read_text(encoding="utf-8")
        assert number in text
        path.write_text(text.replace(number, number.replace("1", "7").replace("2", "8"), 1), encoding="utf-8")
        capsys.readouterr()
        before = contents(place)
        assert self.run(place, "--check") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and page in error and "--markdown" in error
        assert contents(place) == before

    def test_check_finds_a_changed_row(self, place, capsys):
        self.run(place)
        write(place / "rows/digits/results.csv", seeds("gac", [90, 91, 92, 93, 95], analysed=3))
        assert self.run(place, "--check") == 1
        assert "docs/PAGE.md" in capsys.readouterr().err

    def test_every_block_says_what_it_rests_on(self, place):
        self.run(place)
        for page, names in self.INDEX["pages"].items():
            for name in names:
                commit, device = ("239c2429c7db", "AMD EPYC") if name == "forms" else ("abc123", "an abacus")
                text = self.block(place, name)
                assert commit in text and device in text, name
                links = re.findall(r"\]\((.*?)\)", text)
                assert links and all(((place / page).parent / link).exists() for link in links), name

    def test_results(self, place):
        self.run(place)
        text = self.block(place, "small")
        assert "| gac | 3 | 61.00 ± 1.00 | 61.00 ± 1.00 |" in text
        assert "| gac | 3 | 2.00 ± 0.00 | 8.00 ± 0.00 |" in text and "| direct | 3 | - | - |" in text
        assert text.endswith("Made by `python benchmarks/run_cifar.py small`, `python benchmarks/run_cifar.py more`.\n")
        assert "| gac | 5 | 92.00 ± 1.58 |" in self.block(place, "digits")
        assert "| gac:reference | 3 | 54.20 ± 2.20 |" in self.block(place, "forms")
        dynamics = self.block(place, "dynamics")
        assert "| gac | 3 | 2.00 ± 0.00 |" in dynamics and "| gac | 5 | 3.00 ± 0.00 |" in dynamics
        assert "55.00 ± 7.07" in self.block(place, "robustness")
        assert "speed.py lif" in self.block(place, "speed lif") and "loaders" not in self.block(place, "speed lif")
        assert "loaders" in self.block(place, "speed")
        assert "| [one.yaml](../configs/one.yaml) | not run |" in self.block(place, "ledger")

    def test_differences_by_hand(self, place):
        self.run(place)
        text = self.block(place, "small")

        def expected(differences):
            # Student's t with 2 degrees of freedom is 4.302653 at 0.975
            mean, half = statistics.mean(differences), 4.302653 * statistics.stdev(differences) / 3**0.5
            return f"{mean:+.2f} points, [{mean - half:+.2f}, {mean + half:+.2f}], 3 seeds."

        assert f"`gac` - `direct`: {expected([-2, -1.5, -2])} The interval excludes 0: `gac` is below `direct`." in text
        above = "`gac` is above `direct_lif`."
        assert f"`gac` - `direct_lif`: {expected([10, 9, 11])} The interval excludes 0: {above}" in text
        assert "direct_matched`:" not in text  # two common seeds do not make an interval

    def test_an_interval_with_0(self, place):
        write(place / "rows/small/results.csv", seeds("gac", [60, 61, 62]) + seeds("direct", [61, 61, 61]))
        self.run(place)
        assert "no significant difference at the 95 % level (3 seeds)" in self.block(place, "small")

    def test_only_the_pairs_of_the_index_are_compared(self, place):
        self.change(place, pairs=[["direct", "direct_lif"]])
        self.run(place)
        assert re.findall(r"^- (`.*?` - `.*?`):", self.block(place, "small"), re.MULTILINE) == [
            "`direct` - `direct_lif`"
        ]

    def test_settings_are_not_mixed(self, place):
        write(place / "rows/digits/results.csv", [row(T=2, last=80), row(T=4, last=90)])
        self.run(place)
        text = self.block(place, "digits")
        assert text.index("With T=2:") < text.index("80.00") < text.index("With T=4:") < text.index("90.00")

    def test_rows_that_were_not_analysed(self, place):
        write(place / "rows/digits/results.csv", [row()])
        self.run(place)
        assert "were not analysed" in self.block(place, "dynamics") and "µJ" not in self.block(place, "digits")

    @pytest.mark.parametrize("path", INDEX["commands"])
    def test_missing_rows_name_their_commands(self, path, place, capsys):
        (place / path).unlink()
        self.refused(capsys, place, path, *self.INDEX["commands"][path])

    def test_damaged_rows(self, place, capsys):
        path = place / "rows/speed.csv"
        for content, word in (("benchmark,variant\nencoder,once\n", "columns"), (path.read_text()[:-30], "damaged")):
            path.write_text(content)
            self.refused(capsys, place, "speed.csv", word)

    def test_a_benchmark_that_was_not_measured(self, place, capsys):
        write(place / "rows/speed.csv", TestSpeed.ROWS)
        self.refused(capsys, place, "no rows of lif", "python benchmarks/speed.py lif")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("no block\n", ["'digits'", "<!-- rows: NAME -->"]),
            ("<!-- rows: digits -->\n", ["<!-- rows: end -->"]),
            ("<!-- rows: end -->\n<!-- rows: digits -->\n", ["has <!-- rows: end -->", "<!-- rows: NAME -->"]),
            ("<!-- rows: digits -->\n<!-- rows: speed -->\n<!-- rows: end -->\n", ["has <!-- rows: speed -->"]),
            ("<!-- rows: tempo -->\n<!-- rows: end -->\n", ["'tempo'", "choose one of", "speed"]),
            ("<!-- rows: small -->\n<!-- rows: end -->\n", ["'small'", "results.yaml does not list"]),
            (None, ["restore it"]),
        ],
    )
    def test_markers(self, text, words, place, capsys):
        """Of the second page; the first one is not changed either."""
        path = place / "docs/PAGE.md"
        path.unlink()
        if text is not None:
            path.write_text(text)
        self.refused(capsys, place, "docs/PAGE.md", *words)

    @pytest.mark.parametrize(
        ("entries", "words"),
        [
            ({"mood": "calm"}, ["pages", "nothing else"]),
            ({"blocks": []}, ["blocks", "mapping"]),
            ({"blocks": INDEX["blocks"] | {"small": "x"}}, ["'small'", "runs, robustness, speed, ledger"]),
            (
                {"blocks": INDEX["blocks"] | {"small": {"runs": "rows/small/results.csv"}}},
                ["'small'", "tables of runs"],
            ),
            ({"commands": {}}, ["no commands", "results.csv"]),
            ({"pages": {"README.md": ["smal"]}}, ["'smal'", "README.md", "did you mean 'small'?"]),
            ({"blocks": INDEX["blocks"] | {"small": {"rows": "x"}}}, ["'small'", "runs, robustness, speed, ledger"]),
            ({"blocks": INDEX["blocks"] | {"small": {"runs": "x", "speed": "y"}}}, ["'small'", "'speed': 'y'"]),
            ({"blocks": INDEX["blocks"] | {"small": {"runs": "x", "benchmark": "y"}}}, ["'small'", "benchmark"]),
        ],
    )
    def test_a_wrong_index(self, entries, words, place, capsys):
        self.change(place, **entries)
        self.refused(capsys, place, "results.yaml", *words)

    def test_an_unknown_table(self, place, capsys):
        about = self.INDEX["blocks"]["small"] | {"tables": ["Acuracy"]}
        self.change(place, blocks=self.INDEX["blocks"] | {"small": about})
        self.refused(capsys, place, "results.yaml", "'Acuracy'", "did you mean 'Accuracy'?")

    @pytest.mark.parametrize("content", [None, "- a\n", "a: [\n"])
    def test_no_index(self, content, place, capsys):
        (place / "results.yaml").unlink()
        if content is not None:
            (place / "results.yaml").write_text(content)
        self.refused(capsys, place, "results.yaml")

    def test_markers_inside_a_line_are_text(self, place):
        path = place / "README.md"
        path.write_text("Between `<!-- rows: NAME -->` and its end.\n\n" + path.read_text(encoding="utf-8"))
        assert self.run(place) == 0
        assert path.read_text(encoding="utf-8").startswith("Between `<!-- rows: NAME -->` and its end.\n")

    def test_the_index_of_the_repository_is_complete(self):
        """Every file of rows in git, but for reruns, fills a block, and its commands are known."""
        index = read_index(REPOSITORY / "results.yaml")
        used = {path for block in index.blocks.values() for path in block.paths}
        assert all((REPOSITORY / path).exists() for path in used)
        assert {path for path in used if path.endswith(".csv")} == set(index.commands)
        assert {name for names in index.pages.values() for name in names} == set(index.blocks)
