"""What all programs share: ``--import``, errors in one sentence, exit statuses."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from gac_sj._utils.errors import ExitError, UsageError
from gac_sj.encoders import import_plugins

__all__ = ["program"]

Main = Callable[[Sequence[str] | None], int]


def program(
    build_parser: Callable[[], argparse.ArgumentParser], interrupted: str = "interrupted."
) -> Callable[[Callable[[argparse.Namespace], int | None]], Main]:
    """Decorator: make a function of parsed arguments the ``main`` of a program.

    The program takes ``--import FILE_OR_MODULE`` (repeatable), which runs before the parser is built, so that what it
    registers is among the choices. Errors that a user can fix are one sentence on stderr. Exit statuses: 0, or what the
    function returns; 2 for such an error; 1 for numbers that stopped being finite; that of an
    :class:`gac_sj._utils.errors.ExitError`; 130 after Ctrl-C; 141 if the reader of the output went away.

    Args:
        build_parser: builds the parser; its ``prog`` names the program in messages.
        interrupted: message after Ctrl-C.
    """

    def decorate(run: Callable[[argparse.Namespace], int | None]) -> Main:
        @functools.wraps(run)
        def main(arguments: Sequence[str] | None = None) -> int:
            parser: argparse.ArgumentParser | None = None
            try:
                import_plugins(_places(arguments))
                parser = build_parser()
                _add_import(parser)
                done = run(parser.parse_args(arguments))
                sys.stdout.flush()
                return done or 0
            except BrokenPipeError:
                # the rest of the buffer would raise again when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 141
            except KeyboardInterrupt:
                message, status = interrupted, 130
            except UsageError as error:
                message, status = error.message(functools.partial(_option, parser)), 2
            except (ValueError, OSError) as error:
                message, status = str(error), 2
            except FloatingPointError as error:
                message, status = str(error), 1
            except ExitError as error:
                message, status = str(error), error.exit_code
            name = parser.prog if parser else os.path.basename(sys.argv[0])
            print(f"{name}: {' '.join(message.split())}", file=sys.stderr)  # other packages write several lines
            return status

        return main

    return decorate


def _places(arguments: Sequence[str] | None) -> list[str]:
    """The values of ``--import``, before the parser is built."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_import(parser)
    found, _ = parser.parse_known_args(arguments)
    return found.imports


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE_OR_MODULE",
        help="Python code that registers your encoders; may be repeated",
    )


def _option(parser: argparse.ArgumentParser | None, argument: str) -> str:
    """What a program calls an argument; the argument's own name where the program has no such option."""
    if argument == "import":
        return "--import"
    for action in _actions(parser) if parser else ():
        if argument in (action.dest, action.dest.removesuffix("s")) and action.option_strings:
            return next((name for name in action.option_strings if name.startswith("--")), action.option_strings[0])
    return argument


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its sub-commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
