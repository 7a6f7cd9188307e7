"""What the README shows runs, and its numbers are those of the checked-in rows."""

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0] for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.split("\n")
]

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import report  # noqa: E402
import run_cifar  # noqa: E402


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_snippets_run(snippet, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    if "logits" in names:
        assert names["logits"].shape[1] == 10
    if "steps" in names:
        assert names["steps"].shape == (4, 2, 10)
        assert "encoder.neuron" in capsys.readouterr().out


def test_there_are_snippets():
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.strip()])
def test_commands_exist_with_these_arguments(command):
    program, *arguments = shlex.split(command)
    if program == "make":
        makefile = (REPOSITORY / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments)
    else:
        assert (program, arguments[0]) == ("python", "benchmarks/run_cifar.py")
        run_cifar.check(run_cifar.parse(arguments[1:]))


def test_the_table_of_forms_is_that_of_the_rows():
    with open(REPOSITORY / "experiments/encoder_forms/results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert report.table(rows) in README
    for name in ("commit", "device"):
        assert all(row[name] in README for row in rows)


def test_the_speed_ratios_are_those_of_the_rows():
    with open(REPOSITORY / "benchmarks/results/speed.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"] == "once"]
    for row in rows:
        assert f"{float(row['speedup']):.2f} times" in README
        assert row["commit"] in README
        assert row["device"] in README
