"""List the networks with their parameters.

gac-sj models
gac-sj models 'gac_*'
"""

from __future__ import annotations

import argparse

import timm
import torch

from gac_sj.cli.networks import names, parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="which ones: * stands for any letters (default: all)")


def run(args: argparse.Namespace) -> None:
    """Print a table.

    Raises:
        ValueError: no network has such a name.
    """
    found = names(args.pattern)
    if not found:
        raise ValueError(f"No network's name is like {args.pattern!r}; gac-sj models lists them all.")
    line = f"{{:{max(map(len, found))}}}  {{:>10}}  {{:>2}}  {{:>7}}  {{:13}}  {{}}".format
    print(line("network", "parameters", "T", "classes", "input", "encoder"))
    for name in found:
        with torch.device("meta"):  # shapes without memory
            model = timm.create_model(name)
        size = "x".join(map(str, model.pretrained_cfg["input_size"]))
        encoder = type(model.encoder).__name__
        print(line(name, f"{parameters(model):,}", model.T, model.num_classes, size, encoder))
