"""A table of a network: parameters, arithmetic, output shapes and firing rates, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gac_sj.analysis.firing_rates import firing_rates
from gac_sj.analysis.inputs import draw_inputs
from gac_sj.analysis.modes import in_mode
from gac_sj.analysis.products import trace_products
from gac_sj.encoders.base import Encoder
from gac_sj.nn.neuron import reset_states

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True)
class Summary:
    """Parameters and arithmetic of a network and, for each neuron layer, the output shape and the firing rate.

    Printing the summary gives the table.

    Args:
        name: class of the network.
        parameters: number of parameters.
        encoder_parameters: number of parameters in the encoder.
        macs: multiply-accumulates of convolutions and matrix products for one image and all time steps, as they run:
            the stem of a static image once, and every spike as if it were any number.
        shapes: shape of the output of every module.
        firing_rates: firing rate of every neuron layer (:func:`gac_sj.analysis.firing_rates`).
        uncounted: operations that may multiply and are not among ``macs``, as "layer (operation)".
    """

    name: str
    parameters: int
    encoder_parameters: int
    macs: int
    shapes: dict[str, tuple[int, ...]]
    firing_rates: dict[str, float]
    uncounted: tuple[str, ...] = ()

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
        return "\n".join(lines + ([f"not counted: {', '.join(self.uncounted)}"] if self.uncounted else []))


@torch.no_grad()
def summarize(model: nn.Module, images: Tensor | None = None) -> Summary:
    """Run a network once as it is, with batch statistics as in training, and report its firing rates.

    At initialisation this shows layers that never fire, which train slowly (the published encoder has one).
    Weights and running statistics are not changed, and neurons are reset.

    Args:
        model: a network of :mod:`gac_sj.models`, or one changed by :func:`gac_sj.attach`; in step mode "m".
        images: ``[N, C, H, W]`` or a sequence; None generates 8 inputs (:func:`gac_sj.analysis.inputs.draw_inputs`),
            for networks of :mod:`gac_sj.models` only.

    Raises:
        UsageError: no images, and the network does not say which it takes.
    """
    if images is None:
        images, _ = draw_inputs(model, 8)
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: tuple(output.shape)})
        )
        for name, module in model.named_modules()
    ]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    products = trace_products(model)
    reset_states(model)
    try:
        with in_mode(model, training=True), firing_rates(model) as rates, products as layers:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
        reset_states(model)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return Summary(
        name=model._get_name(),
        parameters=sum(p.numel() for p in model.parameters()),
        encoder_parameters=sum(
            p.numel() for module in model.modules() if isinstance(module, Encoder) for p in module.parameters()
        ),
        macs=sum(layer.dense for layer in layers if not layer.elementwise) // images.shape[-4],
        shapes=shapes,
        firing_rates=rates,
        uncounted=tuple(products.uncounted),
    )
