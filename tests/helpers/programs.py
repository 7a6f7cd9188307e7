"""Programs as tests run them."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

from helpers.files import contents
from helpers.registry import forgotten_afterwards


def run(main: Callable[[list[str]], int], *arguments: object) -> str:
    """What a program prints; it knows nothing that an earlier one imported.

    Args:
        main: of the program, which must succeed.
        arguments: of the command line, as anything that ``str`` turns into text.
    """
    with forgotten_afterwards(), contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(list(map(str, arguments)))
    assert status == 0
    return printed.getvalue()


def refused(capsys, main: Callable[[list[str]], int], arguments: list, *words: str, folder: Path | None = None) -> str:
    """Run a program that must refuse: exit status 2, nothing on stdout, one sentence on stderr.

    Args:
        capsys: pytest's fixture.
        main: of the program.
        arguments: of the command line, as anything that ``str`` turns into text.
        words: the sentence has all of them.
        folder: it must stay as it is.

    Returns:
        The sentence.
    """
    before = None if folder is None else contents(folder, times=True)
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, error = capsys.readouterr()
    assert out == "" and re.fullmatch(r"[\w.-]+: .+\.\n", error), error
    missing = [word for word in words if word not in error]
    assert not missing, error
    assert folder is None or contents(folder, times=True) == before
    return error
