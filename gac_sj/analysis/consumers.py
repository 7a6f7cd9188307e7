"""Who reads the spikes of a neuron: which neurons may write bytes because only layers that take bytes read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gac_sj.analysis.operations import is_view, name_of
from gac_sj.nn.byte_pool import is_max_pool
from gac_sj.nn.neuron import is_neuron, outputs_spikes

__all__ = ["trace_consumers"]

#: Operations whose output is bytes for bytes, besides views.
_COPIES = {"clone", "unsafe_view"}


class trace_consumers(TorchDispatchMode):
    """Record who reads the spikes of a network's neurons in all calls inside the block.

    Views, copies and max-pools of spikes are spikes themselves. Layers and max-pools are known by their calls;
    everything else that reads spikes, such as a mean or a hook, is seen where PyTorch dispatches it.

    Args:
        model: any network.
        readers: the layers that take bytes.
    """

    def __init__(self, model: nn.Module, readers: Iterable[nn.Module]):
        super().__init__()
        self._neurons = {name: module for name, module in model.named_modules() if is_neuron(module)}
        self._can_write = {name for name, module in self._neurons.items() if outputs_spikes(module)}
        self._readers = list(readers)
        self._max_pools = {name: module for name, module in model.named_modules() if is_max_pool(module)}
        self._pooled: dict[str, set[str]] = {name: set() for name in self._max_pools}  # whose spikes they read
        self._reading = 0
        self._read: set[str] = set()
        self._fed: list[nn.Module] = []
        self._others: set[str] = set()
        self._sources: dict[int, set[str]] = {}  # address of the memory -> names of the neurons that wrote it
        self._kept: list[Tensor] = []  # so that addresses stay theirs

    def __enter__(self) -> trace_consumers:
        self._hooks = [
            module.register_forward_hook(self._wrote(name), prepend=True) for name, module in self._neurons.items()
        ]
        for name, pool in self._max_pools.items():
            enter, leave = self._pool(name)
            self._hooks += [pool.register_forward_pre_hook(enter), pool.register_forward_hook(leave)]
        for module in self._readers:
            self._hooks += [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._kept.clear()
        super().__exit__(*error)

    def found(self, output: Any) -> tuple[list[str], list[str]]:
        """Names of the neurons that only the given layers read, and at least one of them, and of the max-pools between.

        Args:
            output: of the network: whoever gets it reads it too.
        """
        for tensor in tree_leaves(output):
            self._others |= self._written_by(tensor)
        neurons = self._read & self._can_write - self._others
        pools = [name for name, sources in self._pooled.items() if sources & neurons]
        return [name for name in self._neurons if name in neurons], pools

    def is_fed(self, reader: nn.Module) -> bool:
        """Whether a layer reads the output of a neuron.

        Args:
            reader: one of the given layers.
        """
        return any(module is reader for module in self._fed)

    def _wrote(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._follow(output, {name})
            else:
                self._others.add(name)

        return hook

    def _pool(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._reading += 1

        def leave(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            self._reading -= 1
            names: set[str] = set().union(*map(self._written_by, tree_leaves(inputs)))
            self._pooled[name] |= names
            self._follow(output, names)

        return enter, leave

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._reading += 1
        if names := set().union(*map(self._written_by, tree_leaves(inputs))):
            self._read |= names
            self._fed.append(module)

    def _leave(self, *_: Any) -> None:
        self._reading -= 1

    def _follow(self, spikes: Tensor, names: set[str]) -> None:
        self._kept.append(spikes)
        self._sources[spikes.untyped_storage().data_ptr()] = names

    def _written_by(self, value: Any) -> set[str]:
        return self._sources.get(value.untyped_storage().data_ptr(), set()) if isinstance(value, Tensor) else set()

    def __torch_dispatch__(
        self,
        function: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if self._reading or is_view(function):
            return result
        names = set().union(*map(self._written_by, tree_leaves((args, kwargs))))
        if names and name_of(function) in _COPIES:
            self._follow(result, names)
        else:
            self._others |= names
        return result
