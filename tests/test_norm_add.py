"""BatchNorm and a sum in one pass: the kernels, built for the CPU, against the definition; where it steps aside."""

import copy

import pytest
import timm
import torch
from helpers.neuron_cases import GRIDS, grid, nan_filled  # noqa: F401
from spikingjelly.activation_based import layer
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from gac_sj.nn import norm_add as fusing
from gac_sj.nn.norm_add import norm_then_add
from gac_sj.nn.running_statistics import RepeatedImages
from gac_sj.ops import channels
from gac_sj.ops.norm_add import norm_add

pytestmark = pytest.mark.usefixtures("default_ops")

#: Largest error of a result, relative to its largest number; in 16 bits the definition rounds the normalised value too.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LAYOUTS = pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)


def sequence(*shape, dtype=torch.float32, memory=torch.contiguous_format):
    x = 3.0 + 2.0 * torch.randn(shape)
    return x.to(dtype).flatten(0, 1).contiguous(memory_format=memory).unflatten(0, shape[:2])


def assert_same(x, residual, affine=True):
    parameters = (0.5 + torch.rand(x.shape[2]), torch.randn(x.shape[2])) if affine else (None, None)
    grad = torch.randn_like(x)
    results = []
    for path in ("cpp", "torch"):
        given = [x, *parameters, residual, grad]
        if path == "torch" and x.dtype == torch.float32:  # torch's own sums are off by several roundings
            given = [each if each is None else each.double() for each in given]
        leaves = [each if each is None else each.detach().requires_grad_() for each in given[:4]]
        y, statistics = norm_add(*leaves, 1e-5, path=path)
        gradients = torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], given[4])
        results.append([y, *gradients, *statistics])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        error = (found.double() - expected.double()).abs().max()
        assert error <= TOLERANCE[x.dtype] * expected.double().abs().max().clamp_min(1e-2)


@GRIDS
@LAYOUTS
@pytest.mark.parametrize("C,size", [(3, (3, 5)), (17, (1, 1)), (16, (7, 9)), (64, (8, 4))])
def test_every_shape(C, size, memory, monkeypatch):
    """With two strands a segment, too, as on a GPU, and with segments of which the last one is shorter."""
    for strands, pixels in ((1, 64), (3, 5)):
        monkeypatch.setattr(channels, "_STRANDS_OF_CPU", strands)
        monkeypatch.setattr(channels, "_PIXELS", pixels)
        monkeypatch.setattr(channels, "_ELEMENTS", 1)
        x = sequence(3, 5, C, *size, memory=memory)
        assert_same(x, torch.randn_like(x))


@LAYOUTS
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_type(dtype, memory):
    """Also without parameters, and with a residual and an input of other memory."""
    x = sequence(4, 2, 16, 4, 4, dtype=dtype, memory=memory)
    assert_same(x, torch.randn_like(x), affine=False)
    assert_same(x, sequence(4, 2, 16, 4, 4, dtype=dtype).transpose(3, 4))
    assert_same(x[:, :, :, ::2], x[:, :, :, 1::2])


def test_second_derivatives_are_refused():
    x = sequence(3, 2, 8, 4, 4).requires_grad_()
    (grad,) = torch.autograd.grad(
        norm_add(x, None, None, x.detach(), 1e-5, path="cpp")[0].square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="twice"):
        grad.sum().backward()


@pytest.fixture
def launched(monkeypatch):
    """The calls of the operator."""
    calls = []
    monkeypatch.setattr(fusing, "norm_add", lambda *arguments: calls.append(arguments) or norm_add(*arguments))
    return calls


VARIANTS = {
    "plain": {},
    "cumulative": dict(momentum=None),
    "untracked": dict(track_running_stats=False),
    "not affine": dict(affine=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_call_leaves_what_the_module_leaves(name, launched):
    """Outputs, gradients and running statistics, over several batches; in evaluation the module itself runs."""
    norm = layer.BatchNorm2d(8, step_mode="m", **VARIANTS[name])
    plain = copy.deepcopy(norm)
    for _ in range(3):
        x, residual = (sequence(4, 3, 8, 4, 4).requires_grad_() for _ in range(2))
        results = norm_then_add(norm, x, residual), plain(x) + residual
        gradients = [
            torch.autograd.grad(y.square().sum(), [x, residual, *module.parameters()])
            for y, module in zip(results, (norm, plain), strict=True)
        ]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    assert len(launched) == 3
    torch.testing.assert_close([*norm.buffers()], [*plain.buffers()])
    norm.eval(), plain.eval()
    torch.testing.assert_close(norm_then_add(norm, x, residual), plain(x) + residual, rtol=1e-4, atol=1e-5)
    assert len(launched) == 3


def hooked(norm):
    norm.register_forward_hook(lambda module, inputs, output: output + 1.0)


def replaced(norm):
    norm.forward = lambda x: x + 1.0


def parametrized(norm):
    parametrize.register_parametrization(norm, "weight", nn.Softplus())


@pytest.mark.parametrize("change", [hooked, replaced, parametrized, nn.Module.double], ids=lambda f: f.__name__)
def test_it_steps_aside_for_what_a_user_put_in(change, launched):
    norm = layer.BatchNorm2d(8, step_mode="m")
    change(norm)
    x = sequence(4, 3, 8, 4, 4).to(next(norm.parameters()).dtype)
    found, expected = norm_then_add(norm, x, x), norm(x) + x
    assert torch.equal(found, expected) and not launched


def test_it_steps_aside_for_other_sequences_and_for_what_looks_at_operations(launched):
    norm, x = layer.BatchNorm2d(8, step_mode="m"), sequence(4, 3, 8, 4, 4)
    for other in (torch.randn(4, 0, 8, 4, 4), torch.randn(4, 3, 8, 3, 5)):
        assert norm_then_add(norm, other, other).shape == other.shape
    assert norm_then_add(norm, x, x[:1]).shape == x.shape
    assert norm_then_add(norm, x, x.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="more than 1 value"):
        norm_then_add(norm, torch.randn(1, 1, 8, 1, 1), torch.randn(1, 1, 8, 1, 1))
    with RepeatedImages(4):
        norm_then_add(norm, x, x)
    with FlopCounterMode(display=False):
        norm_then_add(norm, x, x)
    assert not launched


def test_the_blocks_of_a_network_use_it(launched):
    """One for each block, except where something stands between BatchNorm and the sum."""
    images = torch.rand(2, 3, 32, 32)
    for options, expected in (({}, 3), ({"drop_path_rate": 0.1}, 1), ({"block_attention": "CA"}, 0)):
        launched.clear()
        timm.create_model("gac_ms_resnet8_cifar", T=4, **options)(images).sum().backward()
        assert len(launched) == expected
