"""Keep spikes for the backward pass as one byte each."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["spikes_as_bytes"]


class spikes_as_bytes(saved_tensors_hooks):
    """Context in which autograd saves ``spikes``, or views of them, as booleans: exact, a quarter of float32.

    Args:
        spikes: zeros and ones of any type, the input of the operations in the context.
    """

    def __init__(self, spikes: Tensor):
        memory = spikes.untyped_storage().data_ptr()

        def pack(saved: Tensor) -> Tensor | tuple[Tensor]:
            return (saved.bool(),) if saved.untyped_storage().data_ptr() == memory else saved

        def unpack(packed: Tensor | tuple[Tensor]) -> Tensor:
            return packed if isinstance(packed, Tensor) else packed[0].to(spikes_dtype)

        spikes_dtype = spikes.dtype
        super().__init__(pack, unpack)
