"""Inputs of a network for which there are no data at hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gac_sj.encoders.base import Encoder

__all__ = ["draw_inputs"]


def draw_inputs(model: nn.Module, count: int) -> tuple[Tensor, str]:
    """Inputs as a network takes them, the same at every call, and words that say what they are.

    Images ``[count, C, H, W]``, standard normal as normalised pixels are, or uniform in [0, 1] where the encoder needs
    that; for a network of two channels, which are the polarities of events, sequences of frames
    ``[T, count, 2, H, W]``.

    Raises:
        ValueError: no encoder, or no ``pretrained_cfg`` with the input size.
    """
    encoder = next((module for module in model.modules() if isinstance(module, Encoder)), None)
    if encoder is None or not hasattr(model, "pretrained_cfg"):
        raise ValueError(f"{type(model).__name__} does not say which inputs it takes (no encoder or size); give some.")
    generator = torch.Generator().manual_seed(0)
    size = (count, encoder.in_channels, *model.pretrained_cfg["input_size"][1:])
    if encoder.in_channels == 2:
        inputs = torch.full((encoder.T, *size), 0.1).bernoulli(generator=generator)
        words = "sequences of event frames (each pixel with a chance of 0.1)"
    elif encoder.needs_unit_range:
        inputs, words = torch.rand(size, generator=generator), "images (uniform in [0, 1])"
    else:
        inputs, words = torch.randn(size, generator=generator), "images (standard normal pixels)"
    parameter = next(model.parameters())
    return inputs.to(parameter.device, parameter.dtype), f"{count} generated {words}"
