"""BatchNorm and the LIF neuron behind it: in one pass, one after the other, SpikingJelly's, and a loop over steps."""

from __future__ import annotations

import argparse

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from gac_sj.nn import norm_lif
from gac_sj.nn.presets import lif_preset
from gac_sj.ops.channels import pays
from gac_sj.ops.dispatch import KERNELS, choose
from speeds.checking import distance, require_equal
from speeds.counterparts import Fresh, spikingjelly_neuron, spikingjelly_path
from speeds.measuring import Comparison, copying, device_time
from speeds.naive import NaiveLIF
from speeds.passes import DTYPES, FORWARD, Variant

__all__ = ["HELP", "QUICK", "add_arguments", "compare"]

HELP = "BatchNorm and the neuron: one operator, our two, SpikingJelly's, and a loop over steps"
QUICK = {"batch": 2, "size": 8, "repeats": 5}

#: Flipped spikes have other gradients: one in ten thousand in float32, and a rounded value in one of hundreds.
TOLERANCE = {torch.float32: 0.05, torch.float16: 0.3, torch.bfloat16: 0.5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark.

    Args:
        parser: of the sub-command.
    """
    parser.add_argument("-T", type=int, default=4, help="time steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=16, help="of the maps (default: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="side of a map in pixels (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the input (default: %(default)s)")
    parser.set_defaults(repeats=20)


class _Together(nn.Module):
    """A BatchNorm and a neuron in one operator."""

    def __init__(self, channels: int, node: nn.Module):
        super().__init__()
        self.norm, self.node = layer.BatchNorm2d(channels, step_mode="m"), node

    def forward(self, x: Tensor) -> Tensor:
        return norm_lif.norm_then_fire(self.norm, self.node, x)


class _Separate(_Together):
    """The same, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.node(self.norm(x))


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Build and check the layers.

    Args:
        args: the parsed arguments.

    Returns:
        One comparison for each mode.

    Raises:
        WrongResultError: a variant computes another result; then none is timed.
    """
    torch.manual_seed(0)
    dtype, C = DTYPES[args.dtype], args.channels
    shape = args.T * args.batch, C, args.size, args.size
    x, grad = (torch.randn(shape, device=args.device).to(dtype).unflatten(0, (args.T, args.batch)) for _ in range(2))
    inputs = {
        memory: tuple(
            tensor.flatten(0, 1).contiguous(memory_format=memory).unflatten(0, x.shape[:2]) for tensor in (x, grad)
        )
        for memory in (torch.contiguous_format, torch.channels_last)
    }
    node = lif_preset("cifar")
    path = choose("norm_lif", x, node.surrogate_function, steps=args.T)
    fused = f"{path}+norm_lif" if path in KERNELS and pays(x) else path
    theirs = spikingjelly_path(node, x.device, dtype)
    variants = {
        "ours": Variant(Fresh(_Together(C, node)), fused),
        "separate": Variant(Fresh(_Separate(C, lif_preset("cifar"))), path),
        "ours+channels_last": Variant(Fresh(_Together(C, lif_preset("cifar"))), fused),
        "separate+channels_last": Variant(Fresh(_Separate(C, lif_preset("cifar"))), path),
        "spikingjelly": Variant(Fresh(_Separate(C, spikingjelly_neuron(node))), theirs),
        "naive": Variant(_Separate(C, NaiveLIF(node))),
    }
    for variant in variants.values():
        variant.module.to(args.device)
    shared = {"dtype": args.dtype, "T": args.T, "batch": args.batch, "size": args.size, "channels": C}
    limits = {"copy_bytes_per_s": copying(x)}
    comparisons = []
    for mode in args.modes:
        passes = {}
        for name, variant in variants.items():
            memory = torch.channels_last if name.endswith("channels_last") else torch.contiguous_format
            values, gradient = inputs[memory]
            passes[name] = variant.on(values.detach().requires_grad_(), None if mode == FORWARD else gradient)
        expected = passes["separate"].results()
        for name in [name for name in passes if name != "separate"]:  # it has moved its running statistics
            require_equal(name, distance(passes[name].results(), expected), TOLERANCE[dtype], f"in {args.dtype}")
        comparisons.append(
            Comparison(
                mode=mode,
                runs=passes,
                clock=device_time,
                shared=shared,
                of_variant={name: {"ops_path": variant.path} for name, variant in variants.items()},
                # forward reads x and writes spikes, and training reads x once more before; backward reads x and a
                # gradient and writes one, twice
                traffic=(2 if mode == FORWARD else 9) * x.nbytes,
                limits=limits,
            )
        )
    return comparisons
