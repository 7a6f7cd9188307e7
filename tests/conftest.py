"""Settings that all tests share."""

import os

import pytest
import torch

# for the commands that tests start: SpikingJelly 0.0.0.0.14 makes torch warn on import, whoever imports it
os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
