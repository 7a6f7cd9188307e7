"""Which layers of a network are quantised: the record, and how it is put into effect and taken back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.nn.byte_pool import BytePool, is_max_pool
from gac_sj.nn.folding import fold_in_place
from gac_sj.nn.memory_format import use_channels_last
from gac_sj.nn.neuron import LIFNode, is_plain_lif
from gac_sj.nn.quantized import quantized_layer, why_not_quantized
from gac_sj.ops import int8

__all__ = [
    "QUANTIZATION", "Quantization", "output_floats", "quantization_of", "quantize_in_place", "rebuild", "use_bytes",
]  # fmt: skip

#: The attribute of a network that holds its record, and the entry in the config of its weights.
QUANTIZATION = "quantization"


@dataclass(frozen=True)
class Quantization:
    """What :func:`gac_sj.quantize` made of a network.

    Args:
        bits: of a weight, 8 or 16.
        layers: names of the layers with integer weights.
        byte_neurons: names of the neurons that write bytes on the path "onednn", because only such layers read them.
        byte_pools: names of the max-pools in between.
        float_layers: names of the other layers behind the encoder that multiply, and why they stay as they are; empty
            in a network that was loaded.
        path: "onednn", or "torch" for the definition.
        reason: why the path is not "onednn"; None if it is, or if "torch" was asked for.
    """

    bits: int
    layers: tuple[str, ...]
    byte_neurons: tuple[str, ...]
    byte_pools: tuple[str, ...]
    float_layers: Mapping[str, str] = field(default_factory=dict)
    path: str = "onednn"
    reason: str | None = None

    def as_config(self) -> dict[str, Any]:
        """What rebuilds it on another machine, as plain values."""
        names = {name: list(getattr(self, name)) for name in ("layers", "byte_neurons", "byte_pools")}
        return {"bits": self.bits} | names


def quantization_of(model: nn.Module) -> Quantization | None:
    """What a network's layers with integer weights are; None if it has none.

    Args:
        model: any network.
    """
    return getattr(model, QUANTIZATION, None)


def quantize_in_place(model: nn.Module, bits: int, layers: Iterable[str], fast: bool = True) -> None:
    """Give layers integer weights.

    Args:
        model: a network without BatchNorms that can be folded (:func:`gac_sj.nn.folding.fold_in_place`).
        bits: of a weight, 8 or 16.
        layers: names of convolutions and linear layers.
        fast: whether layers may run on oneDNN.

    Raises:
        UsageError: there is no such layer, or it cannot be quantised.
    """
    for original in _named(model, layers):
        if reason := why_not_quantized(original):
            raise UsageError(f"{type(model).__name__} cannot be quantised ({reason})")
        _replace(model, original, quantized_layer(original, bits, fast))


def use_bytes(model: nn.Module, neurons: Iterable[str], pools: Iterable[str]) -> None:
    """Let neurons write bytes, and max-pools take them.

    Args:
        model: changed in place.
        neurons: names of neurons.
        pools: names of max-pools.

    Raises:
        UsageError: there is no such module, or it is another one.
    """
    for node in _named(model, neurons):
        if not is_plain_lif(node):
            raise UsageError(f"{type(model).__name__} has a {type(node).__name__} where a LIFNode writes bytes")
        node.outputs_bytes = True
    for pool in _named(model, pools):
        if not is_max_pool(pool):
            raise UsageError(f"{type(model).__name__} has a {type(pool).__name__} where a max-pool takes bytes")
        _replace(model, pool, BytePool(pool).train(pool.training))


def _named(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    named = dict(model.named_modules())
    if missing := [name for name in names if name not in named]:
        raise UsageError(f"{type(model).__name__} has no module {missing[0]}, which was quantised")
    return [named[name] for name in names]


def _replace(model: nn.Module, original: nn.Module, replacement: nn.Module) -> None:
    """Put a module in the place of another one, under each of its names."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is original:
            model.set_submodule(name, replacement)


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
    bits, layers, neurons, pools = (config[key] for key in ("bits", "layers", "byte_neurons", "byte_pools"))
    quantize_in_place(model, bits, layers)
    reason = int8.why_not()
    if reason is None:
        use_bytes(model, neurons, pools)
    path = "torch" if reason else "onednn"
    record = Quantization(bits, tuple(layers), tuple(neurons), tuple(pools), {}, path, reason)
    model.quantization = record  # type: ignore[assignment]


def output_floats(model: nn.Module) -> None:
    """Let every neuron write floats, for what leaves PyTorch.

    Args:
        model: changed in place.
    """
    for module in model.modules():
        if isinstance(module, LIFNode):
            module.outputs_bytes = False
