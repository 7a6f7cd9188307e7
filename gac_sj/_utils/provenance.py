"""Provenance of a result: commit, versions, device."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

__all__ = ["commit", "device_name", "versions"]

_REPOSITORY = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The commit of this checkout, with "-dirty" if tracked files differ from it; "unknown" outside git."""
    if not (_REPOSITORY / ".git").exists():  # an installed package may lie inside somebody else's repository
        return "unknown"
    try:
        run = ["git", "-C", str(_REPOSITORY), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> str:
    """Versions of Python and of the packages that a result depends on, as "name version" separated by semicolons."""
    names = ("torch", "torchvision", "timm", "numpy", "spikingjelly")
    return "; ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])


def device_name(device: torch.device) -> str:
    """The product name of a device, and the number of threads in use for a CPU.

    Args:
        device: a CPU or CUDA device.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "CPU"
    return f"{model}, {torch.get_num_threads()} threads"
