"""What all programs share: ``--import``, errors in one sentence, exit statuses."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from typing import Any, TextIO, cast

from gac_sj._utils.errors import ExitError, UsageError
from gac_sj._utils.files import as_utf8
from gac_sj._utils.memory import keep_memory
from gac_sj.encoders import import_plugins

__all__ = ["program"]


def program(
    build_parser: Callable[[], argparse.ArgumentParser], interrupted: str = "interrupted."
) -> Callable[[Callable[[argparse.Namespace], int | None]], Callable[..., int]]:
    """Decorator: make a function of parsed arguments the ``main`` of a program.

    The program takes ``--import FILE_OR_MODULE`` (repeatable), which runs before all other arguments are read, so that
    what it registers is among their choices. Freed memory is kept (:func:`gac_sj.keep_memory`). Errors that a user can
    fix are one sentence on stderr. Exit statuses: 0, or what the function returns; 2 for such an error; 1 for numbers
    that stopped being finite; that of an :class:`gac_sj._utils.errors.ExitError`; 130 after Ctrl-C; 143 after SIGTERM;
    141 if the reader of the output went away. What the output's encoding lacks, such as the name of a file that is not
    UTF-8, is escaped.

    Args:
        build_parser: builds the parser; its ``prog`` names the program in messages.
        interrupted: message after Ctrl-C.

    Returns:
        The decorator. The decorated function takes the arguments of the command line (None: those of this process) and
        returns the exit status. What it decorates finds them as they were given in ``command_line``.
    """

    def decorate(run: Callable[[argparse.Namespace], int | None]) -> Callable[..., int]:
        def attempt(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
            args = argparse.Namespace()

            def option(argument: str) -> str:
                return _option(_actions(parser, args), argument)

            try:
                if places := _places(parser.prog, arguments):
                    import_plugins(places)
                    parser = build_parser()  # its choices and defaults now include what was registered
                _add_import(parser)
                args = parser.parse_args(arguments)
                keep_memory()
                args.command_line = list(sys.argv[1:] if arguments is None else arguments)
                return run(args) or 0
            except KeyboardInterrupt:
                return _fail(parser, interrupted, 130)
            except _Terminated:
                return _fail(parser, interrupted, 143)
            except UsageError as error:
                return _fail(parser, error.message(option), 2)
            except (ValueError, OSError) as error:
                return _fail(parser, str(error), 2)
            except FloatingPointError as error:
                return _fail(parser, str(error), 1)
            except ExitError as error:
                return _fail(parser, str(error), error.exit_code)

        def main(arguments: Sequence[str] | None = None) -> int:
            _open_closed_streams()
            parser = build_parser()
            with _unwinding(), redirect_stdout(cast(TextIO, _Output(sys.stdout))) as output:
                try:
                    try:
                        return attempt(parser, arguments)
                    finally:  # also after argparse has printed help
                        output.flush()
                except ExitError as error:
                    return _fail(parser, str(error), error.exit_code)

        main.__doc__ = run.__doc__
        return main

    return decorate


class _Terminated(BaseException):
    """SIGTERM was received."""


_SIGNALS = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}


@contextmanager
def _unwinding() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what the program holds is released; a second acts at once.

    Python drops what is raised inside a ``__del__``. A signal that strikes there is sent again, a moment later.
    """
    if threading.current_thread() is not threading.main_thread():  # signals go elsewhere
        yield
        return

    def terminate(number: int, frame: object) -> None:
        signal.signal(number, before)
        raise _Terminated

    def dropped(about: sys.UnraisableHookArgs) -> None:
        if (number := _SIGNALS.get(about.exc_type)) is None:
            hook(about)
            return
        if number == signal.SIGTERM:
            signal.signal(number, terminate)
        # to the main thread, which may be waiting; Windows has no signals between threads
        send = partial(signal.pthread_kill, main) if hasattr(signal, "pthread_kill") else signal.raise_signal
        over = threading.Event()

        def send_again() -> None:
            over.wait()  # raised in here, it would be dropped once more
            time.sleep(0.05)
            send(number)

        try:
            threading.Thread(target=send_again, daemon=True).start()
        finally:
            over.set()

    main = threading.get_ident()
    before, hook = signal.signal(signal.SIGTERM, terminate), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


def _places(prog: str, arguments: Sequence[str] | None) -> list[str]:
    """The values of ``--import``, abbreviated or not, whatever the other arguments are."""
    parser = argparse.ArgumentParser(prog, add_help=False)
    _add_import(parser)
    found, _ = parser.parse_known_args(arguments)
    return found.imports


def _add_import(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _add_import(command)
            return
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE_OR_MODULE",
        help="Python code that registers your encoders or networks, or defines one or a data set; may be repeated",
    )


def _actions(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[argparse.Action]:
    """The arguments of a program, those of the chosen command included."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            chosen = action.choices.get(getattr(args, action.dest, ""))
            if chosen is not None:
                yield from _actions(chosen, args)


def _option(actions: Iterator[argparse.Action], argument: str) -> str:
    """What a program calls an argument; the argument's own name if it is not an option of the program."""
    for action in actions:
        if action.option_strings and argument in (action.dest, action.dest.removesuffix("s")):
            return next((name for name in action.option_strings if name.startswith("--")), action.option_strings[0])
    return f"--{argument}" if argument == "import" else argument


def _fail(parser: argparse.ArgumentParser, message: str, status: int) -> int:
    if message:
        line = as_utf8(" ".join(message.split())).decode()  # other packages write several
        with suppress(OSError):  # nobody reads it
            print(f"{parser.prog}: {line}", file=sys.stderr)
    return status


def _open_closed_streams() -> None:
    """Open the standard streams that are closed, because the next files would get their numbers and what is printed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


class _Output:
    """Standard output that escapes what its encoding lacks, and ends the program when it cannot be written."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        with self._checked():
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        with self._checked():
            self._stream.flush()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # the rest of the buffer would raise again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, BrokenPipeError):
                raise ExitError("", 141) from error
            raise ExitError(f"the output cannot be written ({error.strerror})", 2) from error
