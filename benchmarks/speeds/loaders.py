"""A pass over an image folder with pad-and-crop and flip: timm's loader, ours, and the resident loader."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from timm.data import create_dataset, create_loader

from gac_sj.data import (
    Augmentation,
    ResidentTrainingLoader,
    dataset_info,
    load_datasets,
    read_images,
    train_transform,
    training_loader,
)
from speeds.checking import WrongResultError
from speeds.measuring import Comparison

__all__ = ["HELP", "QUICK", "add_arguments", "compare"]

HELP = "a pass over an image folder: timm's loader, ours, and the resident loader"
QUICK = {"images": 500, "repeats": 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark.

    Args:
        parser: of the sub-command.
    """
    parser.add_argument("--data-dir", type=Path, required=True, help="image folder: train/<class>/*, test/<class>/*")
    parser.add_argument(
        "--images", type=int, default=5000, help="class-balanced training images (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that load images (default: %(default)s)")
    parser.set_defaults(repeats=10)


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Build the loaders of one folder.

    Args:
        args: the parsed arguments.

    Returns:
        The comparison.

    Raises:
        ValueError: the folder has too few images.
        OSError: the folder cannot be read.
    """
    how, size, device = Augmentation(), (args.size, args.size), args.device
    info = dataset_info("folder")
    mean, std = info.mean, info.std
    train_set = load_datasets("folder", args.data_dir)[0].balanced(args.images)
    transform = train_transform(how, size, mean)
    same = dict(mean=mean, std=std, device=device)
    ours = training_loader(train_set, args.batch, transform, workers=args.workers, **same)
    resident = ResidentTrainingLoader(*read_images(train_set, size), args.batch, augmentation=how, **same)
    folder = torch.utils.data.Subset(create_dataset("", str(args.data_dir / "train")), train_set.index)
    theirs = create_loader(folder, (3, *size), args.batch, is_training=True, num_workers=args.workers, **same)
    folder.dataset.transform = transform

    def one_pass(loader: object) -> Callable[[], None]:
        def run() -> None:
            count = sum(len(images) for images, _ in loader)
            if count != args.images // args.batch * args.batch:
                raise WrongResultError(f"A loader must yield all {args.images} images, got {count}; nothing was timed.")

        return run

    loaders = {"timm": theirs, "standard": ours, "resident": resident}
    runs = {name: one_pass(loader) for name, loader in loaders.items()}
    shared = {"T": 0, "batch": args.batch, "size": args.size, "channels": 3}
    return [Comparison("pass", runs, baseline="timm", shared=shared)]
