"""A function of tensors as a CUDA graph: its kernels are recorded once, and then launched all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gac_sj._utils.errors import UsageError, first_sentence

__all__ = ["Captured", "cuda_graph"]

Outputs = tuple[Tensor, ...]
#: Calls of a function before it is recorded: they build kernels, and the states of an optimiser.
WARM_UP = 3


def cuda_graph(function: Callable[[], Outputs]) -> Callable[[], Outputs]:
    """Record a function without running it.

    Args:
        function: what it reads and writes must be tensors that stay where they are; its Python runs only here. Random
            numbers come from the generator of the device, which goes on from replay to replay.

    Returns:
        What runs it: the outputs are the same tensors each time.

    Raises:
        RuntimeError: it does what a CUDA graph cannot hold, such as to wait for the GPU.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()

    def replay() -> Outputs:
        graph.replay()
        return outputs

    return replay


class Captured:
    """A function that is called with tensors of equal shapes again and again, from the fourth call on as a CUDA graph.

    The first calls run the function itself on a stream of their own, as PyTorch asks for; the fourth one records it.
    Inputs are copied into tensors of the graph, outputs out of them.

    Args:
        function: takes and returns tensors; :func:`cuda_graph` says what it may do.
        record: makes a graph of a function without arguments.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        record: Callable[[Callable[[], Outputs]], Callable[[], Outputs]] = cuda_graph,
    ):
        self._function, self._record = function, record
        self._stream: torch.cuda.Stream | None = None
        self.forget()

    def forget(self) -> None:
        """Drop the graph, because tensors that it reads or writes were replaced; the next call is a first one."""
        self._calls = 0
        self._inputs: tuple[Tensor, ...] = ()
        self._replay: Callable[[], Outputs] | None = None
        self._failure: str | None = None

    def prepare(self, *inputs: Tensor) -> str | None:
        """Record the graph if it is time to.

        Args:
            inputs: of the next call.

        Returns:
            Why a call with them is impossible: the function cannot be captured, or the graph has other inputs; None if
            it is possible.
        """
        if self._calls >= WARM_UP and self._replay is None and self._failure is None:
            self._inputs = tuple(each.clone() for each in inputs)
            try:
                self._replay = self._record(lambda: self._function(*self._inputs))
            except RuntimeError as error:
                self._failure = f"it cannot be captured ({first_sentence(error)})"
        given, recorded = ([(list(each.shape), each.dtype) for each in some] for some in (inputs, self._inputs))
        if self._failure is not None or self._replay is None or given == recorded:
            return self._failure
        return f"a batch of {_listed(given)} does not fit the graph, which was captured with {_listed(recorded)}"

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Run the function.

        Args:
            inputs: on the device.

        Raises:
            UsageError: the function cannot be captured, or the graph was recorded with another shape or dtype.
        """
        if reason := self.prepare(*inputs):
            raise UsageError(f"{reason[0].upper()}{reason[1:]}", "call the function itself")
        if self._replay is None:
            self._calls += 1
            with self._warming_up(inputs[0].device):
                return self._function(*inputs)
        for kept, new in zip(self._inputs, inputs):
            kept.copy_(new)
        return tuple(each.clone() for each in self._replay())

    @contextmanager
    def _warming_up(self, device: torch.device) -> Iterator[None]:
        """Run the block on a stream of its own, after what the current one does and before what follows there."""
        if device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        current = torch.cuda.current_stream(device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)


def _listed(tensors: list[tuple[list[int], torch.dtype]]) -> str:
    return " and ".join(f"{shape} {str(dtype).removeprefix('torch.')}" for shape, dtype in tensors)
