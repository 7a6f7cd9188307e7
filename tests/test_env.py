"""gac-sj env, and the package without its optional dependencies or with broken ones."""

import os
import subprocess
import sys
from importlib import metadata

import pytest
import torch
from spikingjelly.activation_based import surrogate

from gac_sj import Rectangle, Triangle
from gac_sj._utils.memory import allocator
from gac_sj.cli import environment as env
from gac_sj.ops import cpp, cupy, int8
from gac_sj.ops.dispatch import OPERATORS, choose, why_not

pytestmark = pytest.mark.usefixtures("default_ops")

DRIVER = "the driver knows CUDA 12 only, and CuPy needs CUDA 13; update the driver"


def facts():
    """The lines of the upper part, by name."""
    return {line[:12].strip(): line[14:] for line in env.report().split("\n\n")[0].splitlines()}


def table():
    """(operator, device, path) -> state."""
    header, *lines = env.report().split("\n\n")[1].splitlines()
    assert header.split() == ["operator", "device", "path", "state"]
    rows = [line.split(maxsplit=3) for line in lines]
    return {tuple(row[:3]): row[3] for row in rows}


def test_report_has_versions_and_devices():
    found = facts()
    assert found["spikingjelly"] == metadata.version("spikingjelly")
    assert found["numpy"] == metadata.version("numpy")
    assert found["torch"].startswith(torch.__version__)
    assert "threads" in found["CPU"]
    assert found["allocator"] == allocator()
    assert found["GAC_SJ_OPS"].startswith("not set")
    assert found["bytes"] == (int8.why_not() or "products of bytes run on oneDNN (gac_sj.quantize)")
    assert ("none" in found["GPU"]) == (not torch.cuda.is_available())


def test_table_has_the_paths_that_operators_choose():
    states = table()
    x = torch.empty(0)
    functions = Triangle(), Rectangle(), surrogate.Sigmoid()
    for operator in OPERATORS:
        used = {path for (*place, path), state in states.items() if place == [operator, "cpu"] and state == "used"}
        assert used == {choose(operator, x, function) for function in functions}
    assert ("lif", "cpu", "cupy") not in states  # not a path of that device


def test_surrogates_with_different_paths_are_listed(monkeypatch):
    """Without CuPy, Triangle reaches SpikingJelly's kernels as PiecewiseQuadratic; Rectangle does not."""
    monkeypatch.setattr(cupy, "why_not", lambda: DRIVER)
    monkeypatch.setattr("gac_sj.ops.dispatch._why_not_spikingjelly", lambda: None)
    states = table()
    assert states["lif", "cuda", "cupy"] == DRIVER
    assert states["lif", "cuda", "spikingjelly"] == (
        "Triangle, Sigmoid: used; Rectangle: SpikingJelly's kernels do not support the surrogate Rectangle"
    )
    assert states["lif", "cuda", "torch"] == "Triangle, Sigmoid: available; Rectangle: used"
    assert states["gated_lif", "cuda", "torch"] == "used"


@pytest.mark.parametrize("asked", ["torch", "cpp", "cupy", "spikingjelly"])
def test_requested_path_is_used_or_an_error_as_in_the_operators(asked, monkeypatch):
    monkeypatch.setenv("GAC_SJ_OPS", asked)
    states = table()
    assert facts()["GAC_SJ_OPS"] == asked
    for operator in OPERATORS:
        try:
            expected = choose(operator, torch.empty(0), Triangle())
        except ValueError:
            reason = why_not(asked, operator, "cpu")
            assert states[operator, "cpu", asked] == f"asked for, an error: {reason}"
            assert "used" not in {states[operator, "cpu", path] for path in ("cpp", "torch")}
        else:
            assert states[operator, "cpu", expected] == "used"


def test_unknown_request_is_reported(monkeypatch):
    monkeypatch.setenv("GAC_SJ_OPS", "fastest")
    assert facts()["GAC_SJ_OPS"] == "fastest, an error: the paths are cupy, cpp, spikingjelly, torch"
    assert "used" not in table().values()


def test_undeterminable_facts_are_reported_in_their_lines(monkeypatch):
    def broken(*_):
        raise RuntimeError("lost\nin detail")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setitem(sys.modules, "triton", None)
    found = facts()
    assert "RuntimeError: lost" in found["GPU"] and "in detail" not in found["GPU"]
    assert found["torch"].endswith("without CUDA")
    assert found["triton"] == "not installed"


def test_missing_compiler_is_reported(monkeypatch):
    monkeypatch.setattr(cpp, "why_not", lambda: "no C++ compiler was found; install g++")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler was found; install g++" in facts()["compiler"]
    assert table()["lif", "cpu", "cpp"] == "no C++ compiler was found; install g++"
    assert table()["lif", "cpu", "torch"] == "used"


@pytest.fixture
def broken_environment(tmp_path):
    """A CuPy and a Triton that fail on import, and no compiler."""
    for name, error in (("cupy", "RuntimeError('libcuda.so.1 is missing')"), ("triton", "ImportError('blocked')")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise {error}\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "CXX": "nonsense", "XDG_CACHE_HOME": str(tmp_path / "cache")}


def python(environment, *arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.medium
def test_command_reports_a_broken_environment(broken_environment):
    result = python(broken_environment, "-m", "gac_sj", "env")
    assert result.returncode == 0
    assert "Traceback" not in result.stdout + result.stderr
    assert "cupy          cannot be imported (RuntimeError: libcuda.so.1 is missing)" in result.stdout
    assert "triton        cannot be imported (ImportError: blocked)" in result.stdout
    assert "CXX" in result.stdout and "'nonsense'" in result.stdout


@pytest.mark.medium
def test_networks_train_in_a_broken_environment(broken_environment):
    script = """
import sys, torch, gac_sj
assert "cupy" not in sys.modules
x = torch.randn(4, 2, 8, requires_grad=True)
gac_sj.LIFNode()(x).sum().backward()
encoder = gac_sj.GatedAttentionCoding(T=4, channels=8)
encoder(torch.randn(2, 3, 8, 8)).sum().backward()
assert x.grad.any() and all(p.grad is not None for p in encoder.parameters())
print("learns")
"""
    result = python(broken_environment, "-c", script)
    assert (result.returncode, result.stdout) == (0, "learns\n"), result.stderr
