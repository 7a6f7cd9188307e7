"""The LIF neuron of the preset "cifar" alone: ours, SpikingJelly's LIFNode, and a loop over steps."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from gac_sj.nn.neuron import LIFNode
from gac_sj.nn.presets import lif_preset
from gac_sj.ops.dispatch import choose
from gac_sj.ops.lif import reference
from speeds.checking import distance, require_equal
from speeds.counterparts import Fresh, spikingjelly_neuron, spikingjelly_path
from speeds.measuring import Comparison, copying, device_time
from speeds.naive import NaiveLIF
from speeds.passes import DTYPES, FORWARD, Pass, Variant

__all__ = ["HELP", "QUICK", "add_arguments", "compare"]

HELP = "the neuron: a fused operator, SpikingJelly's LIFNode, and a loop over steps"
QUICK = {"elements": 2**18, "repeats": 5}

#: In float32, spikes are equal and gradients differ by roundings. For 16-bit inputs ours keeps the state in 32 bits, as
#: the definition does; the others round it at every step, which flips one spike in a thousand (bfloat16) or fewer.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.1, torch.bfloat16: 0.1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark.

    Args:
        parser: of the sub-command.
    """
    parser.add_argument("-T", type=int, default=6, help="time steps (default: %(default)s)")
    parser.add_argument("--elements", type=int, default=2**21, help="neurons (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the input (default: %(default)s)")
    parser.set_defaults(repeats=20)


class _Definition(nn.Module):
    """The definition of the operator, with float32 state."""

    def __init__(self, node: LIFNode):
        super().__init__()
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        spikes, _, _ = reference.lif(x, self.node.dynamics, self.node.surrogate_function)
        return spikes


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Build and check the neurons.

    Args:
        args: the parsed arguments.

    Returns:
        One comparison for each mode.

    Raises:
        WrongResultError: a variant computes another result; then none is timed.
    """
    torch.manual_seed(0)
    dtype = DTYPES[args.dtype]
    x = (0.4 + 0.8 * torch.randn(args.T, args.elements, device=args.device)).to(dtype).requires_grad_()
    grad = torch.randn_like(x)
    node = lif_preset("cifar")
    variants = {
        "ours": Variant(Fresh(node), choose("lif", x, node.surrogate_function, steps=args.T)),
        "spikingjelly": Variant(Fresh(spikingjelly_neuron(node)), spikingjelly_path(node, x.device, dtype)),
        "naive": Variant(NaiveLIF(node)),
    }
    definition = Variant(_Definition(node))
    shared = {"dtype": args.dtype, "T": args.T, "size": args.elements}
    limits = {"copy_bytes_per_s": copying(x.detach())}
    # forward reads x and writes spikes; backward reads x and their gradient and writes the gradient of x
    comparisons = []
    for mode in args.modes:
        backward = None if mode == FORWARD else grad
        passes = {name: variant.on(x, backward) for name, variant in variants.items()}
        _require_equal(passes, definition.on(x, backward), dtype)
        comparisons.append(
            Comparison(
                mode=mode,
                runs=passes,
                clock=device_time,
                shared=shared,
                of_variant={name: {"ops_path": variant.path} for name, variant in variants.items()},
                traffic=(2 if mode == FORWARD else 5) * x.nbytes,
                limits=limits,
            )
        )
    return comparisons


def _require_equal(passes: dict[str, Pass], definition: Pass, dtype: torch.dtype) -> None:
    expected = definition.results()
    for name, run in passes.items():
        found = run.results()
        if dtype == torch.float32:
            require_equal(f"A spike of {name}", distance(found[:1], expected[:1]), 0.0, "in float32")
        require_equal(name, distance(found, expected), TOLERANCE[dtype], f"in {str(dtype).removeprefix('torch.')}")
