"""Which layers of a network are quantised: the record, and how it is put into effect and taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.nn.folding import fold_in_place
from gac_sj.nn.memory_format import use_channels_last
from gac_sj.nn.neuron import LIFNode, is_plain_lif
from gac_sj.nn.quantized import quantized_layer, why_not_quantized
from gac_sj.ops import int8

__all__ = ["QUANTIZATION", "Quantization", "output_floats", "quantization_of", "quantize_in_place", "rebuild"]

#: The attribute of a network that holds its record, and the entry in the config of its weights.
QUANTIZATION = "quantization"


@dataclass(frozen=True)
class Quantization:
    """What :func:`gac_sj.quantize` made of a network.

    Args:
        bits: of a weight, 8 or 16.
        layers: names of the layers with integer weights.
        byte_neurons: names of the neurons that write bytes, because only such layers read them.
        float_layers: names of the other layers behind the encoder that multiply, and why they stay as they are; empty
            in a network that was loaded.
        path: "onednn", or "torch" for the definition.
        reason: why the path is not "onednn"; None if it is, or if "torch" was asked for.
    """

    bits: int
    layers: tuple[str, ...]
    byte_neurons: tuple[str, ...]
    float_layers: Mapping[str, str] = field(default_factory=dict)
    path: str = "onednn"
    reason: str | None = None

    def as_config(self) -> dict[str, Any]:
        """What rebuilds it on another machine, as plain values."""
        return {"bits": self.bits, "layers": list(self.layers), "byte_neurons": list(self.byte_neurons)}


def quantization_of(model: nn.Module) -> Quantization | None:
    """What a network's layers with integer weights are; None if it has none.

    Args:
        model: any network.
    """
    return getattr(model, QUANTIZATION, None)


def quantize_in_place(
    model: nn.Module, bits: int, layers: list[str], byte_neurons: list[str], fast: bool = True
) -> None:
    """Give layers integer weights, and let neurons write bytes.

    Args:
        model: a network without BatchNorms that can be folded (:func:`gac_sj.nn.folding.fold_in_place`).
        bits: of a weight, 8 or 16.
        layers: names of convolutions and linear layers.
        byte_neurons: names of neurons.
        fast: whether layers may run on oneDNN.

    Raises:
        UsageError: there is no such layer or neuron, or it cannot be quantised.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    for name in [*layers, *byte_neurons]:
        wrong = "there is no such module" if name not in named else None
        if wrong is None and name in byte_neurons and not is_plain_lif(named[name]):
            wrong = f"{type(named[name]).__name__} is not gac_sj.LIFNode"
        if wrong or (name in layers and (wrong := why_not_quantized(named[name]))):
            raise UsageError(f"{type(model).__name__} cannot be quantised at {name} ({wrong})")
    for original in {id(named[name]): named[name] for name in layers}.values():
        replacement = quantized_layer(original, bits, fast)
        for name, module in named.items():
            if module is original:  # under each of its names
                model.set_submodule(name, replacement)
    for name in byte_neurons:
        node = named[name]
        assert isinstance(node, LIFNode)
        node.outputs_bytes = True


def rebuild(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Make a network of floats the one that a config describes, up to the values of its weights.

    Args:
        model: in evaluation mode, changed in place.
        config: :meth:`Quantization.as_config`.

    Raises:
        UsageError: the config does not fit the network.
    """
    model.requires_grad_(False)
    fold_in_place(model)
    use_channels_last(model)
    quantize_in_place(model, config["bits"], config["layers"], config["byte_neurons"])
    reason = int8.why_not()
    path = "torch" if reason else "onednn"
    names = tuple(config["layers"]), tuple(config["byte_neurons"])
    model.quantization = Quantization(config["bits"], *names, {}, path, reason)  # type: ignore[assignment]


def output_floats(model: nn.Module) -> None:
    """Let every neuron write floats, for what leaves PyTorch.

    Args:
        model: changed in place.
    """
    for module in model.modules():
        if isinstance(module, LIFNode):
            module.outputs_bytes = False
