"""Markdown pages follow their rows: benchmarks/report.py --markdown."""

import os
import re
import statistics
from pathlib import Path

import pytest
import report
import yaml
from helpers.files import contents
from helpers.programs import refused
from helpers.rows import ROBUSTNESS_ROWS, SPEED_ROWS, row, seeds, speed_row, write

from gac_sj.results.index import read_index

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).resolve().parent.parent
FORMS = REPOSITORY / "experiments/encoder_forms/results.csv"


class TestMarkdown:
    INDEX = {
        "pages": {
            "README.md": ["small", "forms", "speed lif"],
            "docs/PAGE.md": [
                "digits",
                "dynamics",
                "robustness",
                "speed loaders",
                "ledger",
                "paired",
                "excerpt",
                "hard",
                "speedups",
                "published",
            ],
        },
        "prose": ["*.md", "docs/*.md"],
        "blocks": {
            "small": {"runs": "rows/small/results.csv", "tables": ["Accuracy", "Energy of one image"]},
            "forms": {"runs": "rows/forms/results.csv", "tables": ["Accuracy"]},
            "digits": {"runs": "rows/digits/results.csv", "tables": ["Accuracy", "Energy of one image"]},
            "dynamics": {"runs": ["rows/small/results.csv", "rows/digits/results.csv"], "tables": ["Dynamics"]},
            "robustness": {"robustness": "rows/robustness.csv"},
            "speed loaders": {"speed": "rows/speed.csv", "benchmark": "loaders"},
            "speed lif": {"speed": "rows/speed.csv", "benchmark": "lif"},
            "ledger": {"ledger": "rows/small", "configs": "configs"},
            "paired": {"paired": "rows/long.csv", "against": ["rows/small/results.csv"], "over": ["epochs"]},
            "excerpt": {
                "excerpt": "rows/small/results.csv",
                "encoders": ["direct", "gac"],
                "columns": ["last epoch", "complete"],
            },
            "hard": {"excerpt": "rows/robustness.csv", "encoders": ["gac"], "columns": ["blur"]},
            "speedups": {
                "speedups": "rows/speed.csv",
                "lines": {"a neuron": {"benchmark": "lif", "mode": "forward", "variant": "ours", "T": 6}},
            },
            "published": {"published": "rows/small", "configs": "configs"},
        },
        "pairs": [["gac", "direct"], ["gac", "direct_lif"], ["gac", "direct_matched"]],
        "published": {"one": [96.2, "a paper"]},
        "stated": {"12.5 %": "an agreement"},
        "commands": {
            "rows/long.csv": ["python benchmarks/run_cifar.py long"],
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
        write(tmp_path / "rows/long.csv", seeds("gac", [61, 63, 65], epochs=9) + seeds("latency", [1, 2, 3], epochs=9))
        write(tmp_path / "rows/robustness.csv", ROBUSTNESS_ROWS)
        timed = [
            speed_row(variant, speedup, benchmark="lif", date=date)
            for date, ours in (("2026-01-02", 3.0), ("2026-01-01", 9.0))
            for variant, speedup in (("ours", ours), ("spikingjelly", 2.0), ("naive", 1.0))
        ]
        write(tmp_path / "rows/speed.csv", [*SPEED_ROWS, *timed])
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
        for name, about in self.INDEX["blocks"].items():
            text = self.block(place, name)
            if name not in ("paired", "excerpt", "hard", "published"):
                commit, device = ("239c2429c7db", "AMD EPYC") if name == "forms" else ("abc123", "an abacus")
                assert commit in text and (device in text or "slide rule" in text), name
            found = next(iter(about.values()))
            paths = [found] if isinstance(found, str) else found
            assert name == "published" or all(path in text for path in paths), name
            assert "](" not in text, "a link out of the documentation does not work where it is built"

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
        assert "**lif: " in self.block(place, "speed lif") and "loaders" not in self.block(place, "speed lif")
        assert "| pass | variant | median [20 %, 80 %] (ms) | times as fast as timm |" in self.block(
            place, "speed loaders"
        )
        assert "| `configs/one.yaml` | not run |" in self.block(place, "ledger")

    def test_paired_runs(self, place):
        self.run(place)
        text = self.block(place, "paired")
        half = 4.302653 / 3**0.5  # differences of 1, 2 and 3
        assert f"| `gac` | 3 | +2.00 | [{2 - half:+.2f}, {2 + half:+.2f}] |" in text and "latency" not in text
        assert "compare.py rows/long.csv:ENCODER rows/small/results.csv:ENCODER --over epochs" in text

    def test_excerpts(self, place):
        self.run(place)
        text = self.block(place, "excerpt")
        assert "| encoder | n | last epoch (%) | complete (µJ) |" in text
        assert text.index("| direct | 3 | 62.83 ± 1.04 | - |") < text.index("| gac | 3 | 61.00 ± 1.00 | 8.00 ± 0.00 |")
        assert "`gac` - `direct`:" in text and "corrected for 2 comparisons" in text and "direct_lif" not in text
        assert "| gac | 2 | 55.00 ± 7.07 |" in self.block(place, "hard")

    def test_speedups_are_those_of_the_newest_timing(self, place, capsys):
        self.run(place)
        line = "| a neuron | forward: T = 6, 32 elements, 30 timings | an abacus | 1.50 |"
        assert line in self.block(place, "speedups")
        line = {"lines": {"a neuron": {"benchmark": "lif", "T": 5}}}
        self.change(place, blocks=self.INDEX["blocks"] | {"speedups": {"speedups": "rows/speed.csv"} | line})
        self.refused(capsys, place, "T 5", "'a neuron'")

    def test_published_figures(self, place):
        (place / "configs/two.yaml").write_text("model: ms_resnet8_cifar\n")
        self.run(place)
        text = self.block(place, "published")
        assert "| `one` | 96.20 | a paper | not run | 0 |" in text and "| `two` | - | - | not run | 0 |" in text

    def test_differences_by_hand(self, place):
        self.run(place)
        text = self.block(place, "small")

        def expected(differences):
            # Student's t with 2 degrees of freedom: 4.302653 at 0.975, and p = 1 - t / sqrt(t^2 + 2)
            mean, deviation = statistics.mean(differences), statistics.stdev(differences)
            half, t = 4.302653 * deviation / 3**0.5, abs(mean) / deviation * 3**0.5
            ends = f"[{mean - half:+.2f}, {mean + half:+.2f}]"
            return f"{mean:+.2f} points, {ends}, 3 seeds", 1 - t / (t * t + 2) ** 0.5

        first, p_first = expected([-2, -1.5, -2])
        second, p_second = expected([10, 9, 11])
        assert p_second < p_first
        assert f"`gac` - `direct`: {first}, p = {p_first:.3f}: `gac` is below `direct`." in text
        assert f"`gac` - `direct_lif`: {second}, p = {2 * p_second:.3f}: `gac` is above `direct_lif`." in text
        assert "corrected for 2 comparisons (Holm)" in text
        assert "direct_matched`:" not in text  # two common seeds do not make an interval

    def test_an_interval_with_0(self, place):
        write(place / "rows/small/results.csv", seeds("gac", [60, 61, 62]) + seeds("direct", [61, 61, 61]))
        self.run(place)
        text = self.block(place, "small")
        assert "p = 1.000: no significant difference." in text and "Holm" not in text

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
        write(place / "rows/speed.csv", SPEED_ROWS)
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
            ({"published": {"on": [96.2, "a paper"]}}, ["'on'", "config", "did you mean 'one'?"]),
            ({"blocks": []}, ["blocks", "mapping"]),
            (
                {"blocks": INDEX["blocks"] | {"small": "x"}},
                ["'small'", "runs, excerpt, robustness, speed, speedups, paired, ledger"],
            ),
            (
                {"blocks": INDEX["blocks"] | {"small": {"runs": "rows/small/results.csv"}}},
                ["'small'", "tables of runs"],
            ),
            ({"commands": {}}, ["no commands", "results.csv"]),
            ({"pages": {"README.md": ["smal"]}}, ["'smal'", "README.md", "did you mean 'small'?"]),
            (
                {"blocks": INDEX["blocks"] | {"small": {"rows": "x"}}},
                ["'small'", "runs, excerpt, robustness, speed, speedups, paired, ledger"],
            ),
            ({"blocks": INDEX["blocks"] | {"small": {"runs": "x", "speed": "y"}}}, ["'small'", "'speed': 'y'"]),
            ({"blocks": INDEX["blocks"] | {"small": {"runs": "x", "benchmark": "y"}}}, ["'small'", "benchmark"]),
            (
                {"blocks": INDEX["blocks"] | {"hard": INDEX["blocks"]["hard"] | {"columns": ["blurr"]}}},
                ["'blurr'", "did you mean 'blur'?"],
            ),
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

    def test_a_pipe_in_the_place_of_a_page(self, place, capsys):
        (place / "docs/PAGE.md").unlink()
        os.mkfifo(place / "docs/PAGE.md")
        self.refused(capsys, place, "docs/PAGE.md", "Not a regular file")

    def test_pages_may_have_line_ends_of_windows(self, place):
        path = place / "README.md"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert self.run(place) == 0
        assert "old 1.23" not in path.read_text(encoding="utf-8")

    def test_markers_inside_a_line_are_text(self, place):
        path = place / "README.md"
        path.write_text("Between `<!-- rows: NAME -->` and its end.\n\n" + path.read_text(encoding="utf-8"))
        assert self.run(place) == 0
        assert path.read_text(encoding="utf-8").startswith("Between `<!-- rows: NAME -->` and its end.\n")

    @pytest.mark.parametrize(
        "text",
        [
            "95 % of 61.00 % and 12.5 %, `7.7 %`, $8.8 %$, Python 3.11, arXiv 2308.06582, 30 timings",
            "| last epoch (%) | T |\n|---|---|\n| 61.00 ± 1.00 | 77 |",
            "```\n99.99 %\n```",
            "`benchmarks/report.py`, [rows](../rows/speed.csv), [a paper](https://arxiv.org/abs/2308.06582)",
        ],
    )
    def test_text_that_names_what_exists(self, text, place):
        (place / "benchmarks").mkdir()
        (place / "benchmarks/report.py").touch()
        (place / "docs/more.md").write_text(f"{text}\n", encoding="utf-8")
        self.run(place)
        assert self.run(place, "--check") == 0

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("Better by 61.01 %.", "61.01 %"),
            ("Better by 61 %.", "61 %"),  # a rounded number is not that of the block
            ("1.5 points", "1.5 points"),
            ("uses 3.21 µJ", "3.21 µJ"),
            ("7.7 times as fast", "7.7 times"),
            ("61.00 times as fast", "61.00 times"),  # the number is one of percent
            ("1,234 images/s", "1,234 images/s"),
            ("reaches 0.123 ± 1.00", "0.123"),
            ("accuracies of 71.23 and 61.00", "71.23"),
            ("| accuracy (%) |\n|---|\n| 12 |", "12 %"),
            ("see `gac_sj/nowhere.py`", "gac_sj/nowhere.py"),
        ],
    )
    def test_text_that_names_what_does_not_exist(self, text, named, place, capsys):
        (place / "docs/more.md").write_text(f"{text}\n", encoding="utf-8")
        self.run(place)
        capsys.readouterr()
        assert self.run(place, "--check") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "docs/more.md" in error and f" {named}," in error

    def test_a_link_of_a_readme_to_nothing(self, place, capsys):
        self.run(place)
        with open(place / "README.md", "a", encoding="utf-8") as file:
            file.write("[nothing](docs/nothing.md#there)\n")
        assert self.run(place, "--check") == 1
        assert "README.md names docs/nothing.md" in capsys.readouterr().err

    def test_the_index_of_the_repository_is_complete(self):
        """Every file of rows in git, but for reruns, fills a block, and its commands are known."""
        index = read_index(REPOSITORY / "results.yaml")
        used = {path for block in index.blocks.values() for path in block.paths}
        assert all((REPOSITORY / path).exists() for path in used)
        assert {path for path in used if path.endswith((".csv", "weights"))} == set(index.commands)
        assert {name for names in index.pages.values() for name in names} == set(index.blocks)
        speed = [block for block in index.blocks.values() if block.kind == "speed"]
        timed = {timing.settings["benchmark"] for path in speed[0].paths for timing in index.load(path).speed}
        assert {block.options["benchmark"] for block in speed} == timed
