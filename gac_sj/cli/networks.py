"""Networks that commands take: by name, with options, or from weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from torch import nn

from gac_sj.checkpoint import load_pretrained
from gac_sj.encoders import list_encoders
from gac_sj.models import MODULES
from gac_sj.models.network import EncodedNetwork

__all__ = [
    "WEIGHTS",
    "add_network",
    "add_options",
    "build",
    "is_there",
    "names",
    "open_network",
    "open_weights",
    "options",
    "parameters",
]

WEIGHTS = "a folder of gac-sj convert, hf-hub:NAME, or last.safetensors of a run"


def add_network(parser: argparse.ArgumentParser) -> None:
    """A network, by name or with its weights, and the options of one by name."""
    parser.add_argument("network", help=f"a name (gac-sj models), or weights: {WEIGHTS}")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a network."""
    group = parser.add_argument_group("a network by name")
    group.add_argument("-T", type=int, metavar="STEPS", help="time steps")
    group.add_argument("--num-classes", type=int, metavar="K", help="number of classes")
    group.add_argument("--encoder", metavar="NAME", help=f"another encoder: {', '.join(list_encoders())}")
    group.add_argument("--form", metavar="NAME", help="form of the encoder, such as reference")
    group.add_argument("--options", metavar="YAML", help="further keywords, '{spike_driven: true, in_chans: 1}'")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as keywords.

    Raises:
        ValueError: ``--options`` is no mapping, or asks for weights.
    """
    given = {
        name: value for name in ("T", "num_classes", "encoder", "form") if (value := getattr(args, name)) is not None
    }
    try:
        further = yaml.safe_load(args.options or "{}")
    except yaml.YAMLError:
        further = None
    if not isinstance(further, dict) or not all(isinstance(name, str) for name in further):
        raise ValueError(f"--options is {args.options!r}; it needs keywords as YAML: '{{drop_rate: 0.1}}'.")
    if weights := further.keys() & {"pretrained", "checkpoint_path"}:
        raise ValueError(f"--options has {', '.join(sorted(weights))}; for weights, give {WEIGHTS}.")
    return further | given


def names(pattern: str = "*") -> list[str]:
    """The networks of this package that timm knows."""
    return timm.list_models(pattern, module=MODULES)


def build(name: str, **keywords: Any) -> nn.Module:
    """A network of this package with random weights, the same at every call.

    Raises:
        ValueError: an unknown name, or keywords that do not fit.
    """
    if name not in (known := names()):
        raise ValueError(f"The network {name!r} does not exist; choose one of {', '.join(known)}.")
    torch.manual_seed(0)
    try:
        return timm.create_model(name, **keywords)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        raise ValueError(f"{name} cannot be built with {given}: {error}") from error


def open_network(args: argparse.Namespace) -> tuple[nn.Module, bool]:
    """The network that was asked for, in evaluation mode, and whether it has trained weights.

    Raises:
        ValueError, OSError: an unknown name, options that do not fit, or weights that cannot be loaded.
    """
    keywords = options(args)
    if args.network in names():
        return build(args.network, **keywords).eval(), False
    if not is_there(args.network):
        raise ValueError(
            f"{args.network!r} is neither a network nor a folder or file of weights; gac-sj models lists the networks."
        )
    if keywords:
        raise ValueError(f"{args.network} holds its own options; leave out {', '.join(keywords)}.")
    return open_weights(args.network), True


def is_there(source: str) -> bool:
    """Whether a file or folder exists; what has a colon, :func:`open_weights` looks up."""
    return ":" in source or Path(source).exists()


def open_weights(source: str) -> nn.Module:
    """A network of this package with its weights, in evaluation mode.

    Raises:
        ValueError, OSError: weights that cannot be loaded, or are those of another network that timm knows.
    """
    model = load_pretrained(source)
    if not isinstance(model, EncodedNetwork):
        raise ValueError(f"{source} holds a {type(model).__name__}, not a network of gac_sj; give weights of one.")
    return model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
