"""Convolutions and linear layers that receive spikes and have integer weights, for inference.

A row of weights, which makes one output channel, is ``scale * number`` with integer numbers: 8 bits, or 16 bits as two
planes of 8, ``number = 256 * high + low``. Spikes are zeros and ones, so activations are exact and only weights are
rounded. There are two paths:

- the definition: PyTorch's float operation on the rounded weights. It has gradients of the input, runs on every device
  and is what exports, compiled code and counters of operations see;
- "onednn": oneDNN's products of unsigned and signed bytes with sums of 32 bits (:mod:`gac_sj.ops.int8`), one for each
  plane. It is taken where the input is bytes, or exactly representable as bytes.

oneDNN rounds once, from the integer sum to the output, so both agree up to the rounding of the float sum. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gac_sj.ops import int8
from gac_sj.ops.dispatch import has_dispatch_mode, is_transformed
from gac_sj.ops.shortcuts import does_only

__all__ = ["BITS", "Quantized", "QuantizedConv", "QuantizedLinear", "quantized_layer", "why_not_quantized"]

#: Bits of a weight, and the largest absolute value of its integer: with low in [-128, 127], 127 or 256 * 127 + 127.
BITS = {8: 127, 16: 32639}

_CONVOLUTIONS: dict[type, Callable[..., Tensor]] = {
    nn.Conv1d: torch.nn.functional.conv1d,
    nn.Conv2d: torch.nn.functional.conv2d,
}


class Quantized(nn.Module):
    """A layer whose weights are integers with one scale for each output channel. It has no parameters, only buffers.

    Args:
        original: the layer whose weights are rounded.
        bits: 8 or 16.
        fast: whether it may run on oneDNN.
    """

    #: int8 ``[out, *]``; with 16 bits the high plane
    weight: Tensor
    #: int8 ``[out, *]``; None with 8 bits
    low: Tensor | None
    #: float32 ``[out]``
    scale: Tensor
    #: ``[out]``, in the type of the output outside of autocast
    bias: Tensor
    # computed from them when they are first needed
    _packed: Any
    _float: Tensor | None

    def __init__(self, original: nn.Conv1d | nn.Conv2d | nn.Linear, bits: int, fast: bool = True):
        super().__init__()
        self.bits, self.fast = bits, fast
        weight = original.weight.detach()
        bias = weight.new_zeros(len(weight)) if original.bias is None else original.bias.detach().clone()
        planes, scale = _round(weight, bits)
        self.register_buffer("weight", planes[0])
        self.register_buffer("low", planes[1] if bits == 16 else None)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self._forget()

    def rounded_weight(self) -> Tensor:
        """The weights, ``[out, *]``, in the type of the bias."""
        high, *low = (int8.dequantize(plane, scale) for plane, scale in self._planes())
        return (high + low[0] if low else high).to(self.bias.dtype)

    def float_weight(self) -> Tensor:
        """:meth:`rounded_weight`, computed once, except in an export, which contains the integers."""
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            return self.rounded_weight()
        if self._float is None:
            self._float = self.rounded_weight()
        return self._float

    def forward(self, x: Tensor) -> Tensor:
        if self._may_run_on_bytes(x):
            spikes = x.to(torch.uint8)
            if spikes is x or bool((spikes == x).all()):  # otherwise these are no bytes
                dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.bias.dtype
                return self._on_bytes(spikes, dtype)
        return self._definition(x.to(self.bias.dtype) if x.dtype == torch.uint8 else x)

    def _may_run_on_bytes(self, x: Tensor) -> bool:
        return (
            self.fast
            and not (torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing())
            and (x.device.type == "cpu" and self.weight.device.type == "cpu" and self.bias.dtype != torch.float64)
            and not (torch.is_grad_enabled() and x.requires_grad)
            and not (has_dispatch_mode() or is_transformed())
            and x.numel() > 0
            and int8.why_not() is None
        )

    def _definition(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{self._get_name()} must implement _definition.")

    def _on_bytes(self, spikes: Tensor, dtype: torch.dtype) -> Tensor:
        """The output in one of the types of oneDNN, for bytes on the CPU."""
        raise NotImplementedError(f"{self._get_name()} must implement _on_bytes.")

    def _planes(self) -> list[tuple[Tensor, Tensor]]:
        """The weights and the scales of each plane."""
        scale = self.scale.float()
        return [(self.weight, scale)] if self.low is None else [(self.weight, 256.0 * scale), (self.low, scale)]

    def _forget(self) -> None:
        """Drop what was computed from the weights."""
        self._packed = None
        self._float = None

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._forget()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None, "_float": None}


class QuantizedConv(Quantized):
    """A convolution of one or two dimensions with zero padding.

    Args:
        original: the convolution.
        bits: 8 or 16.
        fast: whether it may run on oneDNN.

    Shapes:
        ``[*, C, H, W]`` or ``[*, C, L]`` with any number of leading dimensions, as SpikingJelly's layers and PyTorch's.
    """

    def __init__(self, original: nn.Conv1d | nn.Conv2d, bits: int, fast: bool = True):
        super().__init__(original, bits, fast)
        self.stride, self.dilation, self.groups = original.stride, original.dilation, original.groups
        self.padding = _padding(original)
        self._conv = _CONVOLUTIONS[nn.Conv1d if isinstance(original, nn.Conv1d) else nn.Conv2d]

    def extra_repr(self) -> str:
        return (
            f"{list(self.weight.shape)}, bits={self.bits}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, groups={self.groups}"
        )

    def _definition(self, x: Tensor) -> Tensor:
        dims = self.weight.dim() - 1  # with the channels
        settings = self.stride, self.padding, self.dilation, self.groups
        y = self._conv(x.flatten(0, -dims - 1) if x.dim() > dims else x, self.float_weight(), self.bias, *settings)
        return y.reshape(*x.shape[:-dims], *y.shape[-dims:])

    def _on_bytes(self, spikes: Tensor, dtype: torch.dtype) -> Tensor:
        dims = self.weight.dim() - 1
        x = spikes.flatten(0, -dims - 1) if spikes.dim() > dims else spikes.unsqueeze(0)
        if self._packed is None:
            self._packed = int8.Convolution(
                self._planes(), self.bias, self.stride, self.padding, self.dilation, self.groups, x.shape
            )
        y = self._packed(x, dtype)
        return y.unflatten(0, spikes.shape[:-dims]) if spikes.dim() > dims else y.squeeze(0)


class QuantizedLinear(Quantized):
    """A linear layer.

    Args:
        original: the linear layer.
        bits: 8 or 16.
        fast: whether it may run on oneDNN.

    Shapes:
        ``[*, in] -> [*, out]``.
    """

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, bits={self.bits}"

    def _definition(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.float_weight(), self.bias)

    def _on_bytes(self, spikes: Tensor, dtype: torch.dtype) -> Tensor:
        x = spikes.reshape(-1, spikes.shape[-1])
        if self._packed is None:
            self._packed = int8.Linear(self._planes(), self.bias, x.shape)
        return self._packed(x, dtype).reshape(*spikes.shape[:-1], -1)


def quantized_layer(original: nn.Module, bits: int, fast: bool = True) -> Quantized:
    """The counterpart of a layer with integer weights.

    Args:
        original: a layer for which :func:`why_not_quantized` has no reason.
        bits: 8 or 16.
        fast: whether it may run on oneDNN.
    """
    cls = QuantizedLinear if isinstance(original, nn.Linear) else QuantizedConv
    return cls(original, bits, fast).train(original.training)  # type: ignore[arg-type]


def why_not_quantized(module: nn.Module) -> str | None:
    """Why a layer cannot get integer weights; None if it can.

    Args:
        module: a convolution, a linear layer or any other module that multiplies.
    """
    known = next((cls for cls in (*_CONVOLUTIONS, nn.Linear) if isinstance(module, cls)), None)
    if known is None:
        return f"{type(module).__name__} is neither a Conv1d, a Conv2d nor a Linear"
    step_mode = next(
        (cls for name in ("Conv1d", "Conv2d", "Linear") if isinstance(module, cls := getattr(layer, name))), known
    )
    methods = () if known is nn.Linear else ("_conv_forward",)
    if is_parametrized(module) or not does_only(module, step_mode, *methods):
        return "it has a hook, a parametrisation or another forward"
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    values = [tensor for tensor in (weight, bias) if isinstance(tensor, Tensor) and not tensor.is_meta]
    if not all(bool(tensor.isfinite().all()) for tensor in values):
        return "a weight is not finite"
    if known is nn.Linear:
        return None
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    if module.padding_mode != "zeros":
        return f"its padding is {module.padding_mode!r}, not zeros"
    return "its padding differs between the sides" if None in _paddings(module) else None


def _paddings(conv: nn.Conv1d | nn.Conv2d) -> tuple[int | None, ...]:
    """The padding of each dimension on both sides; None where they differ."""
    if conv.padding == "valid":
        return tuple(0 for _ in conv.kernel_size)
    if conv.padding == "same":
        both = [dilation * (size - 1) for dilation, size in zip(conv.dilation, conv.kernel_size)]
        return tuple(None if total % 2 else total // 2 for total in both)
    return tuple(int(side) for side in conv.padding)


def _padding(conv: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    found = _paddings(conv)
    return tuple(side for side in found if side is not None)


def _round(weight: Tensor, bits: int) -> tuple[list[Tensor], Tensor]:
    """The planes of rounded weights, the high one first, and the scales of their rows, float32."""
    rows, largest = weight.double(), BITS[bits]
    scale = (rows.flatten(1).abs().amax(1) / largest).float()
    scale = torch.where(scale > 0, scale, 1.0)  # of a row of zeros
    numbers = (rows / scale.double().reshape(-1, *[1] * (rows.dim() - 1))).round().clamp(-largest, largest)
    if bits == 8:
        return [numbers.to(torch.int8)], scale
    high = ((numbers + 128) / 256).floor()
    return [high.to(torch.int8), (numbers - 256 * high).to(torch.int8)], scale
