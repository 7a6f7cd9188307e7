"""What all exports need: a network in evaluation mode, an example that it takes, a file that can be written."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import write_atomically
from gac_sj.nn.neuron import is_neuron, reset_states
from gac_sj.nn.plif import ParametricLIFNode

__all__ = ["as_numbers", "check_writable", "import_extra", "run_example", "write"]


def import_extra(extra: str, *names: str) -> list[ModuleType]:
    """Import modules that belong to an extra of this package.

    Args:
        extra: name of the extra.
        names: names of the modules.

    Raises:
        UsageError: one of them is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UsageError(f"The export needs {error.name or extra}", f"pip install 'gac_sj[{extra}]'") from error


def run_example(model: nn.Module, example: Tensor) -> Any:
    """The output of a network for an example, from a reset state. The network is reset afterwards too.

    Args:
        model: any network in evaluation mode.
        example: an input of the network.

    Raises:
        UsageError: the network is in training mode, or does not take the example.
    """
    training = [name or "the network itself" for name, module in model.named_modules() if module.training]
    if training:
        raise UsageError(
            f"{type(model).__name__} is in training mode ({training[0]}), and exports hold the evaluation mode",
            "call eval()",
        )
    reset_states(model)
    try:
        with torch.no_grad():
            return model(example)
    except (RuntimeError, IndexError) as error:
        raise UsageError(
            f"must be a batch that {type(model).__name__} takes, got {example.dtype} of shape {list(example.shape)} on "
            f"{example.device} ({first_sentence(error)})",
            argument="example",
        ) from error
    finally:
        reset_states(model)


def as_numbers(network: nn.Module, *names: str) -> list[str]:
    """Replace tensors of one element among the neurons' parameters, such as a learnable tau, by numbers.

    Args:
        network: changed in place.
        names: of the parameters: "tau", "v_threshold", "v_reset".

    Returns:
        Names of the tensors with more elements, which stay.
    """
    more = []
    if "tau" in names:
        for path, module in list(network.named_modules()):
            if type(module) is ParametricLIFNode:
                network.set_submodule(path, module.fixed())
    for path, module in network.named_modules():
        for name in names if is_neuron(module) else ():
            held = {**vars(module), **dict(module.named_parameters()), **dict(module.named_buffers())}
            value = held.get(name)
            if isinstance(value, Tensor) and value.numel() > 1:
                more.append(f"{path}.{name}" if path else name)
            elif isinstance(value, Tensor):
                delattr(module, name)
                setattr(module, name, value.item())
    return more


def check_writable(path: str | os.PathLike[str]) -> Path:
    """The path of a file, once it is known to be writable, as far as that can be known before writing.

    Args:
        path: of the file, which need not exist.

    Raises:
        UsageError: the folder does not exist or cannot be written, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file", "add the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} for {path.name} does not exist", "create it")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"The folder {path.parent} for {path.name} cannot be written", "choose another folder")
    return path


def write(path: Path, content: bytes) -> None:
    """Write a whole file or nothing.

    Args:
        path: of the file.
        content: of the file.

    Raises:
        UsageError: the system refuses.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror})", "choose another path") from error
