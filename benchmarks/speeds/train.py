"""An optimiser step of ours, of the same network with SpikingJelly's layers, and of the published one, in all forms."""

from __future__ import annotations

import argparse
import copy

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gac_sj._utils.errors import UsageError
from gac_sj.encoders import DEFAULT_ENCODER
from gac_sj.models import default_encoder
from gac_sj.ops.dispatch import choose
from speeds.checking import DRAWS, require_equal_as_timed, require_equal_exactly, wake
from speeds.counterparts import spikingjelly_path, with_spikingjelly
from speeds.forms import PLAIN, Form
from speeds.measuring import Comparison, multiplying
from speeds.naive import naive_network
from speeds.passes import Variant
from speeds.stepping import QUICK, batch, optimiser_step
from speeds.stepping import add_arguments as add_network

__all__ = ["HELP", "QUICK", "STEP", "SideBySide", "add_arguments", "compare"]

HELP = "a whole step of training, in several precisions and memory formats"
STEP = "step"
#: Number of images of a check.
CHECKED = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark.

    Args:
        parser: of the sub-command.
    """
    add_network(parser, "gac_ms_resnet8_cifar", 64)
    parser.set_defaults(repeats=10)


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Build and check the networks.

    Args:
        args: the parsed arguments.

    Returns:
        One comparison of all of them.

    Raises:
        UsageError: the network does not exist, or a form is not available here.
        WrongResultError: a network computes another result; then none is timed.
    """
    networks = SideBySide(args)
    networks.check(training=True)
    flops = networks.flops(training=True)
    runs = {}
    for name, (module, each) in networks.modules.items():
        images, labels = batch(args, each.memory_format)
        runs[name] = optimiser_step(module.train(), images, labels, each.autocast, each.has("cuda_graph"))
    return [networks.comparison(STEP, runs, flops)]


class SideBySide:
    """Ours, the one of SpikingJelly's neurons and the published one in every form; ours alone is compiled or captured.

    Args:
        args: the parsed arguments.

    Raises:
        UsageError: the model has no GAC, or a CUDA graph is requested without a GPU.
    """

    def __init__(self, args: argparse.Namespace):
        known = [name for name in timm.list_models(module="ms_resnet") if default_encoder(name) == DEFAULT_ENCODER]
        if args.model not in known:
            raise UsageError(
                f"must be an MS-ResNet with GAC, got {args.model!r}", argument="model", options=known, given=args.model
            )
        if args.device.type != "cuda" and any(each.has("cuda_graph") for each in args.forms):
            raise UsageError(
                f"cannot contain cuda_graph on the device {args.device.type}", "leave it out", argument="forms"
            )
        self.args = args
        torch.manual_seed(0)
        ours = timm.create_model(args.model, T=args.T, num_classes=10).to(args.device)
        wake(ours, batch(args, torch.contiguous_format)[0][:CHECKED])
        self.lif = ours.lif
        of_whom = {"ours": ours, "spikingjelly": with_spikingjelly(ours), "naive": naive_network(ours)}
        self.modules: dict[str, tuple[nn.Module, Form]] = {}
        for who, module in of_whom.items():
            for each in dict.fromkeys([Form(PLAIN), *args.forms]):
                if who == "ours" or not (each.has("compile") or each.has("cuda_graph")):
                    self.modules[_name(who, each)] = each.apply(copy.deepcopy(module)), each

    def check(self, training: bool) -> None:
        """Compare all networks with the published one, in float64 and as they are timed.

        Args:
            training: whether gradients are compared as well.

        Raises:
            WrongResultError: one computes another result.
        """
        draws = [torch.randn(CHECKED, 3, self.args.size, self.args.size, device=self.args.device) for _ in range(DRAWS)]
        inputs = [(x, torch.randn(CHECKED, 10, device=self.args.device) if training else None) for x in draws]
        naive = Variant(self.modules["naive"][0])
        for autocast in dict.fromkeys(each.autocast for _, each in self.modules.values()):
            variants = {
                name: Variant(module, channels_last=each.has("channels_last"))
                for name, (module, each) in self.modules.items()
                if each.autocast == autocast and not each.has("cuda_graph")  # the same operations
            }
            exact = {name: each for name, each in variants.items() if "compile" not in name}
            if autocast is None:
                require_equal_exactly(exact, naive, *inputs[0])
            require_equal_as_timed(variants, naive, inputs, autocast)

    def flops(self, training: bool) -> float:
        """Operations of convolutions and matrix products of ours for one image.

        Args:
            training: whether the backward pass counts.
        """
        module = copy.deepcopy(self.modules["ours"][0])
        x = torch.randn(CHECKED, 3, self.args.size, self.args.size, device=self.args.device)
        with FlopCounterMode(display=False) as counter:
            Variant(module).on(x, x.new_zeros(CHECKED, 10) if training else None)()
        return counter.get_total_flops() / CHECKED

    def comparison(self, mode: str, runs: dict, flops: float, further: dict[str, dict] | None = None) -> Comparison:
        """What is timed: images per second, and how far from a matrix product of the same type each is.

        Args:
            mode: of the rows.
            runs: what is timed, by variant.
            flops: operations for one image.
            further: columns of some variants.
        """
        args, of_variant, limit_of = self.args, {}, {}
        for name in runs:
            of_variant[name] = {**(further or {}).get(name, {})}
            if name not in self.modules:
                continue
            dtype = self.modules[name][1].autocast or torch.float32
            limit_of[name] = {"product_flop_per_s": str(dtype)}
            of_variant[name]["ops_path"] = self._path(name, dtype)
        types = {each.autocast or torch.float32 for _, each in self.modules.values()}
        return Comparison(
            mode,
            runs,
            shared={name: getattr(args, name) for name in ("model", "T", "batch", "size")},
            of_variant=of_variant,
            flops=dict.fromkeys(limit_of, flops * args.batch),
            limits={str(dtype): multiplying(args.device, dtype) for dtype in types},
            limit_of=limit_of,
            images=args.batch,
        )

    def _path(self, name: str, dtype: torch.dtype) -> str:
        if name.startswith("naive"):
            return "torch"
        if name.startswith("spikingjelly"):
            return spikingjelly_path(self.lif, self.args.device, dtype)
        like = torch.empty(0, device=self.args.device, dtype=dtype)
        return choose("lif", like, self.lif.surrogate_function, steps=self.args.T)


def _name(who: str, each: Form) -> str:
    """``ours``, ``bfloat16`` (ours), ``spikingjelly``, ``spikingjelly+bfloat16``, ..."""
    if who == "ours":
        return "ours" if each.name == PLAIN else each.name
    return who if each.name == PLAIN else f"{who}+{each.name}"
