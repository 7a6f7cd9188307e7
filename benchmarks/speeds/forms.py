"""Precision, memory format and the like of a whole network, as names joined by "+": ``bfloat16+channels_last``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["PLAIN", "Form", "form"]

PLAIN = "float32"
#: The order in which the parts of a name are joined.
_PARTS = (PLAIN, "bfloat16", "channels_last", "compile", "cuda_graph")


@dataclass(frozen=True)
class Form:
    """How a network runs.

    Args:
        name: parts of :data:`_PARTS` joined by "+".
    """

    name: str

    def has(self, part: str) -> bool:
        """Whether the name has a part."""
        return part in self.name.split("+")

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype of autocast, or None."""
        return torch.bfloat16 if self.has("bfloat16") else None

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of weights and images."""
        return torch.channels_last if self.has("channels_last") else torch.contiguous_format

    def apply(self, module: nn.Module) -> nn.Module:
        """Put a module into this form; parameters of four dimensions have memory formats.

        It does not call the package for that, because an earlier revision has it elsewhere.

        Args:
            module: changed in place.
        """
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=self.memory_format)
        return torch.compile(module, dynamic=False) if self.has("compile") else module


def form(name: str) -> Form:
    """The form of a name, for a parser.

    Args:
        name: its parts in any order.

    Raises:
        argparse.ArgumentTypeError: an unknown part.
    """
    parts = name.split("+")
    if unknown := [part for part in parts if part not in _PARTS]:
        raise argparse.ArgumentTypeError(
            f"must be a form, got {unknown[0]!r}; choose from {', '.join(_PARTS)}, joined by +."
        )
    return Form("+".join(part for part in _PARTS if part in parts and (part != PLAIN or len({*parts}) == 1)))
