"""The two surrogate functions of the published codes, in SpikingJelly's manner.

On SpikingJelly 0.0.0.0.14 ``cuda_codes`` lets its own ``backend="cupy"`` use them; newer releases do not ask for it.
"""

from __future__ import annotations

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from gac_sj._compat import cfunction

__all__ = ["Rectangle", "Triangle"]


def _step(x: Tensor, strict: bool) -> Tensor:
    compare = torch.gt if strict else torch.ge
    return compare(x, 0, out=torch.empty_like(x))


class _TriangleStep(torch.autograd.Function):
    @staticmethod
    def forward(x, alpha, strict):
        return _step(x, strict)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.alpha, _ = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        # in place: on a CPU a new tensor costs more than the arithmetic
        return x.abs().mul_(-(ctx.alpha**2)).add_(ctx.alpha).clamp_min_(0).mul_(grad), None, None


class _RectangleStep(torch.autograd.Function):
    @staticmethod
    def forward(x, alpha, strict):
        return _step(x, strict)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.alpha, _ = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        inside = x.abs().lt_(0.5 / ctx.alpha)
        return inside.mul_(ctx.alpha).mul_(grad), None, None


class _Surrogate(surrogate.SurrogateFunctionBase):
    """Arguments and CUDA text that the two share."""

    def __init__(self, alpha: float = 1.0, spiking: bool = True, strict: bool = False):
        if not alpha > 0:
            raise ValueError(f"alpha is {alpha}; the height of a surrogate's derivative must be above 0.")
        super().__init__(alpha=float(alpha), spiking=spiking)
        self.strict = strict

    def forward(self, x: Tensor) -> Tensor:
        if self.spiking:
            return self.spiking_function(x, self.alpha, self.strict)
        return self.primitive_function(x, self.alpha)

    def cuda_codes(self, y: str, x: str, dtype: str) -> str:
        """CUDA C statements that define ``y``, the derivative at ``x`` (asked for by SpikingJelly 0.0.0.0.14).

        Raises:
            NotImplementedError: ``strict`` (SpikingJelly's kernels fire at the threshold), or a release without CuPy.
        """
        if self.strict:
            raise NotImplementedError("SpikingJelly's CuPy kernels fire at the threshold; use strict=False with them.")
        return self._derivative_codes(y, x, dtype)


class Triangle(_Surrogate):
    """Heaviside step whose derivative is a triangle: ``max(0, alpha - alpha^2 |x|)``.

    With ``alpha=1`` the surrogate of the published CIFAR code (GAC, arXiv 2308.06582) and equal to SpikingJelly's
    ``PiecewiseQuadratic(1.0)``. The area is 1 for every ``alpha``.

    Args:
        alpha: height of the triangle at the threshold; its half-width is ``1 / alpha`` (in units of the potential).
        spiking: False replaces the step by its smooth primitive, as in all SpikingJelly surrogates.
        strict: True fires above the threshold only, as the published code does; False at it too, as SpikingJelly does.

    Raises:
        ValueError: ``alpha`` is not positive.
    """

    @staticmethod
    def spiking_function(x: Tensor, alpha: float, strict: bool = False) -> Tensor:
        return _TriangleStep.apply(x, alpha, strict)

    @staticmethod
    def primitive_function(x: Tensor, alpha: float) -> Tensor:
        y = (alpha * x).clamp(-1.0, 1.0)
        return 0.5 + y - 0.5 * y * y.abs()

    def cuda_derivative(self) -> tuple[str, float, float]:
        """The derivative for the kernels of :mod:`gac_sj.ops`: CUDA C of ``x``, ``a`` and ``b``, and these two."""
        return "clamp_min(fabsf(x) * b + a, 0.0f)", self.alpha, -(self.alpha**2)

    def stock_equivalent(self) -> nn.Module:
        """The surrogate function of SpikingJelly that is the same, for its own kernels; itself where ``strict``."""
        return self if self.strict else surrogate.PiecewiseQuadratic(alpha=self.alpha, spiking=self.spiking)

    def _derivative_codes(self, y: str, x: str, dtype: str) -> str:
        code, alpha = cfunction(), self.alpha
        slope = code.mul(None, code.constant(None, alpha**2, dtype), code.abs(None, x, dtype), dtype)
        height = code.sub(None, code.constant(None, alpha, dtype), slope, dtype)
        return code.maximum(z=y, x=code.constant(None, 0.0, dtype), y=height, dtype=dtype)


class Rectangle(_Surrogate):
    """Heaviside step whose derivative is a rectangle: ``alpha`` where ``|x| < 0.5 / alpha``, else 0.

    With ``alpha=1`` the surrogate of the published ImageNet code (GAC, MS-ResNet) and equal to SpikingJelly 2.0.0's
    ``Rect(1.0)``. The area is 1 for every ``alpha``.

    Args:
        alpha: height of the rectangle; its half-width is ``0.5 / alpha`` (in units of the potential).
        spiking: False replaces the step by its smooth primitive, as in all SpikingJelly surrogates.
        strict: True fires above the threshold only, as the published code does; False at it too, as SpikingJelly does.

    Raises:
        ValueError: ``alpha`` is not positive.
    """

    @staticmethod
    def spiking_function(x: Tensor, alpha: float, strict: bool = False) -> Tensor:
        return _RectangleStep.apply(x, alpha, strict)

    @staticmethod
    def primitive_function(x: Tensor, alpha: float) -> Tensor:
        return (alpha * x + 0.5).clamp(0.0, 1.0)

    def cuda_derivative(self) -> tuple[str, float, float]:
        """The derivative for the kernels of :mod:`gac_sj.ops`: CUDA C of ``x``, ``a`` and ``b``, and these two."""
        return "fabsf(x) < b ? a : 0.0f", self.alpha, 0.5 / self.alpha

    def _derivative_codes(self, y: str, x: str, dtype: str) -> str:
        code, alpha = cfunction(), self.alpha
        inside = code.greater_than(None, code.constant(None, 0.5 / alpha, dtype), code.abs(None, x, dtype), dtype)
        return code.mul(z=y, x=code.constant(None, alpha, dtype), y=inside, dtype=dtype)
