"""README and documentation: their snippets run, their commands parse, their numbers are those of the rows."""

import argparse
import configparser
import copy
import importlib
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import report
import run_cifar
import timm
import torch
from helpers.networks import skip_where_layers_cannot_be_traced

import gac_sj
from gac_sj.cli.main import main as command_line

REPOSITORY = Path(__file__).parent.parent
PAGES = [
    *(REPOSITORY / page for page in ("README.md", "CONTRIBUTING.md")),
    *REPOSITORY.glob("*/README.md"),
    REPOSITORY / "experiments/tutorials/README.md",
    *(page for page in sorted(REPOSITORY.glob("docs/**/*.md")) if "reference" not in page.parts),
]
TEXTS = {page.relative_to(REPOSITORY).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
SNIPPETS = [
    pytest.param(snippet, id=f"{page}-{number}")
    for page, text in TEXTS.items()
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL), 1)
]
#: Snippets that are files of a user, which commands name.
OWN_FILES = {
    name[1]: text for text in (each.values[0] for each in SNIPPETS) if (name := re.match(r"# (\w+\.py)\n", text))
}
TEXT = "".join(TEXTS.values())
TEXT = TEXT.replace("experiments/record.sh FOLDER", "python experiments/record.py FOLDER")  # which it starts
# commands are in blocks and inside the text
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in re.split(r"\n| && ", block.replace("\\\n", " "))
] + re.findall(r"`((?:python|torchrun|make|gac-sj) [^`]+)`", TEXT)
COMMANDS = [words for line in dict.fromkeys(LINES) if (words := shlex.split(line, comments=True))]
SETUP = configparser.ConfigParser()
SETUP.read(REPOSITORY / "setup.cfg", encoding="utf-8")
PROGRAMS = {*REPOSITORY.glob("benchmarks/*.py"), *REPOSITORY.glob("experiments/*.py")}


class ParsedError(Exception):
    """Carries the parsed arguments out of a program."""


@pytest.fixture
def parse(monkeypatch):
    """``parse(main, arguments)``: what the program's own parser makes of the arguments; the program does not run."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser, args=None, namespace=None):
        raise ParsedError(original(parser, args, namespace))

    def run(main, arguments):
        with monkeypatch.context() as patch, pytest.raises(ParsedError) as parsed:
            patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
            main(arguments)
        return parsed.value.args[0]

    return run


@pytest.mark.floor
@pytest.mark.medium
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_snippets_run(snippet, capsys, tmp_path, monkeypatch, clean_registry):
    monkeypatch.chdir(tmp_path)
    names = {}
    code = compile(snippet, "snippet", "exec")
    if "to_nir" in snippet and find_spec("spikingjelly.activation_based.nir_exchange") is None:
        with pytest.raises(ValueError, match="NIR"):
            exec(code, names)
        return
    exec(code, names)
    if "logits" in names:
        assert names["logits"].shape[1] == 10
    if "summarize" in snippet:
        assert names["steps"].shape == (4, 2, 10)
        assert "encoder.neuron" in capsys.readouterr().out


@pytest.mark.floor
@pytest.mark.medium
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("build", ["GatedAttentionCoding", "gac_ms_resnet8_cifar"])
def test_encoders_and_networks_compile_in_one_graph(build, training):
    if "resnet" in build:
        skip_where_layers_cannot_be_traced()
    network = timm.create_model(build, T=2) if "resnet" in build else getattr(gac_sj, build)(T=2, channels=4)
    network = network.train(training)
    plain, x = copy.deepcopy(network), torch.randn(2, 3, 16, 16)
    outputs = [torch.compile(network, fullgraph=True, backend="aot_eager")(x), plain(x)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    if training:
        for output in outputs:
            output.square().sum().backward()
        gradients = [[parameter.grad for parameter in each.parameters()] for each in (network, plain)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(network.state_dict(), plain.state_dict())


def test_every_program_is_shown():
    """So that the test of the commands has something to parse for each of them."""
    words = {word for command in COMMANDS for word in command}
    assert {path.relative_to(REPOSITORY).as_posix() for path in PROGRAMS} <= words
    assert len(SNIPPETS) >= 10 and "gac-sj" in words


@pytest.mark.one_release
def test_the_readme_is_short():
    assert TEXTS["README.md"].count("\n") <= 150


@pytest.mark.one_release
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_parse(words, parse, clean_registry, tmp_path, monkeypatch):
    program, *arguments = words
    if {"--import", "--dataset", "--model", "--callback"} & set(words):
        monkeypatch.chdir(tmp_path)
        for name, text in OWN_FILES.items():
            Path(name).write_text(text, encoding="utf-8")
        Path("experiments").symlink_to(REPOSITORY / "experiments")
    if program == ".":
        assert arguments == [".venv/bin/activate"]
        return
    if program == "make":
        makefile = (REPOSITORY / "Makefile").read_text()
        targets = [word for word in arguments if "=" not in word]
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
        return
    if arguments[:2] == ["-m", "pip"]:
        extras = {extra for word in words for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")}
        assert extras <= set(SETUP["options.extras_require"])
        return
    if program == "gac-sj" or arguments[:2] == ["-m", "gac_sj"]:
        if command := arguments if program == "gac-sj" else arguments[2:]:
            parse(command_line, command)
        return
    if program.endswith(".sh"):
        assert (REPOSITORY / program).exists()
        return
    assert program in ("python", "torchrun")
    if arguments[0].startswith("experiments/tutorials/"):
        assert (REPOSITORY / arguments[0]).exists()
        return
    (script,) = (word for word in arguments if word.endswith(".py") and (REPOSITORY / word) in PROGRAMS)
    arguments = arguments[arguments.index(script) + 1 :]
    for word in arguments:
        if word.endswith((".yaml", ".csv")):
            assert (REPOSITORY / word).exists()
    args = parse(importlib.import_module(Path(script).stem).main, arguments)
    monkeypatch.chdir(tmp_path)  # where a user's files are
    if script == "benchmarks/run_cifar.py":
        shared = run_cifar.read_settings(args)
        for name in args.encoders:
            for seed in args.seeds:
                run_cifar.settings(shared, name, seed)


@pytest.mark.one_release
@pytest.mark.medium
def test_every_number_is_that_of_the_rows(capsys):
    """The text between the markers is what the checked-in rows say now."""
    assert report.main(["--markdown", "--check"]) == 0, capsys.readouterr().err
