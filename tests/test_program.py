"""What all programs share: error messages, exit statuses, --import."""

import argparse
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gac_sj._utils.claims import claimed
from gac_sj._utils.errors import ExitError, UsageError, first_sentence
from gac_sj.cli.program import program
from gac_sj.encoders import list_encoders

pytestmark = [pytest.mark.usefixtures("clean_registry"), pytest.mark.one_release]

PLUGIN = """
import gac_sj

@gac_sj.register_encoder("plugged_in")
class PluggedIn(gac_sj.Encoder):
    pass
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return path


def build_parser():
    parser = argparse.ArgumentParser(prog="bench.py")
    parser.add_argument("weights", nargs="?")
    parser.add_argument("-T", type=int, default=4)
    parser.add_argument("-c", "--config")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--encoder", default="direct", choices=list_encoders())
    return parser


PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)


def process(doing):
    """The command of a program that does something as soon as its input ends."""
    script = f"""
import argparse, sys
from gac_sj.cli.program import program
@program(argparse.ArgumentParser)
def main(args):
    {doing}
if sys.stdin:
    sys.stdin.read()
sys.exit(main([]))
"""
    return [sys.executable, "-W", "ignore", "-c", script]


def build_parser_with_commands():
    parser = argparse.ArgumentParser(prog="tool")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train").add_argument("--batch-size", type=int)
    commands.add_parser("list").add_argument("--encoder", choices=list_encoders())
    return parser


def raising(error, parser=build_parser, **options):
    """A program that raises ``error``."""

    @program(parser, **options)
    def main(args):
        raise error

    return main


def printing(text, flush=False, then=None):
    """A program that prints, and raises an error if there is one."""

    @program(build_parser)
    def main(args):
        print(text, flush=flush)
        if then:
            raise then

    return main


class TestUsageError:
    def test_message_is_argument_problem_advice(self):
        error = UsageError("must be even, got 3", "add one", argument="batch_size")
        assert str(error) == error.message() == "batch_size must be even, got 3; add one."
        assert str(UsageError("must be even, got 3", argument="batch_size")) == "batch_size must be even, got 3."
        assert str(UsageError("The file is damaged", "replace it")) == "The file is damaged; replace it."

    def test_option_replaces_the_argument_only(self):
        error = UsageError("must exceed T, got T=3", argument="T")
        assert error.message(lambda argument: f"-{argument}") == "-T must exceed T, got T=3."
        assert UsageError("T is unclear").message(lambda argument: "never used") == "T is unclear."

    def test_options_are_listed_with_the_nearest(self):
        error = UsageError("is unknown", "see --help", argument="encoder", options=["gac", "latency"], given="latenzy")
        assert error.options == ("gac", "latency")
        for words in ("choose one of gac, latency", "did you mean 'latency'?", "see --help"):
            assert words in str(error)

    def test_nothing_is_suggested_for_a_distant_or_missing_value(self):
        for given in ("xyz", None, 3):
            error = UsageError("is unknown", argument="encoder", options=["gac", "latency"], given=given)
            assert str(error) == "encoder is unknown; choose one of gac, latency."

    def test_it_is_a_value_error(self):
        assert issubclass(UsageError, ValueError)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("It broke.", "It broke"),
        ("It broke. Badly.", "It broke"),
        ("It broke.\nBadly.", "It broke"),
        ("It broke\n  in detail", "It broke"),
        ("\n It broke \n", "It broke"),
        ("got 1.5 of file.py", "got 1.5 of file.py"),
        ("", "RuntimeError"),
    ],
)
def test_first_sentence_of_an_error(text, expected):
    assert first_sentence(RuntimeError(text)) == expected


def test_first_sentence_without_a_message_is_the_class():
    assert first_sentence(TimeoutError()) == "TimeoutError"


class TestExitStatus:
    @pytest.mark.parametrize("returned, status", [(None, 0), (0, 0), (3, 3)])
    def test_status_is_what_the_function_returns(self, returned, status, capsys):
        @program(build_parser)
        def main(args):
            print(args.T)
            return returned

        assert main(["-T", "2"]) == status
        assert capsys.readouterr() == ("2\n", "")

    @pytest.mark.parametrize(
        "error, status",
        [
            (UsageError("The file is damaged", "replace it"), 2),
            (ValueError("The file is damaged; replace it."), 2),
            (OSError("The file is damaged;\n  replace it."), 2),
            (FileNotFoundError("The file is damaged; replace it."), 2),
            (FloatingPointError("The file is damaged; replace it."), 1),
            (ExitError("The file is damaged; replace it.", 143), 143),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_errors_are_one_line_on_stderr(self, error, status, capsys):
        assert raising(error)([]) == status
        assert capsys.readouterr() == ("", "bench.py: The file is damaged; replace it.\n")

    def test_ctrl_c_ends_with_status_130_and_the_programs_message(self, capsys):
        assert raising(KeyboardInterrupt())([]) == 130
        assert raising(KeyboardInterrupt(), interrupted="run it again.")([]) == 130
        assert capsys.readouterr().err == "bench.py: interrupted.\nbench.py: run it again.\n"

    def test_sigterm_ends_like_ctrl_c_so_that_what_is_held_is_released(self, tmp_path, capsys):
        before = signal.getsignal(signal.SIGTERM)

        @program(build_parser, "run it again.")
        def main(args):
            with claimed(tmp_path):
                os.kill(os.getpid(), signal.SIGTERM)

        assert main([]) == 143 and not list(tmp_path.iterdir())
        assert capsys.readouterr().err == "bench.py: run it again.\n"
        assert signal.getsignal(signal.SIGTERM) == before

    @pytest.mark.parametrize("seconds", [0, 0.2])
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_inside_a_destructor_is_not_lost(self, number, status, seconds, tmp_path, capsys, monkeypatch):
        start = threading.Thread.start

        def busy(thread):
            """Start a thread on a machine that takes a while."""
            start(thread)
            time.sleep(seconds)

        monkeypatch.setattr(threading.Thread, "start", busy)

        class Struck:
            def __del__(self):
                os.kill(os.getpid(), number)
                sum(range(1000))  # the handler runs here

        @program(build_parser, "run it again.")
        def main(args):
            with claimed(tmp_path):
                struck = Struck()
                del struck
                for _ in range(100):
                    time.sleep(0.1)

        assert main([]) == status and not list(tmp_path.iterdir())
        assert capsys.readouterr().err == "bench.py: run it again.\n"

    @pytest.mark.parametrize("text", ["unread", "unread " * 10000])
    @pytest.mark.parametrize("flush", [True, False])
    def test_an_output_that_nobody_reads_ends_quietly_with_status_141(self, text, flush, monkeypatch, capsys):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as output:
            monkeypatch.setattr("sys.stdout", output)
            assert printing(text, flush=flush)([]) == 141
            assert printing("more", flush=True)([]) == 0, "what is left was dropped"
        assert capsys.readouterr().err == ""

    def test_help_that_nobody_reads(self, monkeypatch, capsys):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as output:
            monkeypatch.setattr("sys.stdout", output)
            assert printing("")(["--help"]) == 141
        assert capsys.readouterr().err == ""

    def test_an_error_is_told_although_nobody_reads_the_output(self, monkeypatch, capsys):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as output:
            monkeypatch.setattr("sys.stdout", output)
            assert printing("unread", then=ValueError("mine"))([]) == 141
        assert capsys.readouterr().err == "bench.py: mine\n"

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="it needs a device that is always full")
    @pytest.mark.parametrize("flush", [True, False])
    def test_an_output_that_is_full_is_named(self, flush, monkeypatch, capsys):
        with open("/dev/full", "w") as output:
            monkeypatch.setattr("sys.stdout", output)
            assert printing("lost", flush=flush)([]) == 2
        message = "bench.py: the output cannot be written (No space left on device)\n"
        assert capsys.readouterr().err == message

    @pytest.mark.parametrize("encoding, expected", [("utf-8", "größe".encode()), ("ascii", rb"gr\xf6\xdfe")])
    def test_what_the_output_cannot_encode_is_escaped(self, encoding, expected, monkeypatch, capsys):
        output = io.TextIOWrapper(io.BytesIO(), encoding)
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", output)
            assert printing("größe \udcff", then=ValueError("größe \udcff"))([]) == 2
        assert output.buffer.getvalue() == expected + b" \\udcff\n"
        assert capsys.readouterr().err == "bench.py: größe \\udcff\n"

    @pytest.mark.medium
    def test_a_process_whose_reader_is_gone(self):
        with subprocess.Popen(process("print('unread ' * 10000)"), text=True, **PIPES) as found:
            found.stdout.close()
            found.stdin.close()
            assert (found.stderr.read(), found.wait(timeout=120)) == ("", 141)

    @pytest.mark.medium
    def test_streams_that_are_closed_do_not_become_files(self, tmp_path):
        """What is printed, also by libraries in C, must not go into the next files that are opened."""
        doing = f"""
    import os
    for name in "abc":
        with open({str(tmp_path)!r} + "/" + name, "w") as file:
            file.write(name)
            print("printed", flush=True)
            print("told", file=sys.stderr, flush=True)
            for number in (1, 2):
                os.write(number, b"from C")
"""
        shell = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *process(doing)]
        assert subprocess.run(shell, timeout=120).returncode == 0
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in "abc"}

    @pytest.mark.parametrize("error", [ZeroDivisionError("mine"), TypeError("mine"), RuntimeError("mine")], ids=str)
    def test_programming_errors_are_not_hidden(self, error):
        with pytest.raises(type(error), match="mine"):
            raising(error)([])

    def test_wrong_usage_is_left_to_argparse(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            raising(AssertionError)(["--colour"])
        assert "usage: bench.py" in capsys.readouterr().err

    def test_docstring_is_that_of_the_function(self):
        @program(build_parser)
        def main(args):
            """Compare encoders."""

        assert main.__doc__ == "Compare encoders."


class TestOptions:
    @pytest.mark.parametrize(
        "argument, shown",
        [
            ("T", "-T"),
            ("batch_size", "--batch-size"),
            ("seed", "--seeds"),
            ("seeds", "--seeds"),
            ("config", "--config"),
            ("encoder", "--encoder"),
            ("import", "--import"),
            ("weights", "weights"),
            ("stem", "stem"),
        ],
    )
    def test_argument_is_shown_as_the_programs_option(self, argument, shown, capsys):
        assert raising(UsageError("must be something else", argument=argument))([]) == 2
        assert capsys.readouterr().err == f"bench.py: {shown} must be something else.\n"

    @pytest.mark.parametrize("command, shown", [("train", "--batch-size"), ("list", "batch_size")])
    def test_options_are_those_of_the_chosen_command(self, command, shown, capsys):
        main = raising(UsageError("must be something else", argument="batch_size"), build_parser_with_commands)
        assert main([command]) == 2
        assert capsys.readouterr().err == f"tool: {shown} must be something else.\n"


class TestImport:
    @pytest.mark.parametrize("option", ["--import", "--imp"])
    @pytest.mark.parametrize("first", [True, False])
    def test_imported_encoders_are_among_the_choices(self, plugin, option, first, capsys):
        @program(build_parser)
        def main(args):
            print(args.encoder, args.imports)

        imports, encoder = [option, str(plugin)], ["--encoder", "plugged_in"]
        assert main([*imports, *encoder] if first else [*encoder, *imports]) == 0
        assert capsys.readouterr().out == f"plugged_in {[str(plugin)]}\n"

    def test_every_command_imports(self, plugin, capsys):
        @program(build_parser_with_commands)
        def main(args):
            print(args.command, "plugged_in" in list_encoders(), args.imports)

        assert main(["list", "--import", str(plugin), "--encoder", "plugged_in"]) == 0
        assert main(["train", "--batch-size", "3", "--import", str(plugin)]) == 0
        assert main(["train"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"list True {[str(plugin)]}",
            f"train True {[str(plugin)]}",
            "train True []",
        ]

    def test_import_may_be_repeated(self, plugin, tmp_path):
        other = tmp_path / "other.py"
        other.write_text(PLUGIN.replace("plugged_in", "other"))

        @program(build_parser)
        def main(args):
            assert args.imports == [str(plugin), str(other)]

        assert main(["--import", str(plugin), "-T", "2", "--import", str(other)]) == 0
        assert list_encoders()[-2:] == ["plugged_in", "other"]

    @pytest.mark.parametrize("parser, arguments", [(build_parser, []), (build_parser_with_commands, ["train"])])
    def test_failing_import_ends_with_status_2(self, parser, arguments, tmp_path, capsys):
        main = raising(AssertionError("it runs"), parser)
        assert main([*arguments, "--import", str(tmp_path / "absent.py")]) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1
        assert error.startswith(f"{parser().prog}: --import ") and "absent.py" in error and "does not exist" in error

    def test_missing_value_is_wrong_usage(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            raising(AssertionError("it runs"))(["--import"])
        assert "bench.py: error: argument --import" in capsys.readouterr().err

    def test_help_explains_import(self, capsys):
        for main, arguments in (
            (raising(AssertionError), ["--help"]),
            (raising(AssertionError, build_parser_with_commands), ["list", "--help"]),
        ):
            with pytest.raises(SystemExit, match="0"):
                main(arguments)
            assert "--import FILE_OR_MODULE" in capsys.readouterr().out
