"""Errors that a user can fix, and the first sentence of other packages' errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

__all__ = ["ExitError", "UsageError", "first_sentence"]


class UsageError(ValueError):
    """An argument or input that cannot be used, with advice on what to do.

    The message reads "ARGUMENT PROBLEM; ADVICE." Its parts stay apart, so that a program can name its own option in the
    place of the argument (:meth:`message`).

    Args:
        problem: what is wrong: a predicate that follows the argument's name ("must be a positive integer, got 0"), or
            a complete sentence if ``argument`` is None. Without the final full stop.
        advice: what to do, in the imperative; empty where the problem says it already.
        argument: name of the argument, setting or keyword; None where the error is about something else.
        options: the allowed values, which are listed, with the one nearest to ``given``.
        given: the value that was given, to find the nearest option.
    """

    def __init__(
        self,
        problem: str,
        advice: str = "",
        *,
        argument: str | None = None,
        options: Iterable[object] = (),
        given: object = None,
    ):
        self.problem, self.argument = problem, argument
        self.options = tuple(map(str, options))
        if self.options:
            near = difflib.get_close_matches(str(given), self.options, n=1) if given is not None else []
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            advice = f"choose one of {', '.join(self.options)}{meant}{'; ' if advice else ''}{advice}"
        self.advice = advice
        super().__init__(self.message())

    def __str__(self) -> str:
        return self.message()  # not the arguments of the exception, which pickling passes on as the problem

    def message(self, option: Callable[[str], str] = str) -> str:
        """The complete message.

        Args:
            option: maps the argument's name to the name of a program's option, such as ``--batch-size``.
        """
        subject = f"{option(self.argument)} " if self.argument else ""
        return f"{subject}{self.problem}{'; ' if self.advice else ''}{self.advice}."


class ExitError(RuntimeError):
    """Ends a program with an exit status of its own.

    Args:
        message: what the program prints.
        exit_code: its exit status.
    """

    def __init__(self, message: str, exit_code: int):
        self.exit_code = exit_code
        super().__init__(message)


def first_sentence(error: BaseException) -> str:
    """The first sentence of another package's error, without its full stop, to quote in a message of ours.

    Args:
        error: whose message may be empty or have many lines; without one its class is named.
    """
    text = str(error).strip()
    return re.split(r"\.\s|\.?\n|\.$", text, maxsplit=1)[0] if text else type(error).__name__
