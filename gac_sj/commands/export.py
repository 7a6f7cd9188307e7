"""Write a network for other runtimes: ONNX, a torch.export program, or its spike-driven backbone as NIR.

gac-sj export DIR network.onnx
gac-sj export DIR network.pt2
gac-sj export DIR backbone.nir

The format is that of the file's ending, or --format's. The encoder's gate has no NIR node, so NIR holds what is behind
the encoder, which stays on the host (gac_sj.export.split); networks of spike_driven=True suit it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from gac_sj.commands.networks import add_network, draw_inputs, open_network

ENDINGS = {".onnx": "onnx", ".pt2": "program", ".nir": "nir"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("file", type=Path, help=f"to be written: {', '.join(f'*{ending}' for ending in ENDINGS)}")
    parser.add_argument("--format", metavar="NAME", help=f"whatever the ending: {', '.join(ENDINGS.values())}")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="X",
        help="largest difference of onnxruntime's logits on two generated images (ONNX only; default: %(default)s)",
    )


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Write the file.

    Raises:
        ValueError, OSError: an unknown format; see :func:`gac_sj.commands.networks.open_network` and
            :mod:`gac_sj.export`.
    """
    kind = args.format or ENDINGS.get(args.file.suffix)
    if kind not in ENDINGS.values():
        given = f"--format is {kind!r}" if kind else f"{args.file} has no known ending"
        raise ValueError(f"{given}; the formats are {', '.join(ENDINGS.values())}; choose one with --format.")
    from gac_sj.export import split, to_nir, to_onnx, to_program

    model, _ = open_network(args)
    images, _ = draw_inputs(model, 2)
    if kind == "onnx":
        to_onnx(model, args.file, images, tolerance=args.tolerance)
    elif kind == "program":
        to_program(model, images, args.file)
    else:
        encoder, backbone = split(model)
        to_nir(backbone, encoder(images), args.file)
    print(f"{args.file}: {kind}, {args.file.stat().st_size / 2**20:,.1f} MiB")
