"""The kernels compile for GPUs, without one: NVRTC needs no driver."""

import re

import pytest
from helpers.neuron_cases import CIFAR, EXACT, NEURONS, ROUNDED

from gac_sj import Triangle
from gac_sj.ops.cupy import OPTIONS
from gac_sj.ops.neuron import neuron_macros
from gac_sj.ops.source import source
from gac_sj.ops.surrogates import cuda_derivative

pytestmark = pytest.mark.one_release

nvrtc = pytest.importorskip("cupy", reason="CuPy has no wheel for this platform").cuda.nvrtc

OPERATORS = [
    ("lif", ()),
    ("gated_lif", (("STATIC", 1),)),
    ("gated_lif", (("STATIC", 0),)),
    ("channel_gate", (("STATIC", 1), ("BEFORE", 1), ("CHANNELS_LAST", 0), ("STRANDS", 32))),
    ("channel_gate", (("STATIC", 0), ("BEFORE", 0), ("CHANNELS_LAST", 1), ("STRANDS", 32))),
    ("norm_lif", (("CHANNELS_LAST", 0), ("STRANDS", 32), ("OF_BATCH", 1))),
    ("norm_lif", (("CHANNELS_LAST", 1), ("STRANDS", 32), ("OF_BATCH", 0))),
    ("norm_add", (("CHANNELS_LAST", 0), ("STRANDS", 32))),
    ("norm_add", (("CHANNELS_LAST", 1), ("STRANDS", 32))),
]
CLOSED_FORM = ("STATIC", 1), ("CLOSED_FORM", "")


def build(operator, extra, architecture, surrogate=None, T=4, lanes=4, element="float", neuron=CIFAR):
    """Machine code ("sm_90"), or the assembler text ("compute_90")."""
    derivative, _ = cuda_derivative(surrogate or Triangle())
    shape = ("T", T), ("LANES", lanes), ("ELEMENT", element)
    code = source(operator, (*shape, *extra, *neuron_macros(neuron, derivative)))
    program = nvrtc.createProgram(code, f"{operator}.cu", [], [])
    try:  # -ftz: CuPy adds it
        nvrtc.compileProgram(program, (*OPTIONS, "-ftz=true", f"--gpu-architecture={architecture}"))
        return nvrtc.getPTX(program) if architecture.startswith("compute") else nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("operator,extra", OPERATORS)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("T,lanes,element", [(1, 1, "float"), (6, 8, "bfloat16"), (16, 2, "half"), (40, 1, "float")])
def test_every_shape(operator, extra, architecture, T, lanes, element):
    assert len(build(operator, extra, architecture, T=T, lanes=lanes, element=element)) > 1000


@pytest.mark.parametrize("operator,extra", OPERATORS[:2])
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_every_reset(operator, extra, neuron):
    build(operator, extra, "sm_90", neuron=neuron)


def test_the_closed_form():
    build("gated_lif", CLOSED_FORM, "sm_90")


@pytest.mark.parametrize("surrogate", [*EXACT.values(), *ROUNDED.values()], ids=[*EXACT, *ROUNDED])
def test_every_surrogate(surrogate):
    build("lif", (), "sm_90", surrogate)


def test_nothing_is_contracted_and_memory_moves_in_packs():
    """Fused multiply-adds round once where the definition rounds twice; narrow loads would halve the bandwidth."""
    text = str(build("lif", (), "compute_90", T=6))
    assert "fma." not in text
    assert len(re.findall(r"ld\.global\.nc\.v4\.f32", text)) >= 6 + 2 * 6  # x, x again, and the spikes' gradients
    assert len(re.findall(r"st\.global\.v4\.f32", text)) >= 6 + 6
