"""Settings and fixtures that all tests share."""

import os

import pytest
import torch
from helpers.registry import forgotten_afterwards

from gac_sj.ops import cpp, cupy, dispatch
from gac_sj.ops.library_cache import cache_folder

# for the commands that tests start: SpikingJelly 0.0.0.0.14 makes torch warn on import, whoever imports it
os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")


def pytest_addoption(parser):
    said = "run each test with the first of its parameters, but those marked all_parameters or floor"
    parser.addoption("--once", action="store_true", help=said)


@pytest.hookimpl(trylast=True)  # the first that -m selects
def pytest_collection_modifyitems(config, items):
    """Tests of a GPU are skipped where there is none; TEST_DEVICE=cpu runs on the CPU those that can."""
    if config.getoption("once"):
        first = {(item.parent, item.originalname): item for item in reversed(items)}.values()
        whole = ("all_parameters", "floor")
        kept = {*first, *(item for item in items if any(map(item.get_closest_marker, whole)))}
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
    if torch.cuda.is_available() or "TEST_DEVICE" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="it needs a GPU (make test-gpu)"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """Threads of small networks wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def quick(one_thread):
    """One thread, and small files do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def attacks():
    """How many attacks of each sort: 10, or GAC_SJ_ATTACKS."""
    return int(os.environ.get("GAC_SJ_ATTACKS", "10"))


@pytest.fixture
def default_ops(monkeypatch):
    """Operators choose their paths themselves, whatever the shell asks for."""
    monkeypatch.delenv("GAC_SJ_OPS", raising=False)


@pytest.fixture
def fresh_ops(default_ops, tmp_path, monkeypatch):
    """What is known about this machine is found out again, in the test and after it; kernels are built anew."""
    found = cache_folder, cpp.load, cpp.why_not, cupy.why_not, dispatch._report_once, dispatch._why_not_spikingjelly
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(dispatch, "_failures", {})
    for function in found:
        function.cache_clear()
    yield
    for function in found:
        function.cache_clear()


@pytest.fixture
def clean_registry():
    """Encoders that a test registers are forgotten after it."""
    with forgotten_afterwards():
        yield
