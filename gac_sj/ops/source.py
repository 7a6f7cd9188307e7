"""The text of an operator's kernels: macros, the shared ``.cuh`` files, the operator's ``kernel.cu``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

__all__ = ["ELEMENTS", "PROBE", "Macros", "neuron_macros", "read", "source"]

Macros = tuple[tuple[str, str | int], ...]

#: The names of tensor elements in the kernels.
ELEMENTS = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16"}


@cache
def read(name: str) -> str:
    """A text file of this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


@cache
def source(operator: str, macros: Macros) -> str:
    """The kernels of the folder ``operator`` with these macros, for a CUDA or (behind ``host.h``) a C++ compiler."""
    defines = "".join(f"#define {name} {value}\n" for name, value in macros)
    return defines + "".join(map(read, ("elements.cuh", "neuron.cuh", f"{operator}/kernel.cu")))


def neuron_macros(
    decay_input: bool = False,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    strict: bool = False,
    derivative: str = "0.0f",
) -> Macros:
    """What ``neuron.cuh`` needs to know at compile time."""
    return (
        ("DECAY_INPUT", int(decay_input)),
        ("SOFT_RESET", int(v_reset is None)),
        ("DETACH_RESET", int(detach_reset)),
        ("STRICT", int(strict)),
        ("DERIVATIVE", derivative),
    )


#: Macros of a small kernel that shows whether a compiler works.
PROBE: Macros = (("T", 1), ("LANES", 1), ("ELEMENT", "float"), *neuron_macros())
