"""The path for GPUs: kernels compiled by NVRTC through CuPy, which caches them on disk, launched on torch's stream.

CuPy makes the compiler treat subnormal numbers (below 1.2e-38) as 0.
"""

from __future__ import annotations

import errno
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gac_sj.ops.source import PROBE, BuildError, source

__all__ = ["OPTIONS", "Module", "load", "why_not"]

#: No contraction, so that results equal the definition's.
OPTIONS = ("--std=c++17", "--fmad=false")


class Module:
    """Compiled kernels for one device.

    Args:
        code: source of the kernels (:func:`gac_sj.ops.source.source`).
        device: index of the GPU.

    Raises:
        BuildError: on the first launch, the source does not compile or cannot be stored.
    """

    def __init__(self, code: str, device: int):
        import cupy

        self._cupy, self._device = cupy, device
        self._module = cupy.RawModule(code=code, options=OPTIONS)
        self._functions: dict[str, Any] = {}

    def launch(
        self, kernel: str, grid: tuple[int, int], block: int, arguments: tuple[Tensor | int | float | None, ...]
    ) -> None:
        """Run a kernel.

        Args:
            kernel: its name.
            grid: number of blocks in x and y.
            block: number of threads in a block.
            arguments: tensors become pointers, ints 64-bit and floats 32-bit numbers, None a null pointer.
        """
        cupy = self._cupy
        with torch.cuda.device(self._device), cupy.cuda.Device(self._device), self._stream():
            if kernel not in self._functions:
                try:
                    self._functions[kernel] = self._module.get_function(kernel)
                except Exception as error:  # of NVRTC, the driver, or the disk that caches kernels
                    raise BuildError(f"CuPy cannot build the kernels ({_sentence(error)})") from error
            self._functions[kernel](grid, (block,), tuple(map(self._value, arguments)))

    def _stream(self) -> Any:
        """torch's current stream as a stream of CuPy."""
        stream = torch.cuda.current_stream(self._device)
        if hasattr(stream, "__cuda_stream__") and hasattr(self._cupy.cuda.Stream, "from_external"):
            return self._cupy.cuda.Stream.from_external(stream)
        return self._cupy.cuda.ExternalStream(stream.cuda_stream, self._device)

    def _value(self, argument: Tensor | int | float | None) -> Any:
        if argument is None or isinstance(argument, Tensor):
            return self._cupy.uint64(0 if argument is None else argument.data_ptr())
        return (self._cupy.float32 if isinstance(argument, float) else self._cupy.int64)(argument)


@cache
def load(code: str, device: int) -> Module:
    """Compiled kernels for one device.

    Args:
        code: their source.
        device: index of the GPU.
    """
    return Module(code, device)


@cache
def why_not() -> str | None:
    """Why the kernels cannot run on a GPU here; None if they can."""
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return f"PyTorch cannot use a GPU ({_sentence(error)})"
    major = int(torch.version.cuda.split(".")[0])
    install = f"pip install cupy-cuda{major}x"
    try:
        import cupy

        found = cupy.cuda.runtime.runtimeGetVersion() // 1000
        driver = cupy.cuda.runtime.driverGetVersion() // 1000
    except Exception as error:  # a broken installation can raise anything
        return f"CuPy cannot be imported ({_sentence(error)}); {_remedy(error, install)}"
    if found != major:
        return (
            f"CuPy is built for CUDA {found} and PyTorch for CUDA {major}; pip uninstall cupy-cuda{found}x; {install}"
        )
    if driver < major:
        return f"the driver supports only CUDA {driver}, and CuPy needs CUDA {major}; update the driver"
    try:
        cupy.RawModule(code=source("lif", PROBE), options=OPTIONS).get_function("lif_forward")
    except Exception as error:
        needed = f"pip install 'cupy-cuda{major}x[ctk]'"
        return f"CuPy cannot compile ({_sentence(error)}); {_remedy(error, needed)}"
    return None


def _remedy(error: Exception, otherwise: str) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "set CUPY_CACHE_DIR to a writable folder"
    return otherwise


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
