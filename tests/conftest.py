"""Settings and fixtures that all tests share."""

import os

import pytest
import torch
from helpers.registry import forgotten_afterwards

# for the commands that tests start: SpikingJelly 0.0.0.0.14 makes torch warn on import, whoever imports it
os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")


def pytest_collection_modifyitems(items):
    """Tests of a GPU are skipped where there is none; TEST_DEVICE=cpu runs on the CPU those that can."""
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


@pytest.fixture
def default_ops(monkeypatch):
    """Operators choose their paths themselves, whatever the shell asks for."""
    monkeypatch.delenv("GAC_SJ_OPS", raising=False)


@pytest.fixture
def clean_registry():
    """Encoders that a test registers are forgotten after it."""
    with forgotten_afterwards():
        yield


@pytest.fixture(scope="session")
def attacks():
    """How many damaged files of each kind a test tries: ten, or GAC_SJ_ATTACKS."""
    return int(os.environ.get("GAC_SJ_ATTACKS", "10"))
