"""Write a network for other runtimes: ONNX, a torch.export program, or its spike-driven backbone as NIR.

gac-sj export DIR network.onnx
gac-sj export DIR network.pt2
gac-sj export DIR backbone.nir

The ending of the file decides the format, unless --format does. NIR has no node for the encoder's gate, so a NIR file
contains the backbone behind the encoder (gac_sj.export.split), of networks with spike_driven=True only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from gac_sj._utils.errors import UsageError
from gac_sj.analysis.inputs import draw_inputs
from gac_sj.cli.networks import add_network, open_network
from gac_sj.export import split, to_nir, to_onnx, to_program

#: The ending of each format, and the options that only it has.
FORMATS: dict[str, tuple[str, frozenset[str]]] = {
    "onnx": (".onnx", frozenset({"tolerance"})),
    "program": (".pt2", frozenset()),
    "nir": (".nir", frozenset({"spikes_only"})),
}
#: What to do about an argument of the exporters, in options of this command.
ADVICE = {
    "spikes_only": "create the network with --options '{spike_driven: true}', or pass --no-spikes-only for a simulator",
    "tolerance": "pass a larger --tolerance",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command.

    Args:
        parser: of this command.
    """
    add_network(parser)
    endings = ", ".join(f"*{ending}" for ending, _ in FORMATS.values())
    parser.add_argument("file", type=Path, help=f"file to write: {endings}")
    parser.add_argument("--format", metavar="NAME", help=f"format for any ending: {', '.join(FORMATS)}")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="ONNX: largest difference of onnxruntime's logits on two generated images (default: 1e-4)",
    )
    parser.add_argument(
        "--spikes-only",
        action=argparse.BooleanOptionalAction,
        help="NIR: whether every layer must receive spikes, as on a chip (default); not needed for simulators",
    )


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Write the file.

    Args:
        args: the parsed arguments of this command.

    Raises:
        UsageError: an unknown format, or options of another one; or see :func:`gac_sj.cli.networks.open_network` and
            :mod:`gac_sj.export`.
    """
    by_ending = {ending: name for name, (ending, _) in FORMATS.items()}
    name = args.format or by_ending.get(args.file.suffix)
    if name is None:
        raise UsageError(f"{args.file} has no known ending", f"choose one of {', '.join(FORMATS)} with --format")
    if name not in FORMATS:
        raise UsageError(f"must be an export format, got {name!r}", argument="format", options=FORMATS, given=name)
    options = {key: vars(args)[key] for key in ("tolerance", "spikes_only") if vars(args)[key] is not None}
    if unknown := options.keys() - FORMATS[name][1]:
        listed = ", ".join(f"--{option.replace('_', '-')}" for option in sorted(unknown))
        raise UsageError(f"{args.file} is written as {name}, which has no {listed}", "leave it out")
    model, _ = open_network(args)
    images, _ = draw_inputs(model, 2)
    try:
        if name == "onnx":
            to_onnx(model, args.file, images, **options)
        elif name == "program":
            to_program(model, images, args.file)
        else:
            encoder, backbone = split(model)
            to_nir(backbone, encoder(images), args.file, **options)
    except UsageError as error:
        if error.argument not in ADVICE:
            raise
        option = f"--{error.argument.replace('_', '-')}"
        raise UsageError(f"{option} {error.problem}", ADVICE[error.argument]) from error
    print(f"{args.file}: {name}, {args.file.stat().st_size / 2**20:,.1f} MiB")
