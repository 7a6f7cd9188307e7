"""Every multiplication of a forward pass, layer by layer: how many, and whether the input is spikes or other numbers.

Convolutions, matrix products and elementwise products of two tensors are counted where PyTorch dispatches them, so
functional calls and attention count as modules do, on every device and with both SpikingJelly releases. Operations that
consist of such products (recurrent layers, norms, quotients, squares) count as these
(:mod:`gac_sj.analysis.operations`); those that may multiply and are unknown are named. What happens inside neurons and
BatchNorm does not count, nor do products with a Python number or a one-element weight, which are scales and fold away,
products of weights alone, and functions of single numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gac_sj.analysis.operations import CONTRACTIONS, COUNTED, DEFINITIONS, FREE, is_view, name_of
from gac_sj.encoders.base import Encoder
from gac_sj.nn.membrane_attention import MembraneAttention
from gac_sj.nn.neuron import is_neuron
from gac_sj.nn.quantized import Quantized

__all__ = ["LayerProducts", "trace_products"]

aten = torch.ops.aten


@dataclass
class LayerProducts:
    """The products of one layer over all calls so far.

    Args:
        name: name of the module.
        elementwise: whether these are its elementwise products (gates), or its convolutions and matrix products.
        place: "encoder" (of this package) or "after" it; in a network without one "before" or "after" its first neuron.
        attention: whether it belongs to an encoder's attention, or to one of :mod:`gac_sj.nn.membrane_attention`.
        dense: multiply-accumulates, zeros included.
        macs: multiply-accumulates without a zero factor, where no factor is a spike.
        acs: accumulations that spikes cause: the pairs of a spike and what it is multiplied by.
        nonzero: number of input elements that are not zero.
        elements: number of input elements.
        spikes: whether every input contained only zeros and ones.
        frames: images times steps that were the input of its convolutions.
    """

    name: str
    elementwise: bool
    place: str
    attention: bool
    dense: int = 0
    macs: int = 0
    acs: int = 0
    nonzero: int = 0
    elements: int = 0
    spikes: bool = True
    frames: int = 0

    @property
    def rate(self) -> float:
        """Fraction of the input that is not zero: the firing rate if the input is spikes."""
        return self.nonzero / self.elements


class trace_products(TorchDispatchMode):
    """Record the products of all calls inside the block.

    The context manager returns the list of :class:`LayerProducts`, in the order in which the layers were first used.
    ``uncounted`` has the operations that may multiply and are not counted, as "layer (operation)".

    Args:
        model: a network, whose modules name the layers.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.layers: list[LayerProducts] = []
        self.uncounted: dict[str, None] = {}  # a set that keeps the order
        self._found: dict[tuple[str, bool, str], LayerProducts] = {}
        self._running: list[str] = []
        self._hidden = 0
        self._has_spiked = False

    def __enter__(self) -> list[LayerProducts]:
        named = dict(self.model.named_modules())
        rounded = [module.float_weight() for module in named.values() if isinstance(module, Quantized)]
        weights = (*self.model.parameters(), *rounded)
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        encoders = {f"{name}." if name else "": module for name, module in named.items() if isinstance(module, Encoder)}
        self._encoders = list(encoders)
        self._attentions = [f"{prefix}{part}." for prefix in encoders for part in encoders[prefix].attention_names]
        self._attentions += [f"{name}." for name, module in named.items() if isinstance(module, MembraneAttention)]
        self._hooks = []
        for name, module in named.items():
            hides = _hides_products(module)
            self._hooks += [
                module.register_forward_pre_hook(self._enter(name, hides), prepend=True),
                module.register_forward_hook(self._leave(hides, is_neuron(module))),
            ]
        super().__enter__()
        return self.layers

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)

    def _enter(self, name: str, hides: bool) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            if not self._running:
                self._has_spiked = False  # a new pass
            self._running.append(name)
            self._hidden += hides

        return enter

    def _leave(self, hides: bool, spikes: bool) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._running.pop()
            self._hidden -= hides
            self._has_spiked |= spikes

        return leave

    def __torch_dispatch__(
        self,
        function: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name, kwargs = name_of(function), kwargs or {}
        if self._hidden or name in FREE or is_view(function):
            return function(*args, **kwargs)
        if name not in COUNTED:
            with self._again():
                result = function.decompose(*args, **kwargs)  # below autograd PyTorch does not do it by itself
            if result is not NotImplemented:
                return result
        self._count(name, function, args, kwargs)  # before the call, which may overwrite a factor
        return function(*args, **kwargs)

    @contextmanager
    def _again(self) -> Iterator[None]:
        """Operations inside the block, which stands in :meth:`__torch_dispatch__`, pass it too."""
        super().__enter__()
        try:
            with torch.no_grad():
                yield
        finally:
            super().__exit__(None, None, None)

    def _count(self, name: str, function: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        known = all(x.layout == torch.strided and not x.is_complex() for x in tensors)
        if known and all(map(self._is_weight, tensors)):
            return  # it can be computed beforehand, or has no factors
        if known and name == "mul":
            x, y = args[:2]
            if isinstance(y, Tensor) and not (self._is_scale(x) or self._is_scale(y)):
                self._record(True, _elementwise(x, y, tuple(f for f in (x, y) if not self._is_weight(f))), 0)
        elif known and name == "convolution":
            x, weight, _, *rest = args
            self._record(False, _convolution(x, weight, *rest), len(x))
        elif known and name in CONTRACTIONS:
            x, y = args[CONTRACTIONS[name] :][:2]
            x_is_weight, y_is_weight = self._is_weight(x), self._is_weight(y)
            if not (x_is_weight and y_is_weight):
                self._record(False, _matrix(x, y, x_is_weight, y_is_weight), 0)
        elif not (known and name in DEFINITIONS and self._run(DEFINITIONS[name], function, args, kwargs)):
            self.uncounted[f"{self._name} ({name})"] = None

    def _run(
        self, definition: Callable[..., Any], function: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> bool:
        """Count what a definition does; whether it defines the operation for these arguments."""
        named = {argument.name: value for argument, value in zip(function._schema.arguments, args)}
        with self._again():
            return definition(**named, **kwargs) is not False

    @property
    def _name(self) -> str:
        """The module that runs."""
        return (self._running[-1] if self._running else "") or "(network)"

    def _layer(self, elementwise: bool) -> LayerProducts:
        name = self._running[-1] if self._running else ""
        key = name, elementwise, self._place(f"{name}.")
        if key not in self._found:
            attention = f"{name}.".startswith(tuple(self._attentions))
            self._found[key] = LayerProducts(name or "(network)", *key[1:], attention)
            self.layers.append(self._found[key])
        return self._found[key]

    def _place(self, name: str) -> str:
        if name.startswith(tuple(self._encoders)):
            return "encoder"
        return "after" if self._has_spiked or self._encoders else "before"

    def _record(self, elementwise: bool, operation: _Operation, frames: int) -> None:
        layer = self._layer(elementwise)
        layer.dense += operation.dense
        layer.acs += operation.pairs if operation.spikes else 0
        layer.macs += 0 if operation.spikes else operation.pairs
        layer.spikes &= operation.spikes
        layer.nonzero += sum(int(factor.count_nonzero()) for factor in operation.inputs)
        layer.elements += sum(factor.numel() for factor in operation.inputs)
        layer.frames += frames

    def _is_weight(self, x: Tensor) -> bool:
        return x.untyped_storage().data_ptr() in self._weights

    def _is_scale(self, x: Tensor) -> bool:
        return x.dim() == 0 or (x.numel() == 1 and self._is_weight(x))


@dataclass(frozen=True)
class _Operation:
    """One operation.

    Args:
        dense: multiply-accumulates, zeros included.
        pairs: pairs of factors that count.
        inputs: the factors that are inputs.
        spikes: whether a factor is spikes.
    """

    dense: int
    pairs: int
    inputs: tuple[Tensor, ...]
    spikes: bool


def _elementwise(x: Tensor, y: Tensor, inputs: tuple[Tensor, ...]) -> _Operation:
    spikes = tuple(filter(_is_binary, inputs))
    pairs = torch.logical_and(*torch.broadcast_tensors(x != 0, y != 0))
    return _Operation(pairs.numel(), int(pairs.count_nonzero()), spikes or inputs, bool(spikes))


def _convolution(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> _Operation:
    """Each nonzero input counts once for every output that it reaches, which at borders are fewer."""
    channels_out = weight.shape[1] if transposed else weight.shape[0] // groups  # of one group
    per_group = (x != 0).float().unflatten(1, (groups, -1)).sum(2)
    ones = torch.ones(groups, 1, *weight.shape[2:], device=x.device)
    reached = aten.convolution(per_group, ones, None, stride, padding, dilation, transposed, output_padding, groups)
    positions = per_group[:, :1] if transposed else reached[:, :1]  # of the whole kernel
    dense = positions.numel() * weight[0, 0].numel() * x.shape[1] * channels_out
    return _Operation(dense, channels_out * int(reached.sum(dtype=torch.float64)), (x,), _is_binary(x))


def _matrix(x: Tensor, y: Tensor, x_is_weight: bool, y_is_weight: bool) -> _Operation:
    """The product ``[..., m, k] @ [..., k, n]``; a weight counts as if none of its numbers were zero."""
    inputs = tuple(factor for factor, weight in ((x, x_is_weight), (y, y_is_weight)) if not weight)
    x_spikes, y_spikes = not x_is_weight and _is_binary(x), not y_is_weight and _is_binary(y)
    if y_is_weight or (x_spikes and not y_spikes and not x_is_weight):
        pairs = int(x.count_nonzero()) * y.shape[-1]
    elif x_is_weight or (y_spikes and not x_spikes):
        pairs = int(y.count_nonzero()) * x.shape[-2]
    else:
        pairs = int(((x != 0).double() @ (y != 0).double()).sum())
    return _Operation(x.numel() * y.shape[-1], pairs, inputs, x_spikes or y_spikes)


def _is_binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _hides_products(module: nn.Module) -> bool:
    """Whether products inside a module do not count: BatchNorm, and neurons, also SpikingJelly's non-spiking ones."""
    homes = [cls.__module__ for cls in type(module).__mro__]
    return isinstance(module, _BatchNorm) or any(home.startswith(neuron.__name__) for home in homes)
