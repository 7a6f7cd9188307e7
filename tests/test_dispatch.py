"""Which path an operator takes where something is missing, and what it says about it."""

import logging
import multiprocessing
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers.neuron_cases import CIFAR
from spikingjelly.activation_based import functional, surrogate
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gac_sj import GatedAttentionCoding, LIFNode, Rectangle, Triangle
from gac_sj.ops import cpp, cupy
from gac_sj.ops.dispatch import choose
from gac_sj.ops.lif import lif
from gac_sj.ops.source import PROBE, source

pytestmark = pytest.mark.usefixtures("fresh_ops")


def tensor(device="cpu", dtype=torch.float32):
    """What ``choose`` reads of a tensor; the device need not exist."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


def use_cupy(monkeypatch, built=13020, driver=13000, compiles=None):
    """A GPU, PyTorch for CUDA 13, and a stand-in for CuPy; an exception is raised in the place of its answer."""

    def give(answer):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    runtime = SimpleNamespace(runtimeGetVersion=lambda: give(built), driverGetVersion=lambda: give(driver))
    module = SimpleNamespace(get_function=lambda name: give(compiles))
    stand_in = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), RawModule=lambda code, options: module)
    monkeypatch.setitem(sys.modules, "cupy", stand_in)


class TestWhyNotCuPy:
    def test_nothing_is_missing(self, monkeypatch):
        use_cupy(monkeypatch)
        assert cupy.why_not() is None
        assert choose("lif", tensor("cuda"), Triangle()) == choose("gated_lif", tensor("cuda"), Rectangle()) == "cupy"

    @pytest.mark.parametrize(
        "broken,problem,remedy",
        [
            (dict(built=12090), "CUDA 12", "pip uninstall cupy-cuda12x; pip install cupy-cuda13x"),
            (dict(built=OSError("no libcudart\nat all")), "(no libcudart)", "pip install cupy-cuda13x"),
            (dict(driver=12080), "CUDA 12", "update the driver"),
            (dict(compiles=RuntimeError("no header.")), "(no header)", "pip install 'cupy-cuda13x[ctk]'"),
        ],
        ids=["another CUDA", "broken", "old driver", "no headers"],
    )
    def test_the_reason_has_a_remedy(self, broken, problem, remedy, monkeypatch):
        use_cupy(monkeypatch, **broken)
        reason = cupy.why_not()
        assert problem in reason and reason.endswith(f"; {remedy}")
        monkeypatch.setenv("GAC_SJ_OPS", "cupy")
        for operator in ("lif", "gated_lif"):
            with pytest.raises(ValueError, match=r"^GAC_SJ_OPS .*'cupy'") as error:
                choose(operator, tensor("cuda"), Triangle())
            assert operator in str(error.value) and str(error.value).endswith(f"{reason}.")

    def test_not_installed(self, monkeypatch):
        use_cupy(monkeypatch)
        monkeypatch.setitem(sys.modules, "cupy", None)
        assert cupy.why_not().startswith("CuPy cannot be imported (")
        assert cupy.why_not().endswith("; pip install cupy-cuda13x")

    @pytest.mark.parametrize("raised", ["RuntimeError", "OSError", "AttributeError", "KeyError"])
    def test_its_import_may_raise_anything(self, raised, tmp_path, monkeypatch):
        use_cupy(monkeypatch)
        (tmp_path / "cupy.py").write_text(f"raise {raised}('a library is missing')")
        monkeypatch.delitem(sys.modules, "cupy")
        monkeypatch.syspath_prepend(tmp_path)
        assert "CuPy cannot be imported (" in cupy.why_not() and "a library is missing" in cupy.why_not()

    def test_no_gpu(self, monkeypatch):
        def refuse():
            raise RuntimeError("Found no NVIDIA driver.")

        monkeypatch.setattr(torch.version, "cuda", "13.2")
        monkeypatch.setattr(torch.cuda, "init", refuse)
        assert cupy.why_not() == "PyTorch cannot use a GPU (Found no NVIDIA driver)"

    def test_pytorch_without_cuda(self, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", None)
        assert cupy.why_not() == "this PyTorch is built without CUDA"


class TestWhyNotCpp:
    def test_no_compiler(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert cpp.why_not().endswith("install g++")

    def test_a_compiler_that_is_not_there(self, monkeypatch):
        monkeypatch.setenv("CXX", "nonsense")
        assert cpp.why_not().startswith("CXX ") and "'nonsense'" in cpp.why_not()

    def test_a_compiler_that_fails(self, tmp_path, monkeypatch):
        compiler = tmp_path / "c++"
        compiler.write_text("#!/bin/sh\necho 'In file included:' >&2\necho 'fatal error: no cmath' >&2\nexit 1\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        assert cpp.why_not().endswith("fatal error: no cmath")

    def test_a_cache_that_cannot_be_written_to(self, tmp_path, monkeypatch):
        (tmp_path / "cache").write_text("no folder")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        assert cpp.why_not() is None

    @pytest.mark.medium
    def test_two_processes_that_build_at_the_same_time(self, tmp_path):
        code, processes = source("lif", PROBE), multiprocessing.get_context("fork")
        both = processes.Barrier(2)

        def build():
            both.wait(60)
            cpp.Module(code)

        builders = [processes.Process(target=build) for _ in range(2)]
        for builder in builders:
            builder.start()
        for builder in builders:
            builder.join(60)
        assert [builder.exitcode for builder in builders] == [0, 0]
        assert [path.suffix for path in (tmp_path / "cache" / "gac_sj").iterdir()] == [".so"]
        assert cpp.why_not() is None

    def test_networks_run_on_the_plain_path(self, monkeypatch, caplog):
        monkeypatch.setenv("CXX", "nonsense")
        x = torch.randn(4, 2, 8, requires_grad=True)
        with caplog.at_level(logging.INFO, "gac_sj"), warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(2):
                LIFNode(decay_input=False)(x).sum().backward()
                GatedAttentionCoding(T=2, channels=4)(torch.randn(2, 3, 8, 8)).sum().backward()
        assert x.grad.any()
        messages = [record.getMessage() for record in caplog.records]
        for operator, message in zip(("lif", "gated_lif"), messages, strict=True):
            assert f"{operator} runs on the path 'torch' (not cpp: CXX" in message

    def test_an_explicit_request_raises(self, monkeypatch):
        monkeypatch.setenv("CXX", "nonsense")
        with pytest.raises(ValueError, match=r"^path .*'cpp'.*lif.*CXX.*'nonsense'"):
            lif(torch.randn(2, 3), CIFAR, Triangle(), path="cpp")
        monkeypatch.setenv("GAC_SJ_OPS", "cpp")
        with pytest.raises(ValueError, match=r"^GAC_SJ_OPS .*'cpp'.*lif.*CXX.*'nonsense'"):
            LIFNode()(torch.randn(2, 3))


def test_a_missed_gpu_path_is_a_warning_once(monkeypatch):
    use_cupy(monkeypatch, driver=12080)
    with pytest.warns(UserWarning, match=r"lif runs on the path 'torch' \(not cupy: .*CUDA 12"):
        assert choose("lif", tensor("cuda"), Rectangle()) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("lif", tensor("cuda"), Rectangle()) == "torch"


@pytest.mark.skipif(not hasattr(functional, "lif_multi_step"), reason="SpikingJelly 2.0.0 has these kernels")
def test_without_cupy_a_surrogate_of_spikingjelly_takes_its_kernels(monkeypatch):
    use_cupy(monkeypatch, driver=12080)
    monkeypatch.setattr(functional, "neuron_implementation", lambda *_: {"implementation": "triton", "unavailable": {}})
    with pytest.warns(UserWarning, match="lif runs on the path 'spikingjelly'"):
        assert choose("lif", tensor("cuda"), Triangle()) == "spikingjelly"
    with pytest.warns(UserWarning, match="the surrogate Triangle"):
        assert choose("lif", tensor("cuda"), Triangle(strict=True)) == "torch"
    monkeypatch.setenv("GAC_SJ_OPS", "spikingjelly")
    assert choose("lif", tensor("cuda", torch.bfloat16), surrogate.Sigmoid()) == "spikingjelly"
    assert choose("gated_lif", tensor("cuda"), Triangle()) == "torch"  # whose neuron takes SpikingJelly's


def test_a_triton_that_is_broken_is_a_reason(monkeypatch):
    def broken(*_):
        raise ImportError("libtriton is missing")

    use_cupy(monkeypatch, driver=12080)
    monkeypatch.setattr(functional, "lif_multi_step", None, raising=False)
    monkeypatch.setattr(functional, "neuron_implementation", broken, raising=False)
    with pytest.warns(UserWarning, match=r"not spikingjelly: .*\(libtriton is missing\)"):
        assert choose("lif", tensor("cuda"), Triangle()) == "torch"


class Mine(nn.Module):
    """A surrogate function of a user."""

    def forward(self, x):
        return Rectangle()(x)


@pytest.mark.parametrize(
    "given,requested,message",
    [
        (dict(surrogate=Mine()), "cpp", "the surrogate Mine has no cuda_derivative"),
        (dict(surrogate=Triangle(spiking=False)), "cpp", r"Triangle\(spiking=False\)"),
        (dict(surrogate=surrogate.Sigmoid(spiking=False)), "cpp", r"Sigmoid\(spiking=False\)"),
        (dict(dtype=torch.float64), "cpp", "float32.* got float64"),
        (dict(dtype=torch.int32), "cpp", "got int32"),
        (dict(), "cupy", "CUDA tensor, got one on 'cpu'"),
        (dict(), "spikingjelly", "CUDA tensor, got one on 'cpu'"),
        (dict(device="cuda"), "cpp", "CPU tensor, got one on 'cuda'"),
        (dict(), "fastest", "cupy, cpp, spikingjelly, torch, got 'fastest'"),
    ],
    ids=str,
)
def test_an_explicit_request_that_is_not_available_raises(given, requested, message, monkeypatch):
    given = dict(given)
    function = given.pop("surrogate", Triangle())
    with pytest.raises(ValueError, match=f"^path .*{message}"):
        choose("lif", tensor(**given), function, requested)
    monkeypatch.setenv("GAC_SJ_OPS", requested)
    with pytest.raises(ValueError, match=f"^GAC_SJ_OPS .*{message}"):
        choose("lif", tensor(**given), function)
    assert choose("lif", tensor(**given), function, "torch") == "torch"  # the argument takes precedence


@pytest.mark.parametrize("function", [Mine(), Triangle(spiking=False)], ids=["no expression", "no spikes"])
def test_surrogates_without_kernels_take_the_definition(function):
    x = torch.randn(4, 3, 8)
    expected = lif(x, CIFAR, function, path="torch")[0]
    assert torch.equal(LIFNode(**CIFAR._asdict(), surrogate_function=function)(x), expected)


def test_double_precision_stays_double():
    assert LIFNode()(torch.randn(4, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("device", ["mps", "meta", "xpu"])
def test_other_devices_take_the_definition(device):
    assert choose("lif", tensor(device), Triangle()) == "torch"


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("build", [LIFNode, lambda: GatedAttentionCoding(T=2, channels=4)], ids=["neuron", "encoder"])
def test_dispatch_modes_see_the_definition(build, monkeypatch):
    module, x = build().eval(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = module(x)
        functional.reset_net(module)
        with Operators() as seen:
            torch.testing.assert_close(module(x), expected)
        assert not any(name.startswith("gac_sj") for name in seen.names)
        functional.reset_net(module)
        monkeypatch.setenv("GAC_SJ_OPS", "cpp")  # an explicit request
        with Operators() as seen:
            module(x)
        assert any(name.startswith("gac_sj") for name in seen.names)


def test_a_changed_surrogate_is_refused_by_an_explicit_request():
    function = Triangle()
    function.register_forward_hook(lambda *_: None)
    assert choose("lif", tensor(), function) == "torch"
    with pytest.raises(ValueError, match=r"^path .*Triangle has a hook"):
        choose("lif", tensor(), function, "cpp")
