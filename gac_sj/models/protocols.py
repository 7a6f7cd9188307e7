"""What training, evaluation and benchmarks rely on in a network."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

__all__ = ["Network", "SequenceModel"]


class SequenceModel(Protocol):
    """A classifier whose logits can be read after every time step."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def forward_sequence(self, x: Tensor, /) -> Tensor:
        """Images ``[N, C, H, W]`` or frames ``[T, N, C, H, W]`` -> logits ``[T, N, classes]``."""


class Network(SequenceModel, Protocol):
    """A :class:`SequenceModel` that says how its images must be normalised and resized."""

    #: timm's description: at least ``mean``, ``std`` and ``crop_pct``
    pretrained_cfg: dict[str, Any]
