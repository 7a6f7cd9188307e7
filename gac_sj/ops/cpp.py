"""The path for CPUs: kernels built by the host's C++ compiler, cached on disk, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from gac_sj.ops.source import PROBE, read, source

__all__ = ["Module", "cache_folder", "compiler", "load", "why_not"]

# No contraction, so that results equal the definition's; no errno and no traps, so that loops are vectorised.
OPTIONS = (
    *("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC"),
)


class Module:
    """Compiled kernels.

    Args:
        code: source of the kernels (:func:`gac_sj.ops.source.source`).
        options: additional options of the compiler.

    Raises:
        RuntimeError: the source does not compile.
        OSError: the library cannot be loaded.
    """

    def __init__(self, code: str, options: tuple[str, ...] = ()):
        kernels = re.findall(r"__global__ void (\w+)", code)
        code = read("host.h") + code + "".join(map(_ENTRY.format, kernels))
        library = _build(code, (*OPTIONS, *options))
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError:  # the cached file is damaged
            library.unlink(missing_ok=True)
            self._library = ctypes.CDLL(str(_build(code, (*OPTIONS, *options))))

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int],
        block: int,
        arguments: tuple[Tensor | int | float | None, ...],
        workers: int = 1,
    ) -> None:
        """Run a kernel.

        Args:
            kernel: its name.
            grid: number of blocks in x and y.
            block: number of threads in a block.
            arguments: tensors become pointers, ints 64-bit and floats 32-bit numbers, None a null pointer.
            workers: number of CPU threads that share the blocks.
        """
        values = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        getattr(self._library, f"launch_{kernel}")(pointers, *grid, block, workers)


_ENTRY = """
extern "C" void launch_{0}(void** arguments, unsigned x, unsigned y, unsigned block, int workers) {{
  launch({0}, arguments, dim{{x, y}}, block, workers);
}}
"""


def _value(argument: Tensor | int | float | None) -> ctypes._SimpleCData:
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_longlong(argument)


@cache
def load(code: str) -> Module:
    """Compiled kernels.

    Args:
        code: their source.
    """
    return Module(code)


@cache
def why_not() -> str | None:
    """Why the kernels cannot run on this CPU; None if they can."""
    try:
        load(source("lif", PROBE))
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


def compiler() -> list[str]:
    """The command of the C++ compiler: ``CXX``, or the first one on the path.

    Raises:
        RuntimeError: there is none.
    """
    requested = os.environ.get("CXX", "")
    commands = [shlex.split(requested)] if requested else [["g++"], ["clang++"], ["c++"]]
    for command in commands:
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    if requested:
        raise RuntimeError(f"CXX must name a C++ compiler, got {requested!r}, which was not found; correct it")
    raise RuntimeError("no C++ compiler was found; install g++")


@cache
def cache_folder() -> Path:
    """The folder of compiled kernels; a temporary one for this process if the home folder is not writable."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gac_sj"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # it is not writable, or there is no home folder
        _temporary.append(tempfile.TemporaryDirectory(prefix="gac_sj-"))
        return Path(_temporary[-1].name)


_temporary: list[tempfile.TemporaryDirectory] = []  # removed at the end of the process


def _build(code: str, options: tuple[str, ...]) -> Path:
    """The library, from the cache or built now. Several processes may build it at the same time."""
    command, folder = compiler(), cache_folder()
    digest = hashlib.sha256("\0".join((code, *command, *options, _processor())).encode()).hexdigest()[:32]
    library = folder / f"{digest}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        text, result = Path(scratch, "kernels.cpp"), Path(scratch, library.name)
        text.write_text(code, encoding="utf-8")
        done = subprocess.run([*command, *options, str(text), "-o", str(result)], capture_output=True, text=True)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise RuntimeError(f"{Path(command[0]).name} cannot build the kernels: {first.strip()}")
        os.replace(result, library)
    return library


@cache
def _processor() -> str:
    """What ``-march=native`` depends on, because machines with different processors may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("model name", "flags", "CPU implementer", "CPU part", "Features")
        return "\n".join(sorted({line for line in lines if line.split(":")[0].strip() in names}))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
