"""The only file that knows that SpikingJelly has two APIs (2.0.0, 0.0.0.0.14). It detects features, not versions."""

from __future__ import annotations

import importlib
from types import ModuleType


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
