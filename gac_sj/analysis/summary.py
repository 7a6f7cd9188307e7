"""A table of a network: parameters, arithmetic, output shapes and firing rates, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gac_sj.analysis.firing_rates import firing_rates
from gac_sj.analysis.modes import in_mode

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True)
class Summary:
    """Parameters and arithmetic of a network and, per neuron layer, the output shape and the firing rate.

    ``macs`` counts the multiplications and additions of convolutions and linear layers for one image and all time
    steps, as they run: the stem of a static image once, and every spike as if it were a number. Printing the summary
    gives the table.
    """

    name: str
    parameters: int
    encoder_parameters: int
    macs: int
    shapes: dict[str, tuple[int, ...]]
    firing_rates: dict[str, float]

    def __str__(self) -> str:
        width = max([len("neuron"), *map(len, self.firing_rates)])
        lines = [
            f"{self.name}: {self.parameters:,} parameters, {self.encoder_parameters:,} of them in the encoder",
            f"{self.macs / 1e6:,.1f} million multiply-accumulates per image (dense, all time steps)",
            f"{'neuron':<{width}}  {'output [T, N, C, H, W]':<24}  firing rate",
        ]
        for name, rate in self.firing_rates.items():
            silent = "  silent" if rate == 0 else ""
            lines.append(f"{name:<{width}}  {list(self.shapes[name])!s:<24}  {rate:.4f}{silent}")
        return "\n".join(lines)


@torch.no_grad()
def summarize(model: nn.Module, images: Tensor | None = None) -> Summary:
    """Run a network once as it is, with batch statistics as in training, and report its firing rates.

    At initialisation this shows layers that never fire, which train slowly (the published encoder has one).
    Weights and running statistics are left as they were.

    Args:
        model: a network of :mod:`gac_sj.models`.
        images: ``[N, C, H, W]`` or a sequence; None draws 8 images of the model's input size, standard normal as
            normalised pixels are, or uniform in [0, 1] where the encoder needs that.
    """
    if images is None:
        size = (8, model.encoder.in_channels, *model.pretrained_cfg["input_size"][1:])
        generator = torch.Generator().manual_seed(0)
        draw = torch.rand if model.encoder.needs_unit_range else torch.randn
        parameter = next(model.parameters())
        images = draw(size, generator=generator).to(parameter.device, parameter.dtype)
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: tuple(output.shape)})
        )
        for name, module in model.named_modules()
    ]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with in_mode(model, training=True), firing_rates(model) as rates, FlopCounterMode(display=False) as arithmetic:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return Summary(
        name=model._get_name(),
        parameters=sum(p.numel() for p in model.parameters()),
        encoder_parameters=sum(p.numel() for p in model.encoder.parameters()),
        macs=arithmetic.get_total_flops() // (2 * images.shape[-4]),
        shapes=shapes,
        firing_rates=rates,
    )
