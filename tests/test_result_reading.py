"""Reading rows: files and folders, checked columns and values, and what cannot be read."""

from pathlib import Path

import pytest
import report
from helpers.programs import refused
from helpers.rows import cells, robustness_row, row, runs, seeds, speed_row, write

from gac_sj.results import group, load
from gac_sj.results.robustness import ROBUSTNESS
from gac_sj.results.run_tables import run_tables
from gac_sj.results.schema import ANALYSED_COLUMNS, KEY_COLUMNS, MEASURED_COLUMNS, RUNS, VOLATILE_COLUMNS
from gac_sj.results.speed import SPEED

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).resolve().parent.parent
FORMS = REPOSITORY / "experiments/encoder_forms/results.csv"
CHECKED_IN = sorted(
    path.relative_to(REPOSITORY)
    for folder in ("benchmarks/results", "experiments/results", "experiments/encoder_forms", "experiments/reruns")
    for path in (REPOSITORY / folder).rglob("*.csv")
)


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
            "train_seconds", "images_per_second", "inference_images_per_second", "inference_int8_images_per_second",
            "encoder_images_per_second", "date",
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
            (b"\x89PNG\xff", ["is not UTF-8"]),
            ("unknown", ["unknown columns: mood", "rename"]),
            ("cut", ["is damaged"]),
            ("empty", ["has no rows"]),
            ("word", ["'good'", "accuracy_last"]),
            ("none", ["''", "accuracy_last"]),
            ("inf", ["'inf'", "accuracy_last", "finite"]),
            ("digits", ["'9999", "parameters", "an integer"]),
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
        elif content in ("word", "none", "inf"):
            write(path, [row(accuracy_last={"word": "good", "none": "", "inf": "inf"}[content])])
        elif content == "digits":
            write(path, [row(parameters="9" * 400)])
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

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("accuracy_by_epoch", '{"1": "high"}'),
            ("accuracy_by_epoch", "[50.0]"),
            ("accuracy_by_epoch", '{"first": 50.0}'),
            ("accuracy_by_epoch", "[" * 3000),
            ("accuracy_by_steps", '{"1": 50.0}'),
            ("accuracy_by_steps", "[true]"),
            ("firing_rates", '{"lif": [0.1]}'),
            ("energy_by_layer", '{"lif": [1]}'),
            ("energy_by_layer", '{"lif": 1}'),
            ("non_spiking_layers", "[3]"),
            ("firing_rates_by_step", '{"lif": 0.1}'),
            ("information_by_step", "[[1.0]]"),
            ("model_options", '["gain"]'),
        ],
    )
    def test_json_of_another_kind(self, name, text, tmp_path, capsys):
        write(tmp_path / "results.csv", [row(analysed=2) | {name: text}])
        refused(capsys, report.main, [tmp_path], "results.csv", name)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("accuracy_by_epoch", '{"2": 50.0, "4": 50.0}'),
            ("firing_rates_by_step", '{"lif": [0.1]}'),
            ("firing_rates_by_step", '{"head": [0.1, 0.2]}'),
            ("information_by_step", "[1.0]"),
        ],
    )
    def test_lists_that_differ_between_seeds(self, name, text, tmp_path, capsys):
        write(tmp_path / "results.csv", [row(analysed=2), row(seed=1, analysed=2) | {name: text}])
        refused(capsys, report.main, [tmp_path], name, "make them again")

    def test_two_results_of_one_seed(self, tmp_path, capsys):
        for name, last in (("a", 60), ("b", 61)):
            write(tmp_path / name / "results.csv", [row(last=last)])
        refused(capsys, report.main, [tmp_path], "a/results.csv", "b/results.csv", "seed 0", "keep one")

    @pytest.mark.parametrize("path", CHECKED_IN, ids=str)
    def test_checked_in_rows_can_be_read(self, path):
        found = load(REPOSITORY / path)
        assert found.runs or found.robustness or found.speed
