"""The source code of an operator's kernels: macros, the shared ``.cuh`` files, the operator's ``kernel.cu``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from gac_sj.ops.neuron import Derivative, LIFDynamics, neuron_macros

__all__ = ["ELEMENTS", "PROBE", "BuildError", "Macros", "read", "source"]

Macros = tuple[tuple[str, str | int], ...]

#: The names of tensor elements in the kernels.
ELEMENTS = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16"}

# The shared files of an operator's kernels, where they are not those of a neuron.
_SHARED = {
    "channel_gate": ("elements.cuh", "neuron.cuh", "channels.cuh"),
    "norm_lif": ("elements.cuh", "neuron.cuh", "channels.cuh"),
    "norm_add": ("elements.cuh", "channels.cuh"),
}
_PROBE_NEURON = LIFDynamics(tau=2.0, decay_input=False, v_threshold=1.0, v_reset=0.0, detach_reset=False)
#: Macros of a small kernel, to find out whether a compiler works.
PROBE: Macros = (
    *(("T", 1), ("LANES", 1), ("ELEMENT", "float")),
    *neuron_macros(_PROBE_NEURON, Derivative(strict=False, expression="0.0f", numbers=[])),
)


class BuildError(RuntimeError):
    """Kernels cannot be built or loaded. The message is the reason, without a full stop."""


@cache
def read(name: str) -> str:
    """The content of a text file of this folder.

    Args:
        name: path of the file, relative to the folder.
    """
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


@cache
def source(operator: str, macros: Macros) -> str:
    """The source of an operator's kernels, for a CUDA compiler, or with ``host.h`` in front for a C++ compiler.

    Args:
        operator: name of the operator's folder.
        macros: names and values of the macros that the kernels use.
    """
    defines = "".join(f"#define {name} {value}\n" for name, value in macros)
    return defines + "".join(
        map(read, (*_SHARED.get(operator, ("elements.cuh", "neuron.cuh")), f"{operator}/kernel.cu"))
    )
