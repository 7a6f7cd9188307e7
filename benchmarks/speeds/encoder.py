"""GAC's encoder on static images: ours, SpikingJelly's layers on T copies with our gate, and the published method."""

from __future__ import annotations

import argparse

import torch

from gac_sj import GatedAttentionCoding
from gac_sj.ops.dispatch import choose
from speeds.checking import require_equal_as_timed, require_equal_exactly, wake
from speeds.counterparts import SpikingJellyEncoder, spikingjelly_path
from speeds.measuring import Comparison, peak_memory
from speeds.naive import NaiveEncoder
from speeds.passes import DTYPES, FORWARD, Variant

__all__ = ["HELP", "QUICK", "add_arguments", "compare"]

HELP = "the encoder on static images: encoded once, compared with T copies"
QUICK = {"repeats": 5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark.

    Args:
        parser: of the sub-command.
    """
    parser.add_argument("-T", type=int, default=6, help="time steps (default: %(default)s)")
    batch = 128 if torch.cuda.is_available() else 4
    parser.add_argument("--batch", type=int, default=batch, help="images (default here: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=64, help="channels of the sequence (default: %(default)s)")
    add_dtype(parser)
    parser.set_defaults(repeats=30)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--dtype``.

    Args:
        parser: of the sub-command.
    """
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16: under autocast (default: %(default)s)",
    )


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Build and check the encoders.

    Args:
        args: the parsed arguments.

    Returns:
        One comparison for each mode.

    Raises:
        WrongResultError: a variant computes another result; then none is timed.
    """
    torch.manual_seed(0)
    dtype = DTYPES[args.dtype]
    autocast = None if dtype == torch.float32 else dtype
    encoder = GatedAttentionCoding(args.T, 3, args.channels).to(args.device)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    wake(encoder, images)
    shape = args.T, args.batch, args.channels, args.size, args.size
    grad = torch.randn(shape, device=args.device)
    node = encoder.neuron
    path = choose("gated_lif", images.to(dtype), node.surrogate_function, steps=args.T)
    theirs = SpikingJellyEncoder(encoder).to(args.device)
    variants = {
        "ours": Variant(encoder, path),
        "spikingjelly": Variant(theirs, spikingjelly_path(node, images.device, dtype)),
        "naive": Variant(NaiveEncoder(encoder)),
    }
    grads = {mode: None if mode == FORWARD else grad for mode in args.modes}
    for backward in grads.values():
        require_equal_exactly(variants, variants["naive"], images, backward)
        require_equal_as_timed(variants, variants["naive"], [(images, backward)], autocast)
    shared = {name: getattr(args, name) for name in ("dtype", "T", "batch", "size", "channels")}
    comparisons = []
    for mode, backward in grads.items():
        passes = {name: variant.on(images, backward, autocast) for name, variant in variants.items()}
        of_variant = {
            name: {"ops_path": variants[name].path, "peak_memory": peak_memory(run)} for name, run in passes.items()
        }
        comparisons.append(Comparison(mode, passes, shared=shared, of_variant=of_variant))
    return comparisons
