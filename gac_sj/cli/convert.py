"""Turn weights into a folder that timm loads: config.json and model.safetensors.

From a published .pth of GAC, MS-ResNet or Att-MS-ResNet, by its key names, strictly; the network must be named:

  gac-sj convert gac_cifar100_T6.pth DIR --model gac_ms_resnet18_cifar -T 6 --num-classes 100 --dataset cifar100

From the last.safetensors or best.safetensors of a run, or other weights that contain their network:

  gac-sj convert runs/mine/best.safetensors DIR --labels names.txt

Then: timm.create_model("local-dir:DIR", pretrained=True), or gac-sj predict IMAGE --weights DIR.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import read_text
from gac_sj.checkpoint import load_reference_state_dict, read_reference, save_pretrained
from gac_sj.cli.networks import WEIGHTS, add_options, build, is_there, open_weights, options, parameters
from gac_sj.data import DATASETS
from gac_sj.encoders import REFERENCE_FORM
from gac_sj.models.protocols import NetworkModule

#: Data sets of colour images, as all published networks take.
COLOUR = {name: info for name, info in DATASETS.items() if info.channels == 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", help=f"published .pth, or {WEIGHTS}")
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one per line")
    parser.add_argument("--model", metavar="NAME", help="network of a published file (gac-sj models)")
    known = ", ".join(COLOUR)
    parser.add_argument("--dataset", metavar="NAME", help=f"mean and std of its pixels, for a published file: {known}")
    add_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the folder and say what it holds.

    Args:
        args: of the command line.

    Raises:
        ValueError: options or weights that do not fit.
        OSError: weights that cannot be read, or a folder that exists.
    """
    if not is_there(args.weights):
        raise UsageError(f"{args.weights} does not exist", f"pass a published .pth, or {WEIGHTS}")
    knows_its_network = args.weights.endswith(".safetensors") or ":" in args.weights or Path(args.weights).is_dir()
    model = _as_it_is(args) if knows_its_network else _published(args)
    labels = None
    if args.labels:
        try:
            labels = read_text(args.labels).splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{args.labels} cannot be read ({first_sentence(error)})", "pass a text file", argument="labels"
            ) from error
    save_pretrained(model, args.folder, labels)
    print(
        f"{args.folder}: {model.pretrained_cfg['architecture']}, {parameters(model):,} parameters, T = {model.T}, "
        f"{model.num_classes} classes; timm.create_model('local-dir:{args.folder}', pretrained=True)"
    )


def _published(args: argparse.Namespace) -> NetworkModule:
    """The network of a published file; a form other than the published one is refused when the weights are loaded."""
    if args.model is None:
        raise UsageError(f"{args.weights} does not name its network", "name it with --model (gac-sj models lists them)")
    overlay: dict[str, Any] = {}
    if args.dataset is not None:
        if args.dataset not in COLOUR:
            raise UsageError(
                f"must be a set of colour images, got {args.dataset!r}", argument="dataset", options=COLOUR
            )
        info = COLOUR[args.dataset]
        overlay = {"pretrained_cfg_overlay": {"mean": info.mean, "std": info.std}}
    state_dict = read_reference(args.weights)
    model = build(args.model, **{"form": REFERENCE_FORM} | options(args) | overlay)
    load_reference_state_dict(model, state_dict)
    return model


def _as_it_is(args: argparse.Namespace) -> NetworkModule:
    given = [*options(args), *(name for name in ("model", "dataset") if getattr(args, name))]
    if given:
        raise UsageError(f"{args.weights} contains its network and data", f"leave out {', '.join(given)}")
    return open_weights(args.weights)
