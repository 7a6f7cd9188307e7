"""Tables of runs, robustness tests and timings say what the rows say, by groups that differ in nothing else."""

from pathlib import Path

import pytest
from helpers.rows import (
    ROBUSTNESS_ROWS,
    SPEED_ROWS,
    cells,
    robustness_row,
    robustness_tests,
    row,
    runs,
    seeds,
    speed_row,
    tables,
    timings,
)

from gac_sj.results import Run, group
from gac_sj.results.robustness import robustness_sets, robustness_tables
from gac_sj.results.run_tables import run_tables
from gac_sj.results.schema import KEY_COLUMNS, VOLATILE_COLUMNS
from gac_sj.results.speed import speed_tables
from gac_sj.results.table import Mean

pytestmark = pytest.mark.one_release

OVER_ENCODERS = ("encoder", "seed")


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
            assert "train.py --analyse" in table.note
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
            ({"energy_paper_pj": "much"}, ["'much'", "energy_paper_pj", "a finite number"]),
            ({"readout_by_step": "x"}, ["'x'", "readout_by_step", "a JSON list"]),
            ({"accuracy_by_epoch": "[]"}, ["accuracy_by_epoch", "a JSON object"]),
            ({"encoder": None}, ["'None'", "encoder", "a name"]),
            ({"parameters": "1.5"}, ["'1.5'", "parameters", "an integer"]),
            ({"accuracy_last": ""}, ["''", "accuracy_last", "a finite number"]),
        ],
    )
    def test_a_damaged_value_is_named(self, changes, words):
        with pytest.raises(ValueError, match=r"mine\.csv") as error:
            Run.from_row(row(analysed=1) | {name: str(text) for name, text in changes.items()}, Path("mine.csv"))
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


class TestRobustness:
    def test_means_by_hand(self):
        corrupted, attacked = robustness_tables(robustness_tests(*ROBUSTNESS_ROWS))
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
        corrupted, _ = robustness_tables(robustness_tests(*ROBUSTNESS_ROWS[1:]))  # gac, seed 0 has blur 5 alone
        assert (
            cells(corrupted, "gac")["blur"] == "50.00 (n = 1)" and cells(corrupted, "direct")["blur"] == "50.00 ± 7.07"
        )

    def test_settings_are_never_mixed(self):
        other = [
            robustness_row("gac", 0, "clean", 0, 40, settings="s2", weights="w"),
            robustness_row("gac", 0, "clean", 0, 45, images=9),
        ]
        sets = robustness_sets(robustness_tests(*ROBUSTNESS_ROWS, *other))
        assert list(map(len, sets.values())) == [len(ROBUSTNESS_ROWS), 1, 1]
        assert list(sets) == ["settings=s1, images=50", "settings=s2, images=50", "settings=s1, images=9"]

    def test_two_accuracies_of_one_test(self):
        first, second = (robustness_row("gac", 0, "clean", 0, accuracy) for accuracy in (80, 81))
        with pytest.raises(ValueError, match=r"two accuracies of gac, seed 0, clean 0; keep one"):
            robustness_sets(robustness_tests(first, second))
        assert len(robustness_sets(robustness_tests(first, first))[""]) == 1


class TestSpeed:
    def test_tables(self):
        encoder, loaders = speed_tables(timings(*SPEED_ROWS))
        assert len(encoder.lines) + len(loaders.lines) == len(SPEED_ROWS)
        assert encoder.title == "encoder: T = 6, batch 4, 32x32 pixels, 30 timings" and "T =" not in loaders.title
        assert encoder.note.startswith("Timed in turns on an abacus, commit abc123.") and "slide rule" in loaders.note
        assert [cell.text for cell in encoder.lines[0]] == ["forward", "once", "10.00 [1.00, 40.00]", "3.00"]
        assert encoder.head[3].startswith("times as fast as repeated")
        assert loaders.head[3].startswith("times as fast as timm")
        assert all(("†" in name) == (name.split()[0] in ("times", "median")) for name in encoder.head)

    def test_ratios_to_spikingjelly_are_of_the_same_form(self):
        speedups = {"naive": 1, "spikingjelly": 2, "spikingjelly+bfloat16": 4, "ours": 6, "bfloat16": 10, "int8": 20}
        (table,) = speed_tables(timings(*(speed_row(name, speedup) for name, speedup in speedups.items())))
        assert [line[-1].text for line in table.lines] == ["-", "-", "-", "3.00", "2.50", "10.00"]

    def test_nothing_to_compare_with(self):
        with pytest.raises(ValueError, match="no variant of encoder, forward, with speedup 1"):
            speed_tables(timings(speed_row("once", 3.0)))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), None])
def test_a_number_that_is_not_finite_counts_as_not_measured(number):
    energies = iter([number, 3.5, 4.5])
    assert Mean("energy", lambda run: next(energies)).cell([None] * 3).text == "4.00 ± 0.71 (n = 2)"
