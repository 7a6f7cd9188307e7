"""The only file that knows that SpikingJelly has two APIs (2.0.0, 0.0.0.0.14). It detects features, not versions."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from spikingjelly.activation_based import functional, layer
from torch import nn

from gac_sj._utils.errors import UsageError, first_sentence


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


def attention_layer(name: str, *arguments: Any, **options: Any) -> nn.Module:
    """Build one of SpikingJelly's attention layers.

    Args:
        name: of its class.
        arguments: of its class.
        options: keywords of its class.

    Raises:
        UsageError: the installed release's layer cannot be called (0.0.0.0.14: it is not a module), or it refuses the
            arguments.
    """
    cls = getattr(layer, name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UsageError(
            f"The installed SpikingJelly's {name} cannot be called", "pip install -U spikingjelly for release 2.0.0"
        )
    try:
        attention: Any = cls(*arguments, **options)
    except AssertionError as error:
        raise UsageError(f"SpikingJelly's {name} refuses its arguments: {first_sentence(error)}") from error
    attention.supported_step_mode = _both_step_modes  # it takes whole sequences in either mode of its network
    return attention


def _both_step_modes() -> tuple[str, ...]:
    return "s", "m"


def has_other_backend(node: nn.Module) -> bool:
    """Whether a neuron of 0.0.0.0.14 was told to run SpikingJelly's CuPy kernels; 2.0.0 has no such choice."""
    return getattr(node, "backend", "torch") != "torch"


def datasets_module(name: str) -> ModuleType:
    """Import a module of ``spikingjelly.datasets``.

    The package of 2.0.0 imports torchaudio for its speech sets, and torchaudio refuses some releases of torch. Only if
    that happens, an empty module replaces it during the import.

    Args:
        name: of the module, without the package.
    """
    name = f"spikingjelly.datasets.{name}"
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError):
        for loaded in [module for module in sys.modules if module.split(".")[0] == "torchaudio"]:
            del sys.modules[loaded]
        sys.modules["torchaudio"] = ModuleType("torchaudio")
        try:
            return importlib.import_module(name)
        finally:
            del sys.modules["torchaudio"]


def forget_reset_modules(network: nn.Module) -> None:
    """Make ``reset_net`` search a changed network again: 2.0.0 caches the list of its stateful modules."""
    getattr(functional, "invalidate_reset_cache", lambda network: None)(network)


def nir_exchange() -> ModuleType:
    """SpikingJelly's writer and reader of NIR graphs (2.0.0), which need the extra ``nir``.

    Raises:
        UsageError: the installed release has none, or the extra is missing.
    """
    try:
        return importlib.import_module("spikingjelly.activation_based.nir_exchange")
    except ModuleNotFoundError as error:
        if error.name in ("nir", "nirtorch"):
            raise UsageError(f"NIR needs {error.name}", "pip install 'gac_sj[nir]'") from error
        raise UsageError(
            "The installed SpikingJelly cannot exchange NIR graphs", "pip install -U spikingjelly for release 2.0.0"
        ) from error
