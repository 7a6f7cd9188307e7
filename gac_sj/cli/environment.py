"""Environment report for bug reports: versions, devices, and the path that each operator takes.

gac-sj env
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module, metadata

import torch
from spikingjelly.activation_based import surrogate as spikingjelly_surrogate
from torch.utils import collect_env

import gac_sj
from gac_sj._utils.errors import first_sentence
from gac_sj._utils.memory import allocator
from gac_sj._utils.provenance import commit, device_name
from gac_sj.nn.surrogate import Rectangle, Triangle
from gac_sj.ops import int8
from gac_sj.ops.compiler import compiler
from gac_sj.ops.dispatch import OPERATORS, ORDER, PATHS, why_not
from gac_sj.ops.library_cache import cache_folder, why_not_loaded
from gac_sj.ops.surrogates import cuda_derivative, spikingjelly_equivalent

__all__ = ["report"]

#: Ours, and one that stands for SpikingJelly's, of which its kernels know others.
SURROGATES = (Triangle(), Rectangle(), spikingjelly_surrogate.Sigmoid())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    """Print the report."""
    print(report().encode(errors="replace").decode())  # names of files need not be UTF-8


def report() -> str:
    """Versions, devices, compiler and cache; for each operator, device and path "used", "available" or why not.

    What is missing or broken is reported in its line; nothing is raised.
    """
    facts: dict[str, Callable[[], str]] = {
        "gac_sj": lambda: f"{gac_sj.__version__}, commit {commit()}",
        "python": lambda: f"{platform.python_version()}, {platform.platform()}",
        "torch": lambda: f"{torch.__version__}, {_cuda(torch.version.cuda)}",
        **{name: partial(_package, name) for name in ("torchvision", "timm", "spikingjelly", "numpy")},
        "cupy": _cupy,
        "triton": lambda: _package("triton"),
        "CPU": lambda: f"{device_name(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}",
        "bytes": lambda: int8.why_not() or "products of bytes run on oneDNN (gac_sj.quantize)",
        "allocator": allocator,
        "GPU": _gpus,
        "driver": lambda: collect_env.get_nvidia_driver_version(collect_env.run) or "none found (nvidia-smi)",
        "compiler": lambda: str(compiler()),
        "kernels in": _kernels,
        "GAC_SJ_OPS": _asked,
    }
    width = max(map(len, facts))
    lines = [f"{name:{width}}  {_found(find)}" for name, find in facts.items()]
    return "\n".join([*lines, "", *_table()])


def _found(find: Callable[[], str | None]) -> str | None:
    try:
        return find()
    except Exception as error:  # a broken installation raises whatever its libraries raise
        return f"cannot be determined ({_sentence(error)})"


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {first_sentence(error)}" if str(error).strip() else type(error).__name__


def _package(name: str) -> str:
    """The version of a package, which is imported: it may be installed and broken."""
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return "not installed"
        return f"cannot be imported ({_sentence(error)})"
    except Exception as error:
        return f"cannot be imported ({_sentence(error)})"
    return getattr(module, "__version__", None) or metadata.version(name)


def _cupy() -> str:
    found = _package("cupy")
    if "cupy" not in sys.modules:
        return found
    version = sys.modules["cupy"].cuda.runtime.runtimeGetVersion()
    return f"{found}, {_cuda(f'{version // 1000}.{version % 1000 // 10}')}"


def _cuda(version: str | None) -> str:
    return f"for CUDA {version}" if version else "without CUDA"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none that PyTorch can use"
    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return "; ".join(
        f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}" for gpu in gpus
    )


def _kernels() -> str:
    compiler()  # without one there are none
    folder, reason = cache_folder()
    if reason:
        return f"{folder}, for this process only ({reason})"
    refused = [f"{path.name} {reason}" for path in sorted(folder.glob("*-*.so")) if (reason := why_not_loaded(path))]
    return f"{folder}; {len(refused)} not loaded but built again, such as {refused[0]}" if refused else str(folder)


def _asked() -> str:
    asked = os.environ.get("GAC_SJ_OPS")
    if not asked:
        return "not set: operators take the first available path"
    return asked if asked in PATHS else f"{asked}, an error: the paths are {', '.join(PATHS)}"


def _table() -> Iterator[str]:
    """A line for each operator, device and path that belongs to the device or is asked for."""
    line = "{:10} {:6} {:13} {}".format
    yield line("operator", "device", "path", "state")
    for operator in OPERATORS:
        for device, paths in ORDER.items():
            found = {type(surrogate).__name__: _states(operator, device, surrogate) for surrogate in SURROGATES}
            for path in PATHS:
                if path not in paths and path != os.environ.get("GAC_SJ_OPS"):
                    continue
                surrogates: dict[str, list[str]] = {}
                for name, states in found.items():
                    surrogates.setdefault(states[path], []).append(name)
                texts = [f"{', '.join(names)}: {state}" for state, names in surrogates.items()]
                yield line(operator, device, path, "; ".join(surrogates if len(surrogates) == 1 else texts))


def _states(operator: str, device: str, surrogate: Callable) -> dict[str, str]:
    """What :func:`gac_sj.ops.dispatch.choose` makes of each path."""
    _, no_derivative = cuda_derivative(surrogate)
    _, no_equivalent = spikingjelly_equivalent(surrogate)

    def reason(path: str) -> str | None:
        return why_not(path, operator, device, no_derivative=no_derivative, no_equivalent=no_equivalent)

    reasons = {path: _found(partial(reason, path)) for path in PATHS}
    asked = os.environ.get("GAC_SJ_OPS")
    if asked == "spikingjelly" and operator != "lif":
        asked = "torch"
    taken = asked or next(path for path, reason in reasons.items() if reason is None)
    states = {path: reason or "available" for path, reason in reasons.items()}
    if taken in PATHS:
        states[taken] = f"asked for, an error: {reasons[taken]}" if reasons[taken] else "used"
    return states
