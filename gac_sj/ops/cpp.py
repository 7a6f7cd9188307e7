"""The path for CPUs: kernels built by the host's C++ compiler, cached on disk, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import re
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from gac_sj.ops.compiler import compiler
from gac_sj.ops.library_cache import library
from gac_sj.ops.source import PROBE, BuildError, read, source

__all__ = ["Module", "load", "why_not"]


class Module:
    """Compiled kernels.

    Args:
        code: source of the kernels (:func:`gac_sj.ops.source.source`).
        options: additional options of the compiler.

    Raises:
        BuildError: the source does not compile, or the library cannot be stored or loaded.
    """

    def __init__(self, code: str, options: tuple[str, ...] = ()):
        kernels = re.findall(r"__global__ void (\w+)", code)
        code = read("host.h") + code + "".join(map(_ENTRY.format, kernels))
        try:
            found = compiler()
            parts = (code, *found.command, found.version, *found.options, *options, _processor())
            key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
            build = partial(found.build, code, options=options)
            path = library(key, build)
            try:
                self._library = ctypes.CDLL(str(path))
            except OSError:  # built on a machine with other libraries, or removed since it was checked
                path.unlink(missing_ok=True)
                self._library = ctypes.CDLL(str(library(key, build)))
            for kernel in kernels:
                getattr(self._library, f"launch_{kernel}")
        except (OSError, AttributeError) as error:
            raise BuildError(f"the kernels cannot be stored or loaded ({error})") from error

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

    Raises:
        BuildError: they cannot be built or loaded.
    """
    return Module(code)


@cache
def why_not() -> str | None:
    """Why the kernels cannot run on this CPU; None if they can."""
    try:
        load(source("lif", PROBE))
    except BuildError as error:
        return str(error)
    return None


@cache
def _processor() -> str:
    """What ``-march=native`` depends on, because machines with different processors may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("model name", "flags", "CPU implementer", "CPU part", "Features")
        return "\n".join(sorted({line for line in lines if line.split(":")[0].strip() in names}))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
