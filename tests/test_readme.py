"""What the READMEs show runs, and their numbers are those of the checked-in rows."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import report
import run_cifar

from gac_sj.cli import main as command_line

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BENCHMARKS = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BLOCKS = re.findall(r"```bash\n(.*?)```", README + BENCHMARKS, re.DOTALL)
# commands also stand inside the text
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").split("\n")] + re.findall(
    r"`((?:python|torchrun|make) [^`]+)`", README + BENCHMARKS
)
COMMANDS = [words for line in LINES if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_snippets_run(snippet, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    code = compile(snippet, "README.md", "exec")
    if "to_nir" in snippet and find_spec("spikingjelly.activation_based.nir_exchange") is None:
        with pytest.raises(ValueError, match="exchanges no NIR graphs"):
            exec(code, names)
        return
    exec(code, names)
    if "logits" in names:
        assert names["logits"].shape[1] == 10
    if "steps" in names:
        assert names["steps"].shape == (4, 2, 10)
        assert "encoder.neuron" in capsys.readouterr().out


def test_there_are_snippets_and_commands():
    assert len(SNIPPETS) >= 3
    programs = {word for words in COMMANDS for word in words if word.endswith(".py")}
    assert {"benchmarks/run_cifar.py", "benchmarks/report.py", "benchmarks/speed.py"} <= programs


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_exist_with_these_arguments(words):
    program, *arguments = words
    if program == "make":
        makefile = (REPOSITORY / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments)
        return
    if arguments[0] == "-m":
        assert find_spec(arguments[1]) is not None
        if arguments[1] == "gac_sj" and arguments[2:]:
            command_line._parser().parse_args(arguments[2:])
        return
    assert program in ("python", "torchrun") and any(word.endswith(".py") for word in arguments)
    for word in arguments:
        if word.endswith((".py", ".yaml", ".csv")):
            assert (REPOSITORY / word).exists()
    if arguments[0] == "benchmarks/run_cifar.py":
        args = run_cifar.parse(arguments[1:])
        for name in args.encoders:
            for seed in args.seeds:
                run_cifar.settings(args, name, seed)


def test_every_number_is_that_of_the_rows(capsys):
    """The text between the markers is what the checked-in rows say now."""
    assert report.main(["--markdown", "--check"]) == 0, capsys.readouterr().err
