"""The two surrogate functions of the published codes, with the interface of SpikingJelly's.

On SpikingJelly 0.0.0.0.14 ``cuda_codes`` makes them work with its ``backend="cupy"``; newer releases do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from gac_sj._compat import cfunction
from gac_sj._utils.errors import UsageError
from gac_sj.ops.dispatch import has_dispatch_mode, is_transformed

__all__ = ["Rectangle", "Triangle"]


class _Step(torch.autograd.Function):
    """The step; a subclass has the derivative. Those with ``jvp`` are apart, because torch.compile refuses them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, alpha: float, strict: bool) -> Tensor:
        compare = torch.gt if strict else torch.ge
        if _is_observed(x):
            return compare(x, 0).to(x.dtype)  # as SpikingJelly computes and counts it
        return compare(x, 0, out=torch.empty_like(x))  # on a CPU a new tensor costs more than the arithmetic

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.alpha, _ = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)


class _TriangleStep(_Step):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _chain(_triangle, ctx, grad), None, None


class _TriangleStepWithJvp(_TriangleStep):
    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _chain(_triangle, ctx, tangent)


class _RectangleStep(_Step):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _chain(_rectangle, ctx, grad), None, None


class _RectangleStepWithJvp(_RectangleStep):
    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _chain(_rectangle, ctx, tangent)


def _triangle(x: Tensor, alpha: float) -> Tensor:
    return x.abs().mul_(-(alpha**2)).add_(alpha).clamp_min_(0)


def _rectangle(x: Tensor, alpha: float) -> Tensor:
    distance, width = x.abs(), 0.5 / alpha
    inside = (distance < width).to(x.dtype) if _is_observed(x) else distance.lt_(width)
    return inside.mul_(alpha)


def _chain(derivative: Callable[[Tensor, float], Tensor], ctx: Any, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    slope = derivative(x, ctx.alpha)
    return slope * grad if _is_observed(grad) else slope.mul_(grad)


def _is_observed(x: Tensor) -> bool:
    """Whether a compiler, a transform or a dispatch mode looks at the operations on a tensor."""
    return torch.compiler.is_compiling() or is_transformed(x) or has_dispatch_mode()


def _step(plain: type[_Step], with_jvp: type[_Step]) -> type[_Step]:
    if not is_transformed():
        return plain
    levels = torch._C._functorch.get_interpreter_stack() or ()
    if sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels) > 1:
        # torch runs the rule without the outer tangent: the second derivative would lack a part
        raise NotImplementedError(
            "Surrogate functions have no forward-mode derivative of a forward-mode derivative; use reverse mode for "
            "one of the two, as torch.func.hessian does."
        )
    return with_jvp


class _Surrogate(surrogate.SurrogateFunctionBase):
    """The arguments of both surrogate functions, and the hook of SpikingJelly 0.0.0.0.14's CuPy backend."""

    def __init__(self, alpha: float = 1.0, spiking: bool = True, strict: bool = False):
        if not alpha > 0:
            raise UsageError(f"must be above 0, got {alpha}", argument="alpha")
        super().__init__(alpha=float(alpha), spiking=spiking)
        self.strict = strict

    def forward(self, x: Tensor) -> Tensor:
        if self.spiking:
            return self.spiking_function(x, self.alpha, self.strict)
        return self.primitive_function(x, self.alpha)

    def cuda_codes(self, y: str, x: str, dtype: str) -> str:
        """CUDA C statements that define ``y``, the derivative at ``x``; SpikingJelly 0.0.0.0.14 calls this method.

        Args:
            y: name of the derivative.
            x: name of the potential minus the threshold.
            dtype: "float" or "half2".

        Raises:
            NotImplementedError: ``strict`` is set (SpikingJelly's kernels fire at the threshold), or the release has no
                CuPy backend.
        """
        if self.strict:
            raise NotImplementedError("SpikingJelly's CuPy kernels fire at the threshold; use strict=False with them.")
        return self._derivative_codes(y, x, dtype)

    def _derivative_codes(self, y: str, x: str, dtype: str) -> str:
        raise NotImplementedError


class Triangle(_Surrogate):
    """Heaviside step whose derivative is a triangle: ``max(0, alpha - alpha^2 |x|)``.

    With ``alpha=1`` it is the surrogate of the published CIFAR code (GAC, arXiv 2308.06582) and equals SpikingJelly's
    ``PiecewiseQuadratic(1.0)``. The area is 1 for every ``alpha``.

    Args:
        alpha: height of the triangle at the threshold; its half-width is ``1 / alpha`` (in units of the potential).
        spiking: False replaces the step by its smooth primitive, as in all surrogates of SpikingJelly.
        strict: True: a neuron fires above the threshold only, as in the published code; False: at the threshold too, as
            in SpikingJelly.

    Raises:
        UsageError: ``alpha`` is not positive.
    """

    @staticmethod
    def spiking_function(x: Tensor, alpha: float, strict: bool = False) -> Tensor:
        return _step(_TriangleStep, _TriangleStepWithJvp).apply(x, alpha, strict)

    @staticmethod
    def primitive_function(x: Tensor, alpha: float) -> Tensor:
        y = (alpha * x).clamp(-1.0, 1.0)
        return 0.5 + y - 0.5 * y * y.abs()

    def cuda_derivative(self) -> tuple[str, float, float]:
        """The derivative for the kernels of :mod:`gac_sj.ops`: a CUDA C expression of ``x``, ``a``, ``b``; a and b."""
        return "clamp_min(fabsf(x) * b + a, 0.0f)", self.alpha, -(self.alpha**2)

    def spikingjelly_equivalent(self) -> nn.Module:
        """The equal surrogate function of SpikingJelly, for its own kernels; with ``strict`` there is none: itself."""
        return self if self.strict else surrogate.PiecewiseQuadratic(alpha=self.alpha, spiking=self.spiking)

    def _derivative_codes(self, y: str, x: str, dtype: str) -> str:
        code, alpha = cfunction(), self.alpha
        slope = code.mul(None, code.constant(None, alpha**2, dtype), code.abs(None, x, dtype), dtype)
        height = code.sub(None, code.constant(None, alpha, dtype), slope, dtype)
        return code.maximum(z=y, x=code.constant(None, 0.0, dtype), y=height, dtype=dtype)


class Rectangle(_Surrogate):
    """Heaviside step whose derivative is a rectangle: ``alpha`` where ``|x| < 0.5 / alpha``, else 0.

    With ``alpha=1`` it is the surrogate of the published ImageNet code (GAC, MS-ResNet) and equals SpikingJelly 2.0.0's
    ``Rect(1.0)``. The area is 1 for every ``alpha``.

    Args:
        alpha: height of the rectangle; its half-width is ``0.5 / alpha`` (in units of the potential).
        spiking: False replaces the step by its smooth primitive, as in all surrogates of SpikingJelly.
        strict: True: a neuron fires above the threshold only, as in the published code; False: at the threshold too, as
            in SpikingJelly.

    Raises:
        UsageError: ``alpha`` is not positive.
    """

    @staticmethod
    def spiking_function(x: Tensor, alpha: float, strict: bool = False) -> Tensor:
        return _step(_RectangleStep, _RectangleStepWithJvp).apply(x, alpha, strict)

    @staticmethod
    def primitive_function(x: Tensor, alpha: float) -> Tensor:
        return (alpha * x + 0.5).clamp(0.0, 1.0)

    def cuda_derivative(self) -> tuple[str, float, float]:
        """The derivative for the kernels of :mod:`gac_sj.ops`: a CUDA C expression of ``x``, ``a``, ``b``; a and b."""
        return "fabsf(x) < b ? a : 0.0f", self.alpha, 0.5 / self.alpha

    def _derivative_codes(self, y: str, x: str, dtype: str) -> str:
        code, alpha = cfunction(), self.alpha
        inside = code.greater_than(None, code.constant(None, 0.5 / alpha, dtype), code.abs(None, x, dtype), dtype)
        return code.mul(z=y, x=code.constant(None, alpha, dtype), y=inside, dtype=dtype)
