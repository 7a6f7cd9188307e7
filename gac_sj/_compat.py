"""The only file that knows that SpikingJelly has two APIs (2.0.0, 0.0.0.0.14). It detects features, not versions."""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import nn


def cfunction() -> ModuleType:
    """The CUDA C building blocks of the release that generates CuPy kernels (0.0.0.0.14).

    Raises:
        NotImplementedError: the installed release has no CuPy backend.
    """
    try:
        return importlib.import_module("spikingjelly.activation_based.auto_cuda.cfunction")
    except ModuleNotFoundError as error:
        raise NotImplementedError(
            "The installed SpikingJelly generates no CuPy kernels, so nothing asks for cuda_codes; "
            "it exists for SpikingJelly 0.0.0.0.14."
        ) from error


def has_other_backend(node: nn.Module) -> bool:
    """Whether a neuron of 0.0.0.0.14 was told to run SpikingJelly's CuPy kernels; 2.0.0 has no such choice."""
    return getattr(node, "backend", "torch") != "torch"
