"""Settings and fixtures that all tests share."""

import os
import re

import pytest
import torch
from helpers.files import contents
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


@pytest.fixture
def refused(capsys):
    """``refused(main, arguments, *words, folder=None)``: the program refuses its arguments.

    Exit status 2, nothing on stdout, one sentence on stderr that has all the words, and the folder left as it was.
    Returns the sentence.
    """

    def run(main, arguments, *words, folder=None):
        before = folder and contents(folder, times=True)
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        out, error = capsys.readouterr()
        assert out == "" and re.fullmatch(r"[\w.-]+: .+\.\n", error), error
        assert all(word in error for word in words), error
        assert (folder and contents(folder, times=True)) == before
        return error

    return run
