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
from dataclasses import dataclass, field
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gac_sj.analysis.factors import Factor, Operands, Products, convolution, elementwise, matrix
from gac_sj.analysis.operations import CONTRACTIONS, COUNTED, DEFINITIONS, FREE, is_view, name_of
from gac_sj.encoders.base import Encoder
from gac_sj.nn.membrane_attention import MembraneAttention
from gac_sj.nn.neuron import is_neuron
from gac_sj.nn.quantized import Quantized

__all__ = ["LayerProducts", "NeuronCalls", "trace_products"]


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
        operands: what its operations read and wrote.
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
    operands: Operands = field(default_factory=Operands)

    @property
    def title(self) -> str:
        """The name in tables, which tells a gate from its module's other products."""
        return f"{self.name} (gate)" if self.elementwise else self.name

    @property
    def rate(self) -> float:
        """Fraction of the input that is not zero: the firing rate if the input is spikes."""
        return self.nonzero / self.elements


@dataclass
class NeuronCalls:
    """What a neuron did in all calls so far.

    Args:
        name: name of the module.
        elements: neurons times images times steps.
        active: how often a neuron spiked.
        frames: images times steps.
    """

    name: str
    elements: int = 0
    active: int = 0
    frames: int = 0


class trace_products(TorchDispatchMode):
    """Record the products of all calls inside the block.

    The context manager returns the list of :class:`LayerProducts`, in the order in which the layers were first used.
    ``neurons`` has the :class:`NeuronCalls` by name, and ``uncounted`` the operations that may multiply and are not
    counted, as "layer (operation)".

    Args:
        model: a network, whose modules name the layers.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.layers: list[LayerProducts] = []
        self.neurons: dict[str, NeuronCalls] = {}
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
                module.register_forward_hook(self._leave(name, hides, is_neuron(module))),
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

    def _leave(self, name: str, hides: bool, spikes: bool) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            if spikes and self._hidden == 1 and isinstance(output, Tensor):  # in no other neuron
                calls = self.neurons.setdefault(name, NeuronCalls(name))
                calls.elements += output.numel()
                calls.active += int(output.count_nonzero())
                calls.frames += output.shape[: 2 if getattr(module, "step_mode", "s") == "m" else 1].numel()
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
                self._record(True, elementwise(self._factor(x), self._factor(y)), 0)
        elif known and name == "convolution":
            x, weight, _, *rest = args
            kernel = Factor(weight, True, weight.data_ptr() if self._is_weight(weight) else 0)
            self._record(False, convolution(Factor(x), kernel, *rest), len(x))
        elif known and name in CONTRACTIONS:
            x, y = map(self._factor, args[CONTRACTIONS[name] :][:2])
            if not (x.is_weight and y.is_weight):
                self._record(False, matrix(x, y), 0)
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

    def _record(self, is_elementwise: bool, operation: Products, frames: int) -> None:
        layer = self._layer(is_elementwise)
        layer.dense += operation.dense
        layer.acs += operation.pairs if operation.spikes else 0
        layer.macs += 0 if operation.spikes else operation.pairs
        layer.spikes &= operation.spikes
        layer.nonzero += sum(factor.active for factor in operation.rated)
        layer.elements += sum(factor.elements for factor in operation.rated)
        layer.frames += frames
        layer.operands.add(operation)

    def _factor(self, x: Tensor) -> Factor:
        return Factor(x, True, x.data_ptr()) if self._is_weight(x) else Factor(x)

    def _is_weight(self, x: Tensor) -> bool:
        return x.untyped_storage().data_ptr() in self._weights

    def _is_scale(self, x: Tensor) -> bool:
        return x.dim() == 0 or (x.numel() == 1 and self._is_weight(x))


def _hides_products(module: nn.Module) -> bool:
    """Whether products inside a module do not count: BatchNorm, and neurons, also SpikingJelly's non-spiking ones."""
    homes = [cls.__module__ for cls in type(module).__mro__]
    return isinstance(module, _BatchNorm) or any(home.startswith(neuron.__name__) for home in homes)
