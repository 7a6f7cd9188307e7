"""The surrogate functions against SpikingJelly's equals, their primitives and their CUDA text."""

import ctypes
import importlib.util
import pickle
import subprocess
from functools import partial

import pytest
import torch
from spikingjelly.activation_based import surrogate
from torch.func import jacfwd, jacrev

from gac_sj import LIFNode, Rectangle, Triangle

pytestmark = pytest.mark.all_parameters  # SpikingJelly computes here

BOTH = pytest.mark.parametrize("cls", [Triangle, Rectangle])
GENERATES_CUPY = importlib.util.find_spec("spikingjelly.activation_based.auto_cuda") is not None


def derivative(function, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_triangle_equals_spikingjellys_piecewise_quadratic(alpha):
    x = torch.linspace(-3, 3, 601)
    theirs = surrogate.PiecewiseQuadratic(alpha)
    assert torch.equal(Triangle(alpha)(x), theirs(x))
    torch.testing.assert_close(derivative(Triangle(alpha), x), derivative(theirs, x), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not hasattr(surrogate, "Rect"), reason="SpikingJelly 0.0.0.0.14 has no Rect to compare with")
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_rectangle_equals_spikingjellys_rect(alpha):
    x = torch.linspace(-3, 3, 601)
    assert torch.equal(Rectangle(alpha)(x), surrogate.Rect(alpha)(x))
    assert torch.equal(derivative(Rectangle(alpha), x), derivative(surrogate.Rect(alpha), x))


def test_published_derivatives():
    x = torch.tensor([-1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0])
    assert derivative(Triangle(), x).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0]
    assert derivative(Rectangle(), x).tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0]


@BOTH
@pytest.mark.parametrize("alpha", [0.7, 1.0, 3.0])
def test_the_primitive_has_the_surrogate_as_its_derivative(cls, alpha):
    x = torch.linspace(-2, 2, 1001, dtype=torch.float64)
    smooth = cls(alpha, spiking=False)
    assert smooth(torch.tensor([-50.0, 0.0, 50.0])).tolist() == [0, 0.5, 1]
    # apart from the two edges of the rectangle, where the derivative jumps
    inner = ((x.abs() - 0.5 / alpha).abs() > 1e-6) if cls is Rectangle else torch.ones_like(x, dtype=torch.bool)
    torch.testing.assert_close(derivative(smooth, x)[inner], derivative(cls(alpha), x)[inner], rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("strict,at_threshold", [(False, 1.0), (True, 0.0)])
def test_strict_decides_about_the_threshold_only(cls, strict, at_threshold):
    x = torch.tensor([-1e-30, 0.0, 1e-30])
    assert cls(strict=strict)(x).tolist() == [0.0, at_threshold, 1.0]
    assert derivative(cls(strict=strict), x)[1] == 1.0


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept(cls, dtype):
    x = torch.tensor([-0.25, 0.25], dtype=dtype)
    assert cls()(x).dtype == derivative(cls(), x).dtype == dtype


@BOTH
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_must_be_positive(cls, alpha):
    with pytest.raises(ValueError, match=rf"^alpha .* got {alpha}"):
        cls(alpha)


@BOTH
def test_pickling_keeps_the_settings(cls):
    copy = pickle.loads(pickle.dumps(cls(2.0, strict=True)))
    assert (copy.alpha, copy.strict, copy.spiking) == (2.0, True, True)


@pytest.mark.skipif(not GENERATES_CUPY, reason="only SpikingJelly 0.0.0.0.14 generates CuPy kernels")
@BOTH
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_cuda_text_computes_the_derivative(cls, alpha, tmp_path):
    """The text is C apart from fabsf and the like: a C compiler runs it on the CPU."""
    text = cls(alpha).cuda_codes(y="const float y", x="x", dtype="float")
    source = '#include <cmath>\nusing namespace std;\nextern "C" float f(float x) {' + text + "\nreturn y;}"
    (tmp_path / "f.cpp").write_text(source)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", tmp_path / "f.so", tmp_path / "f.cpp"], check=True)
    function = ctypes.CDLL(str(tmp_path / "f.so")).f
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    x = torch.linspace(-2, 2, 401)
    compiled = torch.tensor([function(value) for value in x.tolist()])
    torch.testing.assert_close(compiled, derivative(cls(alpha), x), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not GENERATES_CUPY, reason="only SpikingJelly 0.0.0.0.14 generates CuPy kernels")
@BOTH
@pytest.mark.parametrize("dtype", ["float", "half2"])
def test_spikingjellys_kernel_generator_accepts_it(cls, dtype):
    from spikingjelly.activation_based.auto_cuda import neuron_kernel

    kernel = neuron_kernel.LIFNodeBPTTKernel(
        decay_input=False, surrogate_function=cls().cuda_codes, hard_reset=True, detach_reset=False, dtype=dtype
    )
    assert "grad_s_to_h" in kernel.full_codes


@BOTH
def test_cuda_text_of_a_strict_surrogate_is_refused(cls):
    with pytest.raises(NotImplementedError, match="strict=False"):
        cls(strict=True).cuda_codes(y="const float y", x="x", dtype="float")


@pytest.mark.skipif(GENERATES_CUPY, reason="SpikingJelly 0.0.0.0.14 generates CuPy kernels")
@BOTH
def test_cuda_text_says_where_it_belongs(cls):
    with pytest.raises(NotImplementedError, match=r"0\.0\.0\.0\.14"):
        cls().cuda_codes(y="const float y", x="x", dtype="float")


def over(function):
    """A neuron over three steps with this surrogate function, for inputs ``[3, 5]``."""
    node = LIFNode(tau=1.7, surrogate_function=function)

    def run(x):
        node.reset()
        return node(x)

    return run


@BOTH
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("wrap", [lambda function: function, over], ids=["function", "neuron"])
class TestTorchFunc:
    """Every transform against loops of torch.autograd."""

    @staticmethod
    def build(cls, strict, wrap):
        return wrap(cls(alpha=1.3, strict=strict)), torch.randn(3, 5, dtype=torch.float64) * 0.4 + 0.5

    @staticmethod
    def jacobian(run, x):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        rows = [torch.autograd.grad(element, leaf, retain_graph=True)[0] for element in y.flatten()]
        return torch.stack(rows).view(*y.shape, *x.shape)

    def test_first_derivatives(self, cls, strict, wrap):
        run, x = self.build(cls, strict, wrap)
        expected, t = self.jacobian(run, x), torch.randn_like(x)
        assert expected.any()
        close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
        close(jacrev(run)(x), expected)
        close(jacfwd(run)(x), expected)
        close(torch.autograd.functional.jacobian(run, x, vectorize=True), expected)
        close(torch.func.grad(lambda x: run(x).sum())(x), expected.sum((0, 1)))
        close(torch.func.vjp(run, x)[1](t)[0], torch.einsum("abij,ab->ij", expected, t))
        spikes, tangent = torch.func.jvp(run, (x,), (t,))
        assert torch.equal(spikes, run(x))
        close(tangent, torch.einsum("abij,ij->ab", expected, t))
        with torch.autograd.forward_ad.dual_level():
            dual = run(torch.autograd.forward_ad.make_dual(x, t))
            close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)

    def test_vmap(self, cls, strict, wrap):
        run, x = self.build(cls, strict, wrap)
        batch = torch.stack([x, x + 0.3, -x], 1)
        expected = torch.stack([run(part) for part in batch.unbind(1)], 1)
        assert torch.equal(torch.func.vmap(run, 1, 1)(batch), expected)
        gradients = torch.func.vmap(torch.func.grad(lambda x: run(x).square().sum()), 1, 1)(batch)
        for found, part in zip(gradients.unbind(1), batch.unbind(1)):
            leaf = part.clone().requires_grad_()
            torch.testing.assert_close(found, torch.autograd.grad(run(leaf).square().sum(), leaf)[0])

    def test_second_derivatives(self, cls, strict, wrap):
        run, x = self.build(cls, strict, wrap)

        def loss(x):
            return (run(x) * x).square().sum()

        expected = torch.autograd.functional.hessian(loss, x)
        assert expected.any()
        for outer, inner in ((jacrev, jacrev), (jacrev, jacfwd), (jacfwd, jacrev)):
            torch.testing.assert_close(outer(inner(loss))(x), expected)
        with pytest.raises(NotImplementedError, match="reverse mode"):
            jacfwd(jacfwd(loss))(x)


@pytest.mark.skipif(GENERATES_CUPY, reason="SpikingJelly 2.0.0's surrogates take part in torch.func")
def test_torch_func_refuses_surrogates_without_rules():
    run, x = over(surrogate.ATan()), torch.rand(3, 5)
    expected = TestTorchFunc.jacobian(run, x)
    torch.testing.assert_close(jacrev(run)(x), expected)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(run, (x,), (x,))
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(run, 1, 1)(x)
