"""What a network takes, and generated inputs for a network without data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj.encoders.base import Encoder

__all__ = ["draw_inputs", "input_spec"]


def input_spec(model: nn.Module) -> tuple[Encoder, Mapping[str, Any]]:
    """The first encoder of a network and its ``pretrained_cfg``, which together say what the network takes.

    Args:
        model: a network of :mod:`gac_sj.models`, or another one with both.

    Raises:
        UsageError: the network has no encoder or no ``pretrained_cfg``.
    """
    encoder = next((module for module in model.modules() if isinstance(module, Encoder)), None)
    config: Mapping[str, Any] | None = getattr(model, "pretrained_cfg", None)
    if encoder is None or config is None:
        missing = "an encoder" if encoder is None else "a pretrained_cfg"
        raise UsageError(f"{type(model).__name__} does not say which inputs it takes, without {missing}", "pass images")
    return encoder, config


def draw_inputs(model: nn.Module, count: int) -> tuple[Tensor, str]:
    """Generate inputs that a network takes, the same at every call.

    Args:
        model: see :func:`input_spec`.
        count: number of inputs.

    Returns:
        The inputs, and a phrase that describes them. The inputs are images ``[count, C, H, W]``: standard normal, as
        normalised pixels are, or uniform in [0, 1] if the encoder needs that. For a network of two channels, which are
        the polarities of events, they are sequences of frames ``[T, count, 2, H, W]``.

    Raises:
        UsageError: the network has no encoder or no ``pretrained_cfg``.
    """
    encoder, config = input_spec(model)
    generator = torch.Generator().manual_seed(0)
    size = (count, encoder.in_channels, *config["input_size"][1:])
    if encoder.in_channels == 2:
        inputs = torch.full((encoder.T, *size), 0.1).bernoulli(generator=generator)
        description = "sequences of event frames (each pixel with a chance of 0.1)"
    elif encoder.needs_unit_range:
        inputs, description = torch.rand(size, generator=generator), "images (uniform in [0, 1])"
    else:
        inputs, description = torch.randn(size, generator=generator), "images (standard normal pixels)"
    parameter = next(model.parameters())
    return inputs.to(parameter.device, parameter.dtype), f"{count} generated {description}"
