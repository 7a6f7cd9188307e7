"""Networks as commands take them: by name, with options, or from weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import to_2tuple
from torch import nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.reading import parse_yaml
from gac_sj._utils.user_code import is_place
from gac_sj.checkpoint import load_pretrained
from gac_sj.encoders import BASELINE_ENCODER, encoder_info, list_encoders
from gac_sj.models.builder import OF_TIMM
from gac_sj.models.kinds import MODULES, PREFIX, create_network, pixel_statistics, record_network
from gac_sj.models.protocols import NetworkModule, missing_parts

__all__ = [
    "WEIGHTS",
    "add_network",
    "add_options",
    "build",
    "is_there",
    "names",
    "open_network",
    "open_pretrained",
    "open_weights",
    "options",
    "parameters",
    "pretrained_names",
]

#: Keywords of a network that are options of a command.
OWN_OPTIONS = ("T", "num_classes", "encoder", "form")
WEIGHTS = "a folder of gac-sj convert, hf-hub:NAME, or last.safetensors of a run"


def add_network(parser: argparse.ArgumentParser) -> None:
    """Declare a network, by name or with its weights, and the options of one by name."""
    parser.add_argument(
        "network", help=f"a name (gac-sj models, spikingjelly:NAME, FILE.py:FUNCTION), or weights: {WEIGHTS}"
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a network by name."""
    group = parser.add_argument_group("a network by name")
    group.add_argument("-T", type=int, metavar="STEPS", help="time steps")
    group.add_argument("--num-classes", type=int, metavar="K", help="number of classes")
    group.add_argument("--encoder", metavar="NAME", help=f"another encoder: {', '.join(list_encoders())}")
    group.add_argument("--form", metavar="NAME", help="form of the encoder, such as reference")
    group.add_argument("--options", metavar="YAML", help="further keywords, '{spike_driven: true, in_chans: 1}'")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as keywords.

    Args:
        args: of a command with :func:`add_options`.

    Raises:
        UsageError: ``--options`` is not a mapping, or has what is an option of its own or timm's, such as weights.
    """
    given = {name: value for name in OWN_OPTIONS if (value := getattr(args, name)) is not None}
    try:
        further = parse_yaml(args.options or "{}")
    except ValueError:
        further = None
    if not isinstance(further, dict):
        raise UsageError(
            f"must be keywords as YAML, such as '{{drop_rate: 0.1}}', got {args.options!r}", argument="options"
        )
    if own := sorted(further.keys() & OWN_OPTIONS):
        raise UsageError(f"has {own[0]}, which is an option of its own", "give it there", argument="options")
    if of_timm := sorted(further.keys() & OF_TIMM):
        raise UsageError(
            f"has {', '.join(of_timm)}, of timm's builder, not of the network",
            f"leave it out; for weights, pass {WEIGHTS}",
            argument="options",
        )
    return further | given


def names(pattern: str = "*") -> list[str]:
    """The networks of this package that timm knows, with names like ``pattern``."""
    return timm.list_models(pattern, module=MODULES)


def pretrained_names() -> list[str]:
    """The weights that come with the package, as timm names them."""
    return timm.list_models(module=MODULES, pretrained=True)


def build(name: str, **keywords: Any) -> NetworkModule:
    """Build a network with random weights, the same at every call.

    Args:
        name: of any kind (:mod:`gac_sj.models.kinds`).
        keywords: of the network and its encoder. Networks of other packages have T = 4, 1,000 classes and images of
            3 x 224 x 224 pixels unless ``in_chans`` and ``img_size`` say otherwise.

    Raises:
        UsageError: an unknown name, or keywords that do not fit.
    """
    name, source = record_network(name)
    torch.manual_seed(0)
    try:
        if name in names():
            return cast(NetworkModule, timm.create_model(name, **keywords))
        return _build_other(name, source, **keywords)
    except UsageError as error:
        if error.argument in (None, "model", *OWN_OPTIONS):
            raise
        raise UsageError(f"{name} cannot be built: {str(error).rstrip('.')}") from error
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        raise UsageError(f"{name} cannot be built with {given}: {first_sentence(error)}") from error


def _build_other(
    name: str,
    source: str | None,
    T: int = 4,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int | tuple[int, int] = 224,
    encoder: str = BASELINE_ENCODER,
    form: str | None = None,
    **options: Any,
) -> NetworkModule:
    """A network of another package or of a user."""
    info = encoder_info(encoder)
    return create_network(
        name,
        source,
        T=T,
        encoder=encoder,
        form=info.default_form if form is None else form,
        num_classes=num_classes,
        shape=(in_chans, *to_2tuple(img_size)),
        statistics=pixel_statistics(info, (0.5,) * in_chans, (0.5,) * in_chans),
        options=options,
    )


def open_network(args: argparse.Namespace) -> tuple[NetworkModule, bool]:
    """The network of a command with :func:`add_network`, in evaluation mode, and whether it has trained weights.

    Args:
        args: of the command.

    Raises:
        UsageError: an unknown name, options that do not fit, or weights that cannot be loaded.
        OSError: weights that cannot be read.
    """
    keywords = options(args)
    if args.network in names() or args.network.startswith(PREFIX) or is_place(args.network):
        return build(args.network, **keywords).eval(), False
    if not is_there(args.network):
        raise UsageError(
            f"{args.network!r} is neither a network nor a folder or file of weights",
            "gac-sj models lists the networks",
        )
    if keywords:
        raise UsageError(f"{args.network} contains its own options", f"leave out {', '.join(keywords)}")
    return open_weights(args.network), True


def is_there(source: str) -> bool:
    """Whether a file or folder exists; names with a colon are looked up by :func:`open_weights`."""
    return ":" in source or Path(source).exists()


def open_weights(source: str) -> NetworkModule:
    """Load a network with its weights, in evaluation mode.

    Args:
        source: see :func:`gac_sj.checkpoint.load_pretrained`.

    Raises:
        UsageError: weights that cannot be loaded, or of a network that lacks what
            :class:`gac_sj.models.protocols.Network` says.
        OSError: weights that cannot be read.
    """
    model = load_pretrained(source)
    if missing_parts(model):
        raise UsageError(f"{source} holds a {type(model).__name__}, not a network of gac_sj", "pass weights of one")
    return cast(NetworkModule, model)


def open_pretrained(name: str) -> NetworkModule:
    """Load a network with the weights that come with the package, in evaluation mode.

    Args:
        name: as timm names them, with or without a tag.

    Raises:
        UsageError: there are no such weights, or they are damaged.
        OSError: they cannot be read or downloaded.
    """
    known = pretrained_names()
    if name not in known and not (name in names() and timm.is_model_pretrained(name)):
        raise UsageError(
            f"must be a network with pretrained weights, got {name!r}",
            "" if known else "this version of gac_sj has none",
            argument="model",
            options=known,
            given=name,
        )
    return cast(NetworkModule, timm.create_model(name, pretrained=True).eval())


def parameters(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
