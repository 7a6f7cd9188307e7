"""Neurons, surrogate functions and grids on which the kernels are held against their definitions."""

from functools import cache
from itertools import product

import pytest
import torch
from spikingjelly.activation_based import surrogate

from gac_sj import Rectangle, Triangle
from gac_sj.ops import cpp, launching
from gac_sj.ops.neuron import LIFDynamics

#: Every reset, detached or not, with and without a decayed input; one tau whose decay is no power of two.
NEURONS = [
    LIFDynamics(tau=tau, decay_input=decay_input, v_threshold=threshold, v_reset=reset, detach_reset=detach)
    for (tau, decay_input), (threshold, reset), detach in product(
        ((2.0, False), (3.7, True)), ((1.0, 0.0), (0.5, None), (0.8, -0.25)), (False, True)
    )
]
CIFAR, HARD, SOFT = NEURONS[0], NEURONS[4], NEURONS[8]

#: Surrogate functions whose derivative is exact arithmetic: kernels and definition agree bit for bit.
EXACT = {
    "Triangle": Triangle(),
    "Triangle(1.3)": Triangle(alpha=1.3),
    "Triangle(strict)": Triangle(strict=True),
    "Rectangle": Rectangle(),
    "Rectangle(0.7, strict)": Rectangle(alpha=0.7, strict=True),
    "PiecewiseQuadratic": surrogate.PiecewiseQuadratic(alpha=1.2),
    "LeakyKReLU": surrogate.LeakyKReLU(leak=0.1, k=0.9),
}
#: and those that divide or use exp, whose roundings differ
ROUNDED = {
    name: getattr(surrogate, name)(**parameters)
    for name, parameters in {
        "Sigmoid": dict(alpha=4.0),
        "ATan": dict(alpha=2.0),
        "PiecewiseExp": dict(alpha=1.1),
        "SoftSign": dict(alpha=2.0),
        "SuperSpike": dict(alpha=1.5),
        "Erf": dict(alpha=2.0),
        # the backward pass of 0.0.0.0.14's own raises a TypeError
        **({"NonzeroSignLogAbs": dict(alpha=1.5)} if hasattr(surrogate, "SuperSpike") else {}),
        "QPseudoSpike": dict(alpha=2.5),
        "LogTailedReLU": dict(alpha=0.2),
        "S2NN": dict(alpha=4.0, beta=1.0),
        "Rect": dict(alpha=1.0),
    }.items()
    if hasattr(surrogate, name)
}


GRIDS = pytest.mark.usefixtures("grid")


@pytest.fixture(params=["ranges", "emulated grid"])
def grid(request, monkeypatch):
    """The CPU's own division of the work; or that of a GPU, with blocks, threads and strides, in small."""
    if request.param == "emulated grid":
        emulate_grid(monkeypatch)
    return request.param


def emulate_grid(monkeypatch, blocks=2, block=3, rows=2):
    class Emulated(cpp.Module):
        def __init__(self, code):
            super().__init__(code, ("-DEMULATE_GRID",))

        def launch(self, kernel, grid, _, arguments, workers):
            super().launch(kernel, (blocks, min(rows, grid[1])), block, arguments, workers)

    monkeypatch.setattr(launching.cpp, "load", cache(Emulated))
    monkeypatch.setattr(launching.Launch, "threads", blocks * block)


@pytest.fixture
def nan_filled():
    """New memory holds NaN, so that what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    assert torch.empty(3).new_empty_strided((2, 3), (3, 1)).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
