"""What all exports need: a network in evaluation mode, an example that it takes, a file that can be written."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from gac_sj._utils.files import write_atomically
from gac_sj.nn.neuron import reset_states

__all__ = ["reason", "require", "run", "writable", "write"]


def reason(error: Exception) -> str:
    """The first sentence of an error of other packages, to stand in a sentence of ours."""
    return re.split(r"\. |\.?\n|\.$", str(error).strip(), maxsplit=1)[0]


def require(extra: str, *names: str) -> list[ModuleType]:
    """The modules of an extra.

    Raises:
        ValueError: one is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ValueError(f"The export needs {error.name or extra}; pip install 'gac_sj[{extra}]'.") from error


def run(model: nn.Module, example: Tensor) -> Tensor:
    """What ``model`` puts out for an example, from a reset state; it is left reset.

    Raises:
        ValueError: a network in training mode, or one that does not take the example.
    """
    training = [name or "the network itself" for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(
            f"{type(model).__name__} is in training mode ({training[0]}), and an export holds one mode; call eval()."
        )
    reset_states(model)
    try:
        with torch.no_grad():
            return model(example)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"{type(model).__name__} does not take the example of shape {list(example.shape)}, type {example.dtype} on "
            f"{example.device} ({reason(error)}); give a batch as the network takes it."
        ) from error
    finally:
        reset_states(model)


def writable(path: str | os.PathLike) -> Path:
    """The path of a file that can be made, as far as can be seen before the work.

    Raises:
        ValueError: there is no such folder, or one that must not be written; or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; an export needs a file; add its name.")
    if not path.parent.is_dir():
        raise ValueError(f"The folder {path.parent} does not exist, and {path.name} is to be written there; make it.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"The folder {path.parent} cannot be written, and {path.name} needs it; choose another one.")
    return path


def write(path: Path, content: bytes) -> None:
    """Write the whole file or nothing.

    Raises:
        ValueError: the system refuses.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
