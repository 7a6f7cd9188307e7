"""Which path an operator takes where something is missing, and what it says about it."""

import logging
import multiprocessing
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from spikingjelly.activation_based import functional, surrogate
from torch import nn

from gac_sj import GatedAttentionCoding, LIFNode, Rectangle, Triangle
from gac_sj.ops import cpp, cupy, dispatch
from gac_sj.ops.dispatch import choose
from gac_sj.ops.lif import lif
from gac_sj.ops.source import PROBE, source

CIFAR = dict(tau=2.0, decay_input=False, v_threshold=1.0, v_reset=0.0, detach_reset=False)
REMEMBERED = (cpp.cache_folder, cpp.load, cpp.why_not, cupy.why_not, dispatch._say, dispatch._why_not_spikingjelly)


@pytest.fixture(autouse=True)
def as_at_the_start(monkeypatch):
    """What was found out about this machine is found out again, in this test and after it."""
    monkeypatch.delenv("GAC_SJ_OPS", raising=False)
    for function in REMEMBERED:
        function.cache_clear()
    yield
    for function in REMEMBERED:
        function.cache_clear()


def tensor(device="cpu", dtype=torch.float32):
    """What a choice looks at; there need not be such a device."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


def use_cupy(monkeypatch, built=13020, driver=13000, compiles=None):
    """A GPU, PyTorch for CUDA 13, and a CuPy in place of the installed one. An exception is raised where it stands."""

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
        "broken,message",
        [
            (dict(built=12090), "CuPy is built for CUDA 12 and PyTorch for CUDA 13; pip uninstall cupy-cuda12x; "
                                "pip install cupy-cuda13x"),
            (dict(built=OSError("no libcudart\nat all")), "CuPy cannot be imported (no libcudart); "
                                                          "pip install cupy-cuda13x"),
            (dict(driver=12080), "the driver knows CUDA 12 only, and CuPy needs CUDA 13; update the driver"),
            (dict(compiles=RuntimeError("no header.")), "CuPy cannot compile (no header); "
                                                        "pip install 'cupy-cuda13x[ctk]' brings what it needs"),
        ],
        ids=["another CUDA", "broken", "old driver", "no headers"],
    )  # fmt: skip
    def test_the_reason_says_what_helps(self, broken, message, monkeypatch):
        use_cupy(monkeypatch, **broken)
        assert cupy.why_not() == message
        monkeypatch.setenv("GAC_SJ_OPS", "cupy")
        for operator in ("lif", "gated_lif"):
            with pytest.raises(ValueError) as error:
                choose(operator, tensor("cuda"), Triangle())
            assert str(error.value) == f"GAC_SJ_OPS asks for cupy, which {operator} cannot take here: {message}."

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
    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("CXX", raising=False)

    def test_no_compiler(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert cpp.why_not() == "no C++ compiler was found; install g++"

    def test_a_compiler_that_is_not_there(self, monkeypatch):
        monkeypatch.setenv("CXX", "nonsense")
        assert cpp.why_not() == "no C++ compiler 'nonsense' was found; correct CXX"

    def test_a_compiler_that_fails(self, tmp_path, monkeypatch):
        compiler = tmp_path / "c++"
        compiler.write_text("#!/bin/sh\necho 'In file included:' >&2\necho 'fatal error: no cmath' >&2\nexit 1\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        assert cpp.why_not() == "c++ cannot build the kernels: fatal error: no cmath"
        assert list((tmp_path / "cache" / "gac_sj").iterdir()) == []

    def test_a_cache_that_cannot_be_written_to(self, tmp_path, monkeypatch):
        (tmp_path / "cache").write_text("no folder")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        assert cpp.why_not() is None

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
                LIFNode(**CIFAR)(x).sum().backward()
                GatedAttentionCoding(T=2, channels=4)(torch.randn(2, 3, 8, 8)).sum().backward()
        assert x.grad.any()
        assert [record.getMessage() for record in caplog.records] == [
            f"gac_sj's {operator} runs on the path 'torch' "
            "(not cpp: no C++ compiler 'nonsense' was found; correct CXX)."
            for operator in ("lif", "gated_lif")
        ]

    def test_who_asks_for_it_gets_an_error(self, monkeypatch):
        monkeypatch.setenv("CXX", "nonsense")
        message = "asks for cpp, which lif cannot take here: no C.. compiler 'nonsense' was found"
        with pytest.raises(ValueError, match=f"the argument {message}"):
            lif(torch.randn(2, 3), **CIFAR, surrogate=Triangle(), path="cpp")
        monkeypatch.setenv("GAC_SJ_OPS", "cpp")
        with pytest.raises(ValueError, match=f"GAC_SJ_OPS {message}"):
            LIFNode(**CIFAR)(torch.randn(2, 3))


def test_a_gpu_that_idles_is_said_aloud_once(monkeypatch):
    use_cupy(monkeypatch, driver=12080)
    with pytest.warns(UserWarning, match=r"lif runs on the path 'torch' \(not cupy: the driver knows CUDA 12"):
        assert choose("lif", tensor("cuda"), Rectangle()) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("lif", tensor("cuda"), Rectangle()) == "torch"


@pytest.mark.skipif(not hasattr(functional, "lif_multi_step"), reason="SpikingJelly 2.0.0 has these kernels")
def test_without_cupy_a_stock_surrogate_takes_spikingjellys_kernels(monkeypatch):
    use_cupy(monkeypatch, driver=12080)
    monkeypatch.setattr(functional, "neuron_implementation", lambda *_: {"implementation": "triton", "unavailable": {}})
    with pytest.warns(UserWarning, match="lif runs on the path 'spikingjelly'"):
        assert choose("lif", tensor("cuda"), Triangle()) == "spikingjelly"
    with pytest.warns(UserWarning, match="SpikingJelly's kernels do not know the surrogate Triangle"):
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
    with pytest.warns(UserWarning, match=r"not spikingjelly: its kernels cannot be had \(libtriton is missing\)"):
        assert choose("lif", tensor("cuda"), Triangle()) == "torch"


class Mine(nn.Module):
    """A surrogate function of a user."""

    def forward(self, x):
        return Rectangle()(x)


@pytest.mark.parametrize(
    "given,asked,message",
    [
        (dict(surrogate=Mine()), "cpp", "the surrogate Mine has no cuda_derivative"),
        (dict(surrogate=Triangle(spiking=False)), "cpp", r"Triangle\(spiking=False\) puts out no spikes"),
        (dict(surrogate=surrogate.Sigmoid(spiking=False)), "cpp", r"Sigmoid\(spiking=False\) puts out no spikes"),
        (dict(dtype=torch.float64), "cpp", "it takes float32, float16 and bfloat16, and the input is float64"),
        (dict(dtype=torch.int32), "cpp", "and the input is int32"),
        (dict(), "cupy", "it takes CUDA tensors, and this one is on 'cpu'"),
        (dict(), "spikingjelly", "it takes CUDA tensors, and this one is on 'cpu'"),
        (dict(device="cuda"), "cpp", "it takes CPU tensors, and this one is on 'cuda'"),
        (dict(), "fastest", "is 'fastest'; the paths are cupy, cpp, spikingjelly, torch"),
    ],
    ids=str,
)
def test_who_asks_for_the_impossible_gets_an_error(given, asked, message, monkeypatch):
    given = dict(given)
    function = given.pop("surrogate", Triangle())
    with pytest.raises(ValueError, match=f"^the argument .*{message}"):
        choose("lif", tensor(**given), function, asked)
    monkeypatch.setenv("GAC_SJ_OPS", asked)
    with pytest.raises(ValueError, match=f"^GAC_SJ_OPS .*{message}"):
        choose("lif", tensor(**given), function)
    assert choose("lif", tensor(**given), function, "torch") == "torch"  # an argument goes over the variable


@pytest.mark.parametrize("function", [Mine(), Triangle(spiking=False)], ids=["no text", "no spikes"])
def test_what_no_kernel_knows_is_computed_all_the_same(function):
    x = torch.randn(4, 3, 8)
    expected = lif(x, **CIFAR, surrogate=function, path="torch")[0]
    assert torch.equal(LIFNode(**CIFAR, surrogate_function=function)(x), expected)


def test_double_precision_stays_double():
    assert LIFNode(**CIFAR)(torch.randn(4, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("device", ["mps", "meta", "xpu"])
def test_other_devices_take_the_definition(device):
    assert choose("lif", tensor(device), Triangle()) == "torch"
