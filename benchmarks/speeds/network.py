"""Whole networks: ours with GAC and with direct coding, SpikingJelly's MSResNet, the published method; faster forms."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator

import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj.encoders import DEFAULT_ENCODER
from gac_sj.models import bare_name, default_encoder
from gac_sj.nn.memory_format import use_channels_last
from gac_sj.ops.dispatch import choose
from speeds.checking import DRAWS, require_equal_as_timed, require_equal_exactly, wake
from speeds.counterparts import spikingjelly_network, spikingjelly_path, why_no_network
from speeds.encoder import add_dtype
from speeds.measuring import Comparison, multiplying, peak_memory
from speeds.naive import naive_network
from speeds.passes import DTYPES, FORWARD, MODES, TRAINING, Variant

__all__ = ["HELP", "QUICK", "Networks", "add_arguments", "add_forms", "add_network", "compare"]

HELP = "a network: ours, SpikingJelly's MSResNet, and a loop over steps after a stem that runs T times"
QUICK = {"model": "gac_ms_resnet8_cifar", "T": 4, "batch": 2, "repeats": 3}
#: Faster forms of ours and their modes; several may be joined by "+".
FORMS = {
    "channels_last": MODES,
    "folded": (FORWARD,),
    "spikes_as_bytes": (TRAINING,),
    "grad_checkpointing": (TRAINING,),
    "compile": MODES,
    "cuda_graph": MODES,
}
#: Number of images of a check: in float64, a large batch of the slowest variant needs too much memory.
CHECKED = 4


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the network.

    Args:
        parser: of the sub-command.
    """
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--model", default="gac_ms_resnet18_cifar", help="with GAC (default: %(default)s)")
    parser.add_argument("-T", type=int, default=6, help="time steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128 if on_gpu else 4, help="images (default here: %(default)s)")
    parser.add_argument("--size", type=int, help="side of an image in pixels (default: that of the model)")
    add_dtype(parser)


def add_forms(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--also``.

    Args:
        parser: of the sub-command.
    """
    forms = f"further forms of ours: {', '.join(FORMS)}, joined by +"
    parser.add_argument("--also", nargs="+", type=_form, default=[], metavar="FORM", help=forms)


def _form(name: str) -> str:
    parts = name.split("+")
    if unknown := [part for part in parts if part not in FORMS]:
        raise argparse.ArgumentTypeError(
            f"must be a form, got {unknown[0]!r}; choose from {', '.join(FORMS)}, joined by +."
        )
    if not _modes(name):
        raise argparse.ArgumentTypeError(f"{name} joins a form for inference and one for training; leave one out.")
    if {"compile", "spikes_as_bytes"} <= {*parts}:
        raise argparse.ArgumentTypeError("compile and spikes_as_bytes cannot be joined; leave one out.")
    return "+".join(part for part in FORMS if part in parts)


def _modes(variant: str) -> list[str]:
    """The modes of a variant."""
    return [mode for mode in MODES if all(mode in FORMS.get(part, MODES) for part in variant.split("+"))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark.

    Args:
        parser: of the sub-command.
    """
    add_network(parser)
    add_forms(parser)
    parser.set_defaults(repeats=10)


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Build and check the networks.

    Args:
        args: the parsed arguments.

    Returns:
        One comparison for each mode.

    Raises:
        UsageError: the network does not exist, or a form is not available here.
        WrongResultError: a variant computes another result; then none is timed.
    """
    networks = Networks(args)
    networks.add(args.also)
    networks.check(args.modes)
    limits = {"product_flop_per_s": multiplying(networks.device, networks.dtype)}
    comparisons = []
    for mode in args.modes:
        passes = {name: networks.variants[name].on(*networks.inputs(mode)) for name in networks.of_mode(mode)}
        of_variant = {
            name: {"ops_path": networks.variants[name].path}
            | ({} if networks.variants[name].captured else {"peak_memory": peak_memory(run)})
            for name, run in passes.items()
        }
        flops = networks.flops(mode)
        flops = {name: flops.get(name, flops["ours"]) for name in passes}
        comparisons.append(
            Comparison(mode, passes, shared=networks.shared, of_variant=of_variant, flops=flops, limits=limits)
        )
    return comparisons


class Networks:
    """The variants of a network and their inputs.

    Args:
        args: the parsed arguments.

    Raises:
        UsageError: the model is not an MS-ResNet with GAC.
    """

    def __init__(self, args: argparse.Namespace):
        known = [name for name in timm.list_models(module="ms_resnet") if default_encoder(name) == DEFAULT_ENCODER]
        if args.model not in known:
            raise UsageError(
                f"must be an MS-ResNet with GAC, got {args.model!r}", argument="model", options=known, given=args.model
            )
        torch.manual_seed(0)
        self.device, self.dtype = args.device, DTYPES[args.dtype]
        self.autocast = None if self.dtype == torch.float32 else self.dtype
        ours = timm.create_model(args.model, T=args.T).to(self.device)
        direct = timm.create_model(bare_name(args.model), T=args.T).to(self.device)
        size = args.size or ours.pretrained_cfg["input_size"][-1]
        self.images = torch.randn(args.batch, 3, size, size, device=self.device)
        for model in (ours, direct):
            wake(model, self.images[:CHECKED])
        self.grad = torch.randn(args.batch, ours.num_classes, device=self.device)
        self.shared = {"model": args.model, "dtype": args.dtype, "T": args.T, "batch": args.batch, "size": size}
        path = choose("lif", self.images.to(self.dtype), ours.lif.surrogate_function, steps=args.T)
        self.variants = {"ours": Variant(ours, path), "ours_direct": Variant(direct, path)}
        self.naive_direct = Variant(naive_network(direct))
        if reason := why_no_network(direct):
            print(f"spikingjelly is left out: {reason}.")
        else:
            theirs = spikingjelly_network(direct).to(self.device)
            self.variants["spikingjelly"] = Variant(theirs, spikingjelly_path(direct.lif, self.device, self.dtype))
        self.variants["naive"] = Variant(naive_network(ours))

    def add(self, forms: list[str]) -> None:
        """Add further forms of ours.

        Args:
            forms: names as ``--also`` takes them.

        Raises:
            UsageError: a CUDA graph is requested without a GPU.
        """
        for form in forms:
            parts = form.split("+")
            if "cuda_graph" in parts and self.device.type != "cuda":
                raise UsageError(
                    f"cannot contain cuda_graph on the device {self.device.type}",
                    "it needs a GPU; leave it out",
                    argument="also",
                )
            self.variants[form] = self._form_of("ours", parts)
        if "channels_last" in forms and "spikingjelly" in self.variants:
            self.variants["spikingjelly+channels_last"] = self._form_of("spikingjelly", ["channels_last"])

    def _form_of(self, variant: str, parts: list[str]) -> Variant:
        """A copy of a variant in another form."""
        module, path = copy.deepcopy(self.variants[variant].module), self.variants[variant].path
        if "channels_last" in parts:
            use_channels_last(module)
        if "folded" in parts:
            module = gac_sj.fold_batch_norm(module.eval())
        if "spikes_as_bytes" in parts:
            module.set_spikes_as_bytes()
        if "grad_checkpointing" in parts:
            module.set_grad_checkpointing()
        if "compile" in parts:
            module = torch.compile(module, dynamic=False)  # static, although the checks have fewer images
        return Variant(module, path, "cuda_graph" in parts, "channels_last" in parts)

    def of_mode(self, mode: str) -> list[str]:
        """The names of the variants that have a mode.

        Args:
            mode: one of :data:`MODES`.
        """
        return [name for name in self.variants if mode in _modes(name)]

    def inputs(self, mode: str) -> tuple[Tensor, Tensor | None, torch.dtype | None]:
        """Images, gradient of the logits and dtype of autocast.

        Args:
            mode: one of :data:`MODES`.
        """
        return self.images, None if mode == FORWARD else self.grad, self.autocast

    def check(self, modes: list[str]) -> None:
        """Compare all variants with the naive ones, in float64 and as they are timed.

        Args:
            modes: a selection of :data:`MODES`.

        Raises:
            WrongResultError: a variant computes another result.
        """
        for mode in modes:
            for naive, names in self._groups(mode):
                draws = list(self._draws(mode))
                variants = {name: self.variants[name] for name in names}
                exact = {name: variant for name, variant in variants.items() if "compile" not in name}
                require_equal_exactly(exact, naive, *draws[0])
                require_equal_as_timed(variants, naive, draws, self.autocast)

    def _groups(self, mode: str) -> Iterator[tuple[Variant, list[str]]]:
        direct = [name for name in self.variants if name.startswith(("ours_direct", "spikingjelly"))]
        yield self.variants["naive"], [name for name in self.of_mode(mode) if name not in direct]
        yield self.naive_direct, direct

    def _draws(self, mode: str) -> Iterator[tuple[Tensor, Tensor | None]]:
        images, grad = self.images[:CHECKED], self.grad[:CHECKED]
        for _ in range(DRAWS):
            yield torch.randn_like(images), None if mode == FORWARD else torch.randn_like(grad)

    def flops(self, mode: str) -> dict[str, float]:
        """Operations of convolutions and matrix products in one pass, for each variant except further forms of ours.

        Args:
            mode: one of :data:`MODES`.
        """
        images, grad, autocast = self.inputs(mode)
        scale, grad = len(images) / len(images[:CHECKED]), None if grad is None else grad[:CHECKED]
        found = {}
        for name in ("ours", "ours_direct", "spikingjelly", "naive"):
            if name in self.variants:
                with FlopCounterMode(display=False) as counter:
                    self.variants[name].on(images[:CHECKED], grad, autocast)()
                found[name] = counter.get_total_flops() * scale
        return found
