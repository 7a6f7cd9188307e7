"""Products of unsigned and signed bytes with sums of 32 bits: oneDNN's, as PyTorch has them for CPUs.

They need instructions for such products: AVX512-VNNI, AVX-VNNI or AMX on x86, the dot product on Arm. Without them
oneDNN on x86 adds pairs of products in 16 bits, which saturate for large bytes. Spikes, zeros and ones, cannot reach
that (2 * 128 < 2^15), but it is not faster than floats either. On a GPU PyTorch has a matrix product of bytes
(``torch._int_mm``) and no convolution; nothing here uses it.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Convolution", "Linear", "dequantize", "dequantize_definition", "why_not"]

#: Flags in /proc/cpuinfo, on x86 and on Arm.
_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
#: Output types of oneDNN; others are converted.
_TYPES = (torch.float32, torch.bfloat16)


def dequantize_definition(numbers: Tensor, scale: Tensor) -> Tensor:
    """Integers as floats, ``scale * numbers``.

    Args:
        numbers: ``[out, *]``, int8.
        scale: of each row, ``[out]``, float32.
    """
    return scale.reshape(-1, *[1] * (numbers.dim() - 1)) * numbers.to(scale.dtype)


#: :func:`dequantize_definition` as one operator, ``torch.ops.gac_sj.dequantize``, so that ONNX keeps the integers.
dequantize = torch.library.custom_op("gac_sj::dequantize", dequantize_definition, mutates_args=())
dequantize.register_fake(dequantize_definition)


class Convolution:
    """A convolution of bytes with planes of signed bytes, each packed once in oneDNN's own layout.

    Args:
        planes: weights ``[out, in / groups, *]``, int8, and scales ``[out]`` of each plane; their products are added.
        bias: ``[out]``.
        stride: of every dimension.
        padding: of every dimension, with zeros on both sides.
        dilation: of every dimension.
        groups: number of groups.
        shape: of the inputs, which decides the layout; others work too.
    """

    def __init__(
        self,
        planes: Sequence[tuple[Tensor, Tensor]],
        bias: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        shape: Sequence[int],
    ):
        self._flat = planes[0][0].dim() == 3  # a signal is an image of one line
        if self._flat:
            stride, padding, dilation, shape = (1, *stride), (0, *padding), (1, *dilation), (*shape[:-1], 1, shape[-1])
        self._settings = [list(stride), list(padding), list(dilation), groups]
        self._bias = bias.float()
        self._zeros = torch.zeros(len(bias), dtype=torch.int32)
        self._planes = []
        for weight, scale in planes:
            weight = weight.unsqueeze(2) if self._flat else weight
            packed = torch.ops.onednn.qconv_prepack(weight, scale, 1.0, 0, *self._settings, list(shape))
            self._planes.append((packed, scale))

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The output in another type.

        Args:
            x: bytes ``[N, in, *]``.
            dtype: of the output.
        """
        x = x.unsqueeze(2) if self._flat else x
        run = torch.ops.onednn.qconv2d_pointwise
        (packed, scale), *further = self._planes
        own = dtype if dtype in _TYPES and not further else torch.float32  # a sum of planes is in float32
        y = run(
            x, 1.0, 0, packed, scale, self._zeros, self._bias, *self._settings, 1.0, 0, own, "none", [], ""
        )  # fmt: skip
        for packed, scale in further:
            y = run.binary(
                x, 1.0, 0, packed, scale, self._zeros, y, None, *self._settings, 1.0, 0, own, 1.0, 0, "sum", 1.0,
                None, [], None,
            )  # fmt: skip
        return (y.squeeze(2) if self._flat else y).to(dtype)


class Linear:
    """A product of bytes with planes of signed bytes.

    Args:
        planes: weights ``[out, in]``, int8, and scales ``[out]`` of each plane; their products are added.
        bias: ``[out]``.
        shape: of the inputs, which decides the layout; others work too.
    """

    def __init__(self, planes: Sequence[tuple[Tensor, Tensor]], bias: Tensor, shape: Sequence[int]):
        self._bias = bias.float()
        self._zeros = torch.zeros(len(bias), dtype=torch.int32)
        self._planes = [(torch.ops.onednn.qlinear_prepack(weight, list(shape)), scale) for weight, scale in planes]

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The output in another type.

        Args:
            x: bytes ``[N, in]``.
            dtype: of the output.
        """
        y = None
        for packed, scale in self._planes:
            bias = self._bias if y is None else None
            product = torch.ops.onednn.qlinear_pointwise(
                x, 1.0, 0, packed, scale, self._zeros, bias, 1.0, 0, torch.float32, "none", [], ""
            )
            y = product if y is None else y.add_(product)
        assert y is not None  # there is a plane
        return y.to(dtype)


@cache
def why_not() -> str | None:
    """Why this machine does not run products of bytes; None if it does."""
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch has no oneDNN"
    if not _has_instructions():
        return (
            f"the CPU ({platform.machine()}) has no instructions for products of bytes (VNNI, AMX or Arm's dot product)"
        )
    try:
        weight, x = torch.arange(-16, 16, dtype=torch.int8).reshape(2, 4, 2, 2), torch.ones(1, 4, 3, 3).byte()
        scale, bias = torch.tensor([0.5, 2.0]), torch.tensor([1.0, -1.0])
        planes = [(weight, 256.0 * scale), (weight, scale)]
        found = Convolution(planes, bias, [1, 1], [1, 1], [1, 1], 1, x.shape)(x, torch.float32)
        flat = weight.flatten(1)
        product = Linear([(flat, scale)], bias, (1, 16))(torch.ones(1, 16).byte(), torch.float32)
    except (AttributeError, RuntimeError) as error:
        return f"PyTorch {torch.__version__} cannot run oneDNN's operators on bytes ({str(error).splitlines()[0]})"
    numbers = weight.float() * scale.reshape(2, 1, 1, 1)
    expected = torch.nn.functional.conv2d(x.float(), 257.0 * numbers, bias, padding=1)
    if torch.equal(found, expected) and torch.equal(product[0], numbers.flatten(1).sum(1) + bias):
        return None
    return "oneDNN computes something else for bytes"


def _has_instructions() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux; not public, and a PyTorch without them says no
        names = ("_is_vnni_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in names)
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":")[1].split()}
    return bool(flags & _FLAGS)
