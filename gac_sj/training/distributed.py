"""The processes of a run, as torchrun starts them; a single process without it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gac_sj._utils.errors import UsageError

__all__ = ["DistributedContext", "distributed_context"]

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class DistributedContext:
    """This process and the other ones of a run.

    Args:
        rank: number of this process.
        size: number of processes.
        device: the device of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes.

        Args:
            values: of this process.
        """
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, value: int) -> int:
        """The largest value of all processes.

        Args:
            value: of this process.
        """
        return int(self._reduce(torch.tensor(value, device=self.device), dist.ReduceOp.MAX))

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank.

        Args:
            value: of this process.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first process's values into the tensors of all, in place.

        Args:
            tensors: of this process, in the same order in each.
        """
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def from_first(self, value: Any) -> Any:
        """The first process's value.

        Args:
            value: of this process.
        """
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, device=self.device)
        return values[0]

    def on_first(self, action: Callable[[], _Value]) -> _Value:
        """Do something in the first process; all processes return its value, or raise its error.

        Args:
            action: the other processes wait for it.

        Raises:
            UsageError: as the action does, and so for any ValueError or OSError.
        """
        value, error = None, None
        if self.is_first:
            try:
                value = action()
            except (ValueError, OSError) as raised:
                error = raised
        value, error = self.from_first((value, error))
        if error is not None:
            raise error
        return value

    @contextmanager
    def local_main_process_first(self) -> Iterator[None]:
        """The first process of each machine runs the block before the others, which find what it downloads."""
        leads = int(os.environ.get("LOCAL_RANK", 0)) == 0
        if self.size > 1 and not leads:
            dist.barrier()
        try:
            yield
        finally:
            if self.size > 1 and leads:
                dist.barrier()

    def _reduce(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values, operation)
        return values


@contextmanager
def distributed_context(device: str = "auto") -> Iterator[DistributedContext]:
    """Find the device, and join the processes that torchrun started, if any (NCCL with GPUs, gloo without).

    Args:
        device: "cpu", "cuda", "cuda:N", or "auto": the GPU if there is one; with torchrun the GPU of the local rank.

    Raises:
        UsageError: there is no such device.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device_type, _, index = device.partition(":")
    has_cuda = device_type == "cuda" and torch.cuda.is_available()
    count = torch.cuda.device_count() if has_cuda else int(device_type == "cpu")
    if device_type == "cuda" and not index:
        index = os.environ.get("LOCAL_RANK", "0")
    if not count or (index and not (index.isdecimal() and int(index) < count)):
        given = f"{device_type}:{index}" if index else device_type
        raise UsageError(
            f"must be a device of this machine, got {given!r}", "choose cpu, or auto for the GPU if there is one",
            argument="device",
        )  # fmt: skip
    own = torch.device(device_type, int(index)) if device_type == "cuda" else torch.device(device_type)
    if device_type == "cuda":
        torch.cuda.set_device(own)
    if size == 1:
        yield DistributedContext(rank, size, own)
        return
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield DistributedContext(rank, size, own)
    finally:
        dist.destroy_process_group()
