"""The C++ compiler of this machine: which one, its version, the options that it supports, and a run of it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gac_sj.ops.source import BuildError

__all__ = ["TIME_LIMIT", "Compiler", "compiler"]

#: Seconds after which a compiler is stopped; a kernel takes about one.
TIME_LIMIT = 60.0

# No contraction, so that results equal the definition's; no errno and no traps, so that loops are vectorised.
_OPTIONS = (
    *("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions"),
    *("-shared", "-fPIC"),
)
# What some compilers refuse; the first combination that builds an empty library counts.
_OPTIONAL = (("-march=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that has built an empty library.

    Args:
        command: absolute path of the program, and its arguments.
        version: what it says about itself, one line.
        options: those of kernels that it supports.
    """

    command: tuple[str, ...]
    version: str
    options: tuple[str, ...]

    def __str__(self) -> str:
        threads = "" if "-fopenmp" in self.options else "; without OpenMP, so kernels use one thread"
        return f"{' '.join(self.command)} ({self.version}){threads}"

    def build(self, code: str, library: Path, options: tuple[str, ...] = ()) -> None:
        """Build a library.

        Args:
            code: C++ source.
            library: the new file, in a folder that also takes the compiler's own files.
            options: additional options.

        Raises:
            BuildError: the compiler fails, or does not end within :data:`TIME_LIMIT`.
            OSError: the source cannot be written.
        """
        _build(self.command, code, library, (*self.options, *options))


def compiler() -> Compiler:
    """The C++ compiler: ``CXX`` (blank is not set), or the first of g++, clang++ and c++ on the path.

    On macOS kernels use one thread: a second OpenMP runtime beside that of PyTorch ends a process there.

    Raises:
        BuildError: there is none, it does not work, or this is Windows.
        OSError: no temporary file can be written.
    """
    if sys.platform == "win32":
        raise BuildError("the kernels are not built on Windows; use WSL for them")
    return _examined(_command(os.environ.get("CXX", "").strip(), os.environ.get("PATH")))


@cache
def _examined(command: tuple[str, ...]) -> Compiler:
    with tempfile.TemporaryDirectory(prefix="gac_sj-", ignore_cleanup_errors=True) as folder:
        _, said = _run((*command, "--version"), Path(folder))
        version = (said.strip().splitlines() or ["no version"])[0]
        for optional in _OPTIONAL:
            if sys.platform == "darwin" and "-fopenmp" in optional:
                continue
            try:
                _build(command, "", Path(folder, "empty.so"), (*_OPTIONS, *optional))
                break
            except _RefusedError:
                if not optional:
                    raise
    return Compiler(command, version, (*_OPTIONS, *optional))


class _RefusedError(BuildError):
    """The compiler ended without a library."""


@cache  # a relative path means the folder at the start
def _command(requested: str, search: str | None) -> tuple[str, ...]:
    try:
        named = shlex.split(requested)
    except ValueError:  # a quotation without its end
        named = []
    candidates = [[requested], named] if requested else [["g++"], ["clang++"], ["c++"]]
    for name, *arguments in filter(None, candidates):
        if found := shutil.which(name, path=search):
            return os.path.abspath(found), *arguments
    if requested:
        raise BuildError(f"CXX must name a C++ compiler, got {requested!r}, which was not found; correct it")
    raise BuildError("no C++ compiler was found; install g++")


def _build(command: tuple[str, ...], code: str, library: Path, options: tuple[str, ...]) -> None:
    text = library.with_suffix(".cpp")
    text.write_text(code, encoding="utf-8")
    # libm after the source, for drivers that do not link it by themselves
    status, said = _run((*command, *options, str(text), "-o", str(library), "-lm"), library.parent)
    if status == 0 and library.is_file():
        return
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status} and without a library"
    reason = next((line for line in lines if "error" in line.lower()), (lines or [ended])[0])
    raise _RefusedError(f"{_name(command)} cannot build the kernels: {reason[:300]}")


def _run(command: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """Exit status and output of a command, with a folder for its temporary files."""
    environment = os.environ | {"LC_ALL": "C", "TMPDIR": str(folder)}
    # a file, because a pipe would stay open with a process that outlives the command
    with open(folder / "output.txt", "w+b") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, process_group=0
            )
        except OSError as error:
            raise BuildError(f"{command[0]} cannot be run ({error.strerror})") from error
        try:
            status = process.wait(TIME_LIMIT)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise BuildError(f"{_name(command)} was stopped after {TIME_LIMIT:g} seconds") from error
            raise
        output.seek(0)
        return status, output.read().decode(errors="replace")


def _name(command: tuple[str, ...]) -> str:
    return Path(command[0]).name
