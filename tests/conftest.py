"""Settings that all tests share."""

import os

import pytest
import torch

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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
