"""Run by the Python of an environment with gac_sj, outside the repository: imports everything and uses it."""

import importlib
import pkgutil
from pathlib import Path

import timm
import torch

import gac_sj
from gac_sj.ops.source import PROBE, read, source

for module in pkgutil.walk_packages(gac_sj.__path__, "gac_sj."):
    importlib.import_module(module.name)
assert "extern" in source("lif", PROBE) and "extern" in source("gated_lif", PROBE) and read("host.h")
encoder = gac_sj.GatedAttentionCoding(T=3, in_channels=1, channels=4)
sequence = encoder(torch.rand(2, 1, 8, 8))
sequence.sum().backward()
assert sequence.shape == (3, 2, 4, 8, 8) and encoder.stem[0].weight.grad.abs().sum() > 0
assert timm.create_model("gac_ms_resnet8_cifar", T=2)(torch.rand(2, 3, 16, 16)).shape == (2, 10)
for name in timm.list_pretrained("*ms_resnet*"):  # without a network
    assert Path(timm.create_model(name, pretrained=True).pretrained_cfg["file"]).is_relative_to(gac_sj.__path__[0])
print(gac_sj.__file__, gac_sj.__version__)
