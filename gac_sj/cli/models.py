"""List the networks with their parameters.

gac-sj models
gac-sj models 'gac_*'
"""

from __future__ import annotations

import argparse
from typing import cast

import timm
import torch

from gac_sj._utils.errors import UsageError
from gac_sj.cli.networks import names, parameters
from gac_sj.models.network import EncodedNetwork


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="names, where * matches any letters (default: all)")


def run(args: argparse.Namespace) -> None:
    """Print a table.

    Args:
        args: of the command line.

    Raises:
        UsageError: no network has such a name.
    """
    found = names(args.pattern)
    if not found:
        raise UsageError(f"No network is named like {args.pattern!r}", "gac-sj models lists them all")
    line = f"{{:{max(map(len, found))}}}  {{:>10}}  {{:>2}}  {{:>7}}  {{:13}}  {{}}".format
    print(line("network", "parameters", "T", "classes", "input", "encoder"))
    for name in found:
        with torch.device("meta"):  # shapes without memory
            model = cast(EncodedNetwork, timm.create_model(name))
        size = "x".join(map(str, model.pretrained_cfg["input_size"]))
        encoder = type(model.encoder).__name__
        print(line(name, f"{parameters(model):,}", model.T, model.num_classes, size, encoder))
