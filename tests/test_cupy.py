"""The launch of a kernel on a GPU, with a stand-in for CuPy that runs it on the CPU with the grid that it was given."""

import ctypes
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.neuron_cases import CIFAR
from torch import Tensor

from gac_sj import Triangle
from gac_sj.nn import functional
from gac_sj.ops import cpp, cupy
from gac_sj.ops.gated_lif.reference import gated_lif
from gac_sj.ops.launching import Launch
from gac_sj.ops.lif.reference import lif
from gac_sj.ops.neuron import neuron_macros, neuron_numbers
from gac_sj.ops.source import BuildError
from gac_sj.ops.surrogates import cuda_derivative

pytestmark = pytest.mark.one_release

DERIVATIVE, _ = cuda_derivative(Triangle())
NUMBERS = neuron_numbers(CIFAR, DERIVATIVE)
MACROS = neuron_macros(CIFAR, DERIVATIVE)


class Sequence:
    """What a launch asks of a tensor on a GPU."""

    is_cuda, device = True, SimpleNamespace(index=3)

    def __init__(self, tensor: Tensor):
        self.T, self.dtype, self.element_size = len(tensor), tensor.dtype, tensor.element_size

    def __len__(self):
        return self.T


@pytest.fixture
def launches(monkeypatch):
    """The stand-in; a list of (kernel, grid, block, stream)."""
    seen = []

    def raw_module(code, options):
        assert options == cupy.OPTIONS
        module = cpp.Module(code, ("-DEMULATE_GRID",))

        def get_function(kernel):
            def function(grid, block, arguments):
                numbers = {np.uint64: ctypes.c_uint64, np.int64: ctypes.c_int64, np.float32: ctypes.c_float}
                values = [numbers[type(argument)](argument.item()) for argument in arguments]
                pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
                seen.append((kernel, grid, block, streams[-1]))
                getattr(module._library, f"launch_{kernel}")(pointers, *grid, *block, 1)

            return function

        return SimpleNamespace(get_function=get_function)

    streams = []
    cuda = SimpleNamespace(
        ExternalStream=lambda pointer, device: streams.append((pointer, device)) or nullcontext(),
        Device=lambda index: nullcontext(),
    )
    names = dict(uint64=np.uint64, int64=np.int64, float32=np.float32)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(RawModule=raw_module, cuda=cuda, **names))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=40 + device))
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(cupy, "load", cupy.load.__wrapped__)  # each test has its own stand-in
    return seen


@pytest.mark.parametrize(
    "T,neurons,lanes,blocks",
    [(4, 4 * 300, 4, 3), (12, 2 * 131, 2, 2), (4, 1027, 1, 9), (20, 4 * 150, 2, 3), (40, 128, 1, 1)],
)
def test_lif(launches, T, neurons, lanes, blocks):
    x = torch.randn(T, neurons) + 0.4
    spikes, v = torch.full_like(x, float("nan")), torch.full_like(x[0], float("nan"))
    launch = Launch(Sequence(x), neurons)
    assert launch.lanes == lanes
    launch("lif", "lif_forward", MACROS, (x, None, spikes, v, None, neurons, neurons, *NUMBERS))
    expected, last, _ = lif(x, CIFAR, Triangle())
    assert torch.equal(spikes, expected)
    assert torch.equal(v, last)
    assert launches == [("lif_forward", (blocks, 1), (128,), (43, 3))]


@pytest.mark.parametrize("most,threads", [(1 << 40, 384), (256, 256)])
def test_gated_lif(launches, most, threads):
    """Images are rows of the grid, and a limit on threads makes them take more packs each."""
    z, temporal, spatial = torch.randn(5, 12, 10, 10) + 0.4, torch.randn(4, 5), torch.randn(5, 12, 10, 10)
    gated = torch.full((4, *z.shape), float("nan"))
    launch = Launch(Sequence(gated), 1200, 5, most)
    assert launch.threads == threads
    launch(
        "gated_lif",
        "gated_lif_forward",
        (("STATIC", 1), *MACROS),
        (z, temporal, spatial, gated, 5, 1200, 2.0, *NUMBERS),
    )
    expected = gated_lif(z, temporal[..., None, None, None], spatial, 2.0, CIFAR, Triangle(), functional.gate)
    torch.testing.assert_close(gated, expected, rtol=1e-6, atol=1e-6)
    assert launches == [("gated_lif_forward", (threads // 128, 5), (128,), (43, 3))]


def test_memory_that_is_not_aligned_is_read_one_by_one(launches):
    x = torch.randn(4 * 64 + 1)[1:].view(4, 64)
    spikes, v = torch.empty(4, 64), torch.empty(64)
    Launch(Sequence(x), 64)("lif", "lif_forward", MACROS, (x, None, spikes, v, None, 64, 64, *NUMBERS))
    assert torch.equal(spikes, lif(x, CIFAR, Triangle())[0])


@pytest.mark.parametrize(
    "error", [SyntaxError("no type named index_t\nline 2"), OSError(28, "No space left on device")]
)
def test_a_kernel_that_cannot_be_built(launches, error, monkeypatch):
    def fail(kernel):
        raise error

    monkeypatch.setattr(sys.modules["cupy"], "RawModule", lambda code, options: SimpleNamespace(get_function=fail))
    x = torch.randn(4, 64)
    with pytest.raises(BuildError, match=r"^CuPy cannot build the kernels \(.*(index_t|No space left on device)\)$"):
        Launch(Sequence(x), 64)("lif", "lif_forward", MACROS, (x, None, x, x[0], None, 64, 64, *NUMBERS))


def test_nothing_to_do_launches_nothing(launches):
    x = torch.empty(4, 0)
    Launch(Sequence(x), 0)("lif", "lif_forward", MACROS, (x, None, x, x[0], None, 0, 0, *NUMBERS))
    assert launches == []
