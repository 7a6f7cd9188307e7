"""One pass of a module, forward alone or forward and backward, which is timed, checked or measured for memory."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["DTYPES", "FORWARD", "MODES", "TRAINING", "Captured", "Pass", "Variant"]

FORWARD, TRAINING = MODES = ("forward", "forward+backward")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Pass:
    """Inference (evaluation mode, no graph), or with ``grad`` the forward and backward pass of training.

    Args:
        module: takes one tensor and starts from a reset state.
        x: its input; it gets a gradient if it requires one.
        grad: gradient of the output, or None for inference.
        autocast: dtype of autocast, or None.
    """

    module: nn.Module
    x: Tensor
    grad: Tensor | None = None
    autocast: torch.dtype | None = None

    def __call__(self) -> Tensor:
        self.forget()
        output = self.forward()
        if self.grad is not None:
            output.backward(self.grad.to(output.dtype))
        return output

    def forward(self) -> Tensor:
        """Run the forward pass and return the output, in training with its graph."""
        training = self.grad is not None
        if self.module.training != training:
            self.module.train(training)
        autocast = torch.autocast(self.x.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.set_grad_enabled(training), autocast:
            return self.module(self.x)

    def forget(self) -> None:
        """Free the gradients."""
        self.module.zero_grad(set_to_none=True)
        self.x.grad = None

    def results(self) -> list[list[Tensor]]:
        """Run the pass and return the output; in training also the gradients (input first) and running statistics."""
        output = self().detach()
        if self.grad is None:
            return [[output.clone()]]
        inputs = [self.x] if self.x.requires_grad else []
        gradients = [tensor.grad.clone() for tensor in (*inputs, *self.module.parameters())]
        statistics = [buffer.clone() for buffer in self.module.buffers() if buffer.is_floating_point()]
        return [[output.clone()], gradients, statistics]


@dataclass
class Captured(Pass):
    """A pass as a CUDA graph, which launches all kernels at once; see :class:`Pass`."""

    def __post_init__(self) -> None:
        stream = torch.cuda.Stream(self.x.device)
        stream.wait_stream(torch.cuda.current_stream(self.x.device))
        with torch.cuda.stream(stream):  # the first calls build and choose kernels, which cannot be captured
            for _ in range(3):
                super().__call__()
        torch.cuda.current_stream(self.x.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = super().__call__()

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self._output


@dataclass(frozen=True)
class Variant:
    """One implementation of a computation.

    Args:
        module: takes one tensor and starts from a reset state.
        path: the path of its neurons (:mod:`gac_sj.ops.dispatch`).
        captured: whether its passes are CUDA graphs.
        channels_last: whether its images are in the memory format ``channels_last``.
    """

    module: nn.Module
    path: str = "torch"
    captured: bool = False
    channels_last: bool = False

    def on(self, x: Tensor, grad: Tensor | None = None, autocast: torch.dtype | None = None) -> Pass:
        """The pass that is timed.

        Args:
            x: the input.
            grad: gradient of the output, or None for inference.
            autocast: dtype of autocast, or None.
        """
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return (Captured if self.captured else Pass)(self.module, x, grad, autocast)

    def exactly(self, x: Tensor, grad: Tensor | None = None) -> Pass:
        """The same pass in float64, in which roundings do not flip spikes.

        Args:
            x: the input.
            grad: gradient of the output, or None for inference.
        """
        x64 = x.detach().double().requires_grad_(x.requires_grad)
        return Pass(copy.deepcopy(self.module).double(), x64, None if grad is None else grad.double())
