"""What all programs share: ``--import``, errors in one sentence, exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from gac_sj._utils.errors import ExitError, UsageError
from gac_sj.encoders import import_plugins

__all__ = ["program"]


def program(
    build_parser: Callable[[], argparse.ArgumentParser], interrupted: str = "interrupted."
) -> Callable[[Callable[[argparse.Namespace], int | None]], Callable[..., int]]:
    """Decorator: make a function of parsed arguments the ``main`` of a program.

    The program takes ``--import FILE_OR_MODULE`` (repeatable), which runs before all other arguments are read, so that
    what it registers is among their choices. Errors that a user can fix are one sentence on stderr. Exit statuses: 0,
    or what the function returns; 2 for such an error; 1 for numbers that stopped being finite; that of an
    :class:`gac_sj._utils.errors.ExitError`; 130 after Ctrl-C; 141 if the reader of the output went away.

    Args:
        build_parser: builds the parser; its ``prog`` names the program in messages.
        interrupted: message after Ctrl-C.

    Returns:
        The decorator. The decorated function takes the arguments of the command line (None: those of this process) and
        returns the exit status.
    """

    def decorate(run: Callable[[argparse.Namespace], int | None]) -> Callable[..., int]:
        def main(arguments: Sequence[str] | None = None) -> int:
            parser = build_parser()
            args = argparse.Namespace()

            def option(argument: str) -> str:
                return _option(_actions(parser, args), argument)

            try:
                if places := _places(parser.prog, arguments):
                    import_plugins(places)
                    parser = build_parser()  # its choices and defaults now include what was registered
                _add_import(parser)
                args = parser.parse_args(arguments)
                status = run(args)
                sys.stdout.flush()
                return status or 0
            except BrokenPipeError:
                # the rest of the buffer would raise again when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 141
            except KeyboardInterrupt:
                return _fail(parser, interrupted, 130)
            except UsageError as error:
                return _fail(parser, error.message(option), 2)
            except (ValueError, OSError) as error:
                return _fail(parser, str(error), 2)
            except FloatingPointError as error:
                return _fail(parser, str(error), 1)
            except ExitError as error:
                return _fail(parser, str(error), error.exit_code)

        main.__doc__ = run.__doc__
        return main

    return decorate


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
        help="Python code that registers your encoders; may be repeated",
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
    print(f"{parser.prog}: {' '.join(message.split())}", file=sys.stderr)  # other packages write several lines
    return status
