"""Code of users: running a Python file, what one defines (``FILE.py:NAME``), and which file a class comes from."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import read_bytes, require_file

__all__ = [
    "SESSION",
    "class_source",
    "files_run",
    "is_place",
    "load_from_file",
    "loaded_before",
    "run_file",
    "source_of",
]

#: In the place of the file's name for classes that were typed into an interactive session.
SESSION = "interactive"


def is_place(text: str) -> bool:
    """Whether a text reads ``FILE.py:NAME``."""
    file, _, name = text.rpartition(":")
    return file.endswith(".py") and name.isidentifier()


def source_of(file: str | Path) -> str:
    """ "FILE:DIGEST" of a file, without its folder, with the first 12 hex digits of its SHA-256.

    Raises:
        OSError: it cannot be read.
    """
    return f"{Path(file).name}:{hashlib.sha256(read_bytes(Path(file))).hexdigest()[:12]}"


def files_run() -> dict[str, Path]:
    """The files of users that this process has run, by :func:`source_of` them."""
    modules = [module for module in list(sys.modules.values()) if getattr(module, "__gac_sj_file__", None) is True]
    paths = [Path(module.__file__) for module in modules if module.__file__ is not None]
    return {source_of(path): path for path in paths}


def loaded_before(place: str, source: str, subject: str) -> Any:
    """What a name stands for in a file that this process has run already, as weights and settings need it.

    Args:
        place: ``FILE.py:NAME`` without a folder.
        source: the recorded :func:`source_of` its file.
        subject: what the name stands for, for messages, such as "network".

    Raises:
        UsageError: no file of that name was run, or another version of it.
    """
    file, _, name = place.rpartition(":")
    found = {known: path for known, path in files_run().items() if path.name == file}
    if source in found:
        return load_from_file(f"{found[source]}:{name}", subject)
    recorded = source.rpartition(":")[2]
    if found:
        raise UsageError(
            f"The {subject} {place!r} was defined in {file} with SHA-256 {recorded}, and the {file} that was given has "
            f"{' and '.join(other.rpartition(':')[2] for other in found)}",
            f"give the {file} that was used",
        )
    raise UsageError(f"The {subject} {place!r} is defined in {file}, which was not given", f"add --import {file}")


def load_from_file(place: str, argument: str) -> Any:
    """What a name in a Python file stands for. The file runs once in a process.

    Args:
        place: ``FILE.py:NAME``.
        argument: that the place was given for, for messages.

    Raises:
        UsageError: the place has another form, the file does not exist or raises, or it does not define the name.
    """
    file, _, name = place.rpartition(":")
    if not (file and name.isidentifier()):
        raise UsageError(f"must be FILE.py:NAME, got {place!r}", "add what is missing", argument=argument)
    path = Path(file)
    try:
        module = sys.modules.get(_module_name(path)) or run_file(path)
    except (Exception, SystemExit) as error:  # a user's code raises whatever it likes
        if not path.exists():
            raise UsageError(
                f"must be FILE.py:NAME, and {file!r} does not exist", "pass the path of a file", argument=argument
            ) from error
        raise UsageError(
            f"cannot use {file}: it raises {type(error).__name__} ({first_sentence(error)})",
            "correct the file",
            argument=argument,
        ) from error
    if not hasattr(module, name):
        raise UsageError(
            f"cannot be {name!r} of {file}, which does not define it",
            argument=argument,
            options=[own for own, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__],
            given=name,
        )
    return getattr(module, name)


def run_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own.

    Args:
        path: the file.

    Returns:
        The module, whose ``__gac_sj_file__`` is True, so that messages name the file in its place.

    Raises:
        OSError: the file does not exist or is not a regular file.
        ImportError: it is not a Python file.
        Exception: whatever the file raises.
    """
    require_file(path)
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    module.__gac_sj_file__ = True  # type: ignore[attr-defined]
    sys.modules[name] = module  # pickling and dataclasses look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def class_source(cls: type | Callable[..., Any]) -> str | None:
    """ "FILE:DIGEST" of the file that defines a class or function (:func:`source_of`); None for those of gac_sj.

    Args:
        cls: the class or function; of an importable module the module's name stands for the file's.
    """
    if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None
    module = sys.modules.get(cls.__module__)
    try:
        path = Path(inspect.getfile(cls))
        content = path.read_bytes()
    except (OSError, TypeError):  # typed into a session
        path, content = Path(SESSION), cls.__qualname__.encode()
    is_file = module is None or cls.__module__ == "__main__" or getattr(module, "__gac_sj_file__", False)
    return f"{path.name if is_file else cls.__module__}:{hashlib.sha256(content).hexdigest()[:12]}"


def _module_name(path: Path) -> str:
    """A name of its own, because two files may have the same."""
    return f"gac_sj_import_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
