"""Whatever text rows hold, programs show it as text: in file names, figures, pages, tables and on the terminal."""

import json
import re
import resource
from xml.dom import minidom

import compare
import figures as figures_command
import ledger
import pytest
import report
import robustness
import run_cifar
from helpers.files import contents
from helpers.programs import refused
from helpers.rows import robustness_row, row, runs, seeds, write

from gac_sj._utils.plotting import set_heading
from gac_sj.results import group
from gac_sj.results.figures import accuracy_against_severity, firing_rates_by_step, learning_curves
from gac_sj.results.report import write_report
from gac_sj.results.robustness import RobustnessTest

pytestmark = pytest.mark.one_release

FORMULA = r"$\frac{1}{$"
TEXTS = {
    "everything": f"x/../../../escaped\na\0b\x1b[31m{FORMULA}</svg></title><script>alert(1)</script>a|b\\|c,=1+1\"'",
    "parent": "..",
    "absolute": "/escaped",
    "long": "x" * 20_000,
    "wide": "\N{BRAIN}" * 100,
    "hidden": "_x",
    "empty": "",
}


def with_text(text, **more):
    """Rows of runs with two data sets, one of which is the text, so that figures are named after it."""
    return [*seeds("gac", [60, 62], **more), *(each | {"dataset": text} for each in seeds("gac", [50, 51]))]


@pytest.mark.medium
@pytest.mark.parametrize("name", TEXTS)
def test_programs_stay_in_their_folder_and_show_it(name, tmp_path, capsys):
    text = TEXTS[name]
    path = write(tmp_path / "in/a/b/results.csv", with_text(text, device=text))
    before = contents(tmp_path)
    out = tmp_path / "in/out"
    assert figures_command.main(["rows", str(path), "--output", str(out)]) == 0
    assert report.main([str(path), "--output", str(out / "page.html")]) == 0
    assert ledger.main(["--runs", str(path)]) == 0
    files = contents(tmp_path)
    added = {place for place in files if place not in before}
    assert {place.parent for place in added} == {out.relative_to(tmp_path)}
    assert sum(place.name.startswith("learning_curves-dataset=") for place in added) == 4
    for place in added:
        if place.suffix == ".svg":
            minidom.parse(str(tmp_path / place))
    assert "<script>alert" not in (out / "page.html").read_text(encoding="utf-8")
    lines = capsys.readouterr().out.partition("## Runs")[2].splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table[:4]} == {15}, "two runs, fourteen columns"


def drawn(figure):
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))}


def test_names_in_figures_are_not_formulas():
    named = {FORMULA: runs(row(analysed=2, firing_rates_by_step=json.dumps({FORMULA: [0.5]})))}
    assert f"{FORMULA} (n = 1)" in drawn(learning_curves(named)), "a legend"
    assert drawn(firing_rates_by_step(named)) >= {FORMULA}, "a title and a tick"
    tests = [RobustnessTest.from_row(robustness_row("gac", 0, name, 0, 80)) for name in ("clean", FORMULA)]
    assert FORMULA in drawn(accuracy_against_severity(tests))
    set_heading(figure := learning_curves(named), FORMULA)
    assert FORMULA in drawn(figure)


def test_names_in_figures_are_short_lines_of_characters_that_can_be_drawn():
    for name, expected in (
        ("_x", " _x (n = 1)"), ("a\0\n\tb\udcff", "a\N{REPLACEMENT CHARACTER} b\N{REPLACEMENT CHARACTER} (n = 1)"),
    ):  # fmt: skip
        assert expected in drawn(learning_curves({name: runs(row())}))
    assert max(map(len, drawn(learning_curves({"x" * 9999: runs(row())})))) < 200


@pytest.mark.medium
def test_the_report_in_markdown_has_text_only(tmp_path):
    hostile = [each | {"device": "<b>\n# a|b\\", "dataset": "<i>\n# d"} for each in seeds("gac", [60, 61])]
    write_report(tmp_path, runs(*hostile))
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Encoders on &lt;i> # d\n")
    assert "<b>" not in text
    assert "<i>" not in text
    assert "- device: &lt;b> # a\\|b\\\\\n" in text


@pytest.mark.medium
def test_text_that_utf8_lacks_is_escaped_everywhere(tmp_path, capsys):
    folder = tmp_path / "results_\udcff"
    path = write(folder / "results.csv", seeds("gac", [60, 61, 62]) + seeds("direct", [50, 52, 51]))
    assert report.main([str(folder)]) == 0
    assert r"results_\udcff" in (folder / "report.html").read_text(encoding="utf-8")
    assert figures_command.main(["rows", str(path), "--output", str(folder)]) == 0
    assert ledger.main(["--runs", str(folder)]) == 0
    assert compare.main([f"{path}:gac", f"{path}:direct"]) == 0
    out = capsys.readouterr().out
    assert out.count(r"results_\udcff") >= 5
    path.write_text("")
    assert report.main([str(folder)]) == 2
    assert r"results_\udcff" in capsys.readouterr().err


@pytest.mark.medium
def test_links_in_the_place_of_outputs_are_refused(tmp_path, capsys):
    valuable = tmp_path / "valuable"
    valuable.write_text("valuable")
    path = write(tmp_path / "in/results.csv", seeds("gac", [60, 61]))
    (tmp_path / "in/report.html").symlink_to(valuable)
    refused(capsys, report.main, [path.parent], "report.html", "symbolic link", folder=tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "learning_curves.png").symlink_to(valuable)
    refused(
        capsys, figures_command.main, ["rows", path, "--output", out], "learning_curves.png", "link", folder=tmp_path
    )
    (out / "results.csv").symlink_to(valuable)
    arguments = ["--dataset", "digits", "--output", out]
    refused(capsys, run_cifar.main, arguments, "results.csv", "symbolic link", folder=tmp_path)
    (out / "results.csv").unlink()
    (out / ".lock").symlink_to(valuable)
    refused(capsys, run_cifar.main, arguments, str(out), "cannot be written", folder=tmp_path)
    assert valuable.read_text() == "valuable"


@pytest.mark.medium
def test_a_full_disk_names_the_file(tmp_path, capsys):
    path = write(tmp_path / "in/results.csv", seeds("gac", [60, 61]))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        refused(capsys, report.main, [path], "report.html", "File too large", folder=tmp_path)
        out = tmp_path / "out"
        refused(capsys, figures_command.main, ["rows", path, "--output", out], "learning_curves.png", "too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(out.iterdir()) == []


def test_loops_of_links_have_an_end(tmp_path, capsys):
    write(tmp_path / "in/a/results.csv", seeds("gac", [60, 61]))
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    (tmp_path / "in/a/self").symlink_to("self")
    assert ledger.main(["--runs", str(tmp_path / "in")]) == 0
    assert "| 2 | 0; 1 |" in capsys.readouterr().out
    (tmp_path / "in/results.csv").symlink_to("results.csv")
    refused(capsys, ledger.main, ["--runs", tmp_path / "in"], "results.csv", "Too many levels of symbolic links")
    refused(capsys, robustness.main, [tmp_path / "in", "--output", tmp_path / "out"], "last.safetensors")


def test_equal_texts_make_equal_groups(tmp_path):
    """What is shown of a text does not merge what it is."""
    names = list(group(runs(*with_text("x" * 300 + "a"), *with_text("x" * 300 + "b")), over=("encoder", "seed")))
    assert len(names) == 3
