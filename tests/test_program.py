"""The one ``main()`` of every program: exit statuses, options in the place of arguments, ``--import``."""

import argparse

import pytest

from gac_sj._utils.errors import ExitError, UsageError
from gac_sj.cli.program import program


def build_parser():
    parser = argparse.ArgumentParser(prog="tool")
    parser.add_argument("-T", type=int)
    parser.add_argument("-c", "--config")
    parser.add_argument("--seeds", nargs="+")
    parser.add_argument("--sync-bn", action=argparse.BooleanOptionalAction)
    commands = parser.add_subparsers()
    commands.add_parser("convert").add_argument("--num-classes")
    return parser


def run(result, arguments=(), **options):
    """Exit status of a program that returns or raises ``result``."""

    @program(build_parser, **options)
    def main(args):
        if isinstance(result, BaseException):
            raise result
        return result

    return main([*arguments])


@pytest.mark.parametrize(
    "result, status",
    [
        (None, 0),
        (3, 3),
        (UsageError("The file is empty", "give another"), 2),
        (ValueError("wrong."), 2),
        (OSError("not there."), 2),
        (FloatingPointError("The loss is nan."), 1),
        (ExitError("Stopped.", 143), 143),
        (KeyboardInterrupt(), 130),
    ],
    ids=str,
)
def test_exit_statuses(result, status, capfd):
    assert run(result) == status
    lines = capfd.readouterr().err.splitlines()
    said = isinstance(result, BaseException)
    assert [line.startswith("tool: ") for line in lines] == [True] * said


@pytest.mark.parametrize(
    "argument, option",
    [
        ("T", "-T"),
        ("config", "--config"),
        ("seed", "--seeds"),
        ("sync_bn", "--sync-bn"),
        ("num_classes", "--num-classes"),
        ("unheard_of", "unheard_of"),
    ],
)
def test_an_error_names_the_option(argument, option, capsys):
    assert run(UsageError("must be a seed, got T", "leave it out", argument=argument)) == 2
    assert capsys.readouterr().err == f"tool: {option} must be a seed, got T; leave it out.\n"


def test_several_lines_of_other_packages_become_one(capsys):
    run(ValueError("first\n   second"))
    assert capsys.readouterr().err == "tool: first second\n"


def test_what_is_said_after_an_interruption(capsys):
    run(KeyboardInterrupt(), interrupted="interrupted; run the same command to resume.")
    assert capsys.readouterr().err == "tool: interrupted; run the same command to resume.\n"


def test_an_import_that_does_not_exist(tmp_path, capsys):
    assert run(None, ["--import", str(tmp_path / "nowhere.py")]) == 2
    error = capsys.readouterr().err
    assert "--import" in error and "nowhere.py" in error and error.count("\n") == 1
