"""Write a network for other runtimes: ONNX, a torch.export program, or its spike-driven backbone as NIR.

gac-sj export DIR network.onnx
gac-sj export DIR network.pt2
gac-sj export DIR backbone.nir

The format is that of the file's ending, or --format's. The encoder's gate has no NIR node, so NIR holds what is behind
the encoder, which stays on the host (gac_sj.export.split), of networks of spike_driven=True only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from gac_sj.analysis.inputs import draw_inputs
from gac_sj.cli.networks import add_network, open_network

#: Each format's ending and the options that are its own.
FORMATS = {"onnx": (".onnx", {"tolerance"}), "program": (".pt2", set()), "nir": (".nir", {"spikes_only"})}
#: What the exporters advise, as options.
ADVICE = {"spike_driven=True": "--options '{spike_driven: true}'", "pass spikes_only=False": "pass --no-spikes-only"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    endings = ", ".join(f"*{ending}" for ending, _ in FORMATS.values())
    parser.add_argument("file", type=Path, help=f"to be written: {endings}")
    parser.add_argument("--format", metavar="NAME", help=f"whatever the ending: {', '.join(FORMATS)}")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="ONNX: how far onnxruntime's logits may be off on two generated images (default: 1e-4)",
    )
    parser.add_argument(
        "--spikes-only",
        action=argparse.BooleanOptionalAction,
        help="NIR: whether a layer that receives something else is an error, as on a chip (default), or for simulators",
    )


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Write the file.

    Raises:
        ValueError, OSError: an unknown format, or options of another one; see
            :func:`gac_sj.cli.networks.open_network` and :mod:`gac_sj.export`.
    """
    kind = args.format or next((name for name, (ending, _) in FORMATS.items() if ending == args.file.suffix), None)
    if kind not in FORMATS:
        reason = f"--format is {kind!r}" if kind else f"{args.file} has no known ending"
        raise ValueError(f"{reason}; the formats are {', '.join(FORMATS)}; choose one with --format.")
    given = {name: getattr(args, name) for name in ("tolerance", "spikes_only") if getattr(args, name) is not None}
    if unknown := given.keys() - FORMATS[kind][1]:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unknown))
        raise ValueError(f"{args.file} is written as {kind}, which has no {named}; leave it out.")
    from gac_sj.export import split, to_nir, to_onnx, to_program

    model, _ = open_network(args)
    images, _ = draw_inputs(model, 2)
    if kind == "onnx":
        to_onnx(model, args.file, images, **given)
    elif kind == "program":
        to_program(model, images, args.file)
    else:
        encoder, backbone = split(model)
        try:
            to_nir(backbone, encoder(images), args.file, **given)
        except ValueError as error:
            said = str(error)
            for keyword, option in ADVICE.items():
                said = said.replace(keyword, option)
            raise ValueError(said) from error
    print(f"{args.file}: {kind}, {args.file.stat().st_size / 2**20:,.1f} MiB")
