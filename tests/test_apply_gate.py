"""The sequence times the gate, with less memory, against the definition."""

from functools import partial

import pytest
import torch

from gac_sj.nn import functional
from gac_sj.ops.apply_gate import apply_gate

gated = partial(apply_gate, gate=functional.gate)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("gain", [1.0, 2.0, 0.3])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (4, 3, 5, 7, 3), (3, 2, 4, 1, 6)])
@pytest.mark.parametrize("by_channel", [False, True])
def test_outputs_and_gradients_equal_the_definition(static, gain, shape, by_channel):
    T, N, *rest = shape
    sequence = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    each = (T, 1, rest[0], 1, 1) if by_channel else (T, N, 1, 1, 1)
    temporal = torch.randn(each, dtype=torch.float64, requires_grad=True)
    spatial = torch.randn((N, *rest) if static else shape, dtype=torch.float64, requires_grad=True)
    inputs, weights = (sequence, temporal, spatial), torch.randn(shape, dtype=torch.float64)
    definition = functional.gate(temporal, spatial, gain) * sequence
    fast = gated(*inputs, gain)
    torch.testing.assert_close(fast, definition, rtol=1e-13, atol=0)
    expected = torch.autograd.grad((definition * weights).sum(), inputs)
    for ours, grad in zip(torch.autograd.grad((fast * weights).sum(), inputs), expected):
        torch.testing.assert_close(ours, grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_other_dtypes(dtype, bound):
    exact = [torch.randn(4, 3, 5, 7, 3).double(), torch.randn(4, 3, 1, 1, 1).double(), torch.randn(3, 5, 7, 3).double()]
    exact = [tensor.to(dtype).double().requires_grad_() for tensor in exact]
    rounded = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    expected, ours = gated(*exact, 2.0), gated(*rounded, 2.0)
    assert ours.dtype == dtype
    pairs = [(ours, expected)]
    pairs += zip(torch.autograd.grad(ours.sum(), rounded), torch.autograd.grad(expected.sum(), exact))
    for low, high in pairs:
        assert (low.double() - high).norm() <= bound * high.norm()


@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (1, 2, 4, 5, 5), (3, 1, 4, 1, 1)])
def test_the_sequence_is_expanded(shape):
    sequence = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    temporal, spatial = torch.randn(3, 2, 1, 1, 1).double(), torch.randn(2, 4, 5, 5).double()
    weights = torch.randn(3, 2, 4, 5, 5).double()
    results = (gated(sequence, temporal, spatial), functional.gate(temporal, spatial) * sequence)
    ours, expected = (torch.autograd.grad((result * weights).sum(), sequence)[0] for result in results)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("each", [(2, 2, 1, 1, 1), (2, 1, 3, 1, 1)], ids=["by image", "by channel"])
def test_second_derivatives(static, each):
    """A gradient penalty, and finite differences."""
    sequence = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    temporal = torch.randn(each, dtype=torch.float64, requires_grad=True)
    spatial = torch.randn(*([] if static else [2]), 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    inputs = (sequence, temporal, spatial)
    assert torch.autograd.gradgradcheck(lambda *inputs: gated(*inputs, 2.0), inputs)
    penalties = []
    for result in (gated(*inputs, 2.0), functional.gate(temporal, spatial, 2.0) * sequence):
        (slope,) = torch.autograd.grad(result.sum(), sequence, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().sum(), (temporal, spatial)))
    for ours, expected in zip(*penalties):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_mixed_dtypes_are_promoted_as_in_the_definition():
    sequence = torch.randn(2, 3, 4, 5, 5, requires_grad=True)
    temporal = torch.randn(2, 3, 1, 1, 1).bfloat16().requires_grad_()
    spatial = torch.randn(3, 4, 5, 5).bfloat16().requires_grad_()
    inputs = (sequence, temporal, spatial)
    fast, definition = gated(*inputs, 2.0), functional.gate(temporal, spatial, 2.0) * sequence
    assert fast.dtype == definition.dtype == torch.float32
    torch.testing.assert_close(fast, definition)
    for ours, expected in zip(torch.autograd.grad(fast.sum(), inputs), torch.autograd.grad(definition.sum(), inputs)):
        assert ours.dtype == expected.dtype
        assert (ours - expected).norm() <= 2e-2 * expected.norm()


@pytest.mark.parametrize("parts", [(True, False), (False, True)], ids=["temporal", "spatial"])
def test_one_part_alone_is_the_definition(parts):
    sequence, temporal, spatial = torch.randn(4, 2, 3, 5, 5), torch.randn(4, 2, 1, 1, 1), torch.randn(2, 3, 5, 5)
    temporal, spatial = (tensor if used else None for tensor, used in zip((temporal, spatial), parts))
    assert torch.equal(gated(sequence, temporal, spatial, 2.0), sequence * functional.gate(temporal, spatial, 2.0))


def test_a_gate_without_parts_is_refused():
    with pytest.raises(ValueError, match="temporal and spatial_channel"):
        gated(torch.randn(4, 2, 3, 5, 5), None, None)


def test_a_compiled_training_step_equals_the_plain_one():
    def step(sequence, temporal, spatial):
        return gated(sequence, temporal, spatial, 2.0)

    inputs = [torch.randn(4, 2, 3, 5, 5), torch.randn(4, 2, 1, 1, 1), torch.randn(2, 3, 5, 5)]
    results = []
    for function in (torch.compile(step, fullgraph=True, backend="aot_eager"), step):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        output = function(*leaves)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for compiled, plain in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_transforms_and_batched_gradients():
    tensors = torch.randn(3, 2, 4, 5, 6), torch.randn(3, 2, 1, 1, 1), torch.randn(2, 4, 5, 6)
    sequence, temporal, spatial = (tensor.double().requires_grad_() for tensor in tensors)
    product = gated(sequence, temporal, spatial, 2.0)
    grads = torch.randn(2, *product.shape, dtype=torch.float64)
    expected = [torch.autograd.grad(product, (sequence, temporal), grad, retain_graph=True) for grad in grads]
    batched = torch.autograd.grad(product, (sequence, temporal), grads, is_grads_batched=True, retain_graph=True)
    _, vjp = torch.func.vjp(lambda *inputs: gated(*inputs, spatial, 2.0), sequence.detach(), temporal.detach())
    for found in (batched, torch.func.vmap(vjp)(grads)):
        for ours, theirs in zip(found, zip(*expected)):
            torch.testing.assert_close(ours, torch.stack(theirs))
