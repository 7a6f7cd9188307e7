"""Classify images, and show how the evidence grows over the time steps.

gac-sj predict cat.png dog.jpg --weights DIR
gac-sj predict cat.png --model gac_ms_resnet8_cifar --pretrained

A table for each image: the five likeliest classes after all steps, and their probability in % (softmax of the logits'
mean) when only the first 1, 2, ... steps are read. Classes are numbers if the weights contain no names (gac-sj convert
--labels). A Poisson encoder draws its spikes; the same command draws the same ones. With --quantized the layers that
receive spikes have integer weights (gac_sj.quantize), found on the first image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.model_config import resolve_input_data_config
from torch import Tensor

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.cli.networks import WEIGHTS, open_pretrained, open_weights
from gac_sj.data.image_files import read_image
from gac_sj.models.protocols import NetworkModule, encoder_of
from gac_sj.nn.quantized import BITS
from gac_sj.quantize import quantize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--weights", help=WEIGHTS)
    which.add_argument("--model", metavar="NAME", help="network whose weights come with the package")
    parser.add_argument("--pretrained", action="store_true", help="load these weights, with --model")
    parser.add_argument(
        "--quantized", type=int, choices=tuple(BITS), help="bits of the weights of layers that receive spikes"
    )


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Print a table for each image.

    Args:
        args: of the command line.

    Raises:
        UsageError: weights that cannot be loaded or are not a classifier of images, or ``--pretrained`` and ``--model``
            that do not come together; an unreadable image.
        OSError: weights that cannot be read.
    """
    if args.pretrained != (args.model is not None):
        missing, there = ("--pretrained", "--model") if args.model else ("--model", "--pretrained")
        raise UsageError(f"{missing} is needed with {there}", "or name weights with --weights")
    model = open_pretrained(args.model) if args.pretrained else open_weights(args.weights)
    if not getattr(model, "num_classes", model.pretrained_cfg["num_classes"]):
        raise UsageError(f"{args.weights or args.model} must be a classifier, got a network without classes")
    bits = args.quantized
    for path in args.images:
        image = load_image(path, model)
        torch.manual_seed(0)
        if bits:
            model, bits = cast(NetworkModule, quantize(model, bits, image)), None
        steps = model.forward_sequence(image)[:, 0]
        print("\n".join(_table(path, evidence(steps), model)), flush=True)


def evidence(steps: Tensor) -> Tensor:
    """Probabilities ``[T, K]`` when only the first 1, ..., T steps are read, from logits of every step ``[T, K]``."""
    read = torch.arange(1, len(steps) + 1, device=steps.device).unsqueeze(1)
    return (steps.cumsum(0) / read).softmax(1)


def load_image(path: Path, model: NetworkModule) -> Tensor:
    """An image file as a network receives it, ``[1, C, H, W]``: resized, cut out and normalised.

    Args:
        path: the file.
        model: the network, whose ``pretrained_cfg`` says how.

    Raises:
        UsageError: an unreadable image, or a network that takes neither grey nor colour images.
    """
    channels = encoder_of(model).in_channels
    if channels not in (1, 3):
        raise UsageError(f"{path} needs a network of grey or colour images, got one of {channels} channels")
    transform = create_transform(**resolve_input_data_config(model), is_training=False)
    return transform(_read(path, "L" if channels == 1 else "RGB")).unsqueeze(0)


def _read(path: Path, mode: str) -> Image.Image:
    try:
        return read_image(path, mode)
    except FileNotFoundError as error:
        raise UsageError(f"The image {path} does not exist", "pass the path of an image file") from error
    except Exception as error:  # PIL raises many classes for broken files
        raise UsageError(f"The image {path} cannot be read ({first_sentence(error)})", "replace or omit it") from error


def _table(path: Path, probabilities: Tensor, model: NetworkModule) -> Iterator[str]:
    T, classes = probabilities.shape
    given = model.pretrained_cfg.get("label_names") or {}
    names = {int(label): name for label, name in (given.items() if isinstance(given, dict) else enumerate(given))}
    names = {label: str(names.get(label, label)) for label in range(classes)}
    best = probabilities[-1].topk(min(5, classes)).indices.tolist()
    width = max(len("class"), *(len(names[label]) for label in best))
    yield f"{path}: {names[best[0]]}"
    yield f"  {'class':{width}}  " + "  ".join(f"{f't={t}':>5}" for t in range(1, T + 1))
    for label in best:
        yield f"  {names[label]:{width}}  " + "  ".join(f"{100 * p:5.1f}" for p in probabilities[:, label].tolist())
