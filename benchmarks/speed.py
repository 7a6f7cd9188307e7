"""Speed ratios, measured interleaved in one run; a variant whose result is wrong is not timed.

    python benchmarks/speed.py encoder
    python benchmarks/speed.py loaders --data-dir DIR

Prints the median, the 20 % and 80 % quantiles and the ratio of medians, and adds rows to --output where that is given.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timm.data import create_dataset, create_loader

from gac_sj import GatedAttentionCoding
from gac_sj.data import (
    DATASETS,
    Augmentation,
    ResidentLoader,
    load_datasets,
    read_images,
    train_transform,
    training_loader,
)
from gac_sj.training.rows import Rows, commit, device_name, versions

SETTINGS = ("benchmark", "variant", "mode", "T", "batch", "size", "channels", "repeats", "date")
MEASURED = ("median_ms", "low_ms", "high_ms", "speedup", "commit", "versions", "device")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    encoder = benchmarks.add_parser("encoder", help="a static image: encoded once, against its repetition")
    encoder.add_argument("-T", type=int, default=6, help="time steps (default: 6)")
    encoder.add_argument("--batch", type=int, default=4, help="images (default: 4)")
    encoder.add_argument("--size", type=int, default=32, help="side of an image in pixels (default: 32)")
    encoder.add_argument("--channels", type=int, default=64, help="channels of the sequence (default: 64)")
    encoder.set_defaults(variants=encoder_variants, baseline="repeated", workers=0)
    loaders = benchmarks.add_parser(
        "loaders", help="a pass over an image folder: timm's loader, ours, the resident one"
    )
    loaders.add_argument("--data-dir", type=Path, required=True, help="image folder: train/<class>/*, test/<class>/*")
    loaders.add_argument("--images", type=int, default=5000, help="class-balanced training images (default: 5000)")
    loaders.add_argument("--batch", type=int, default=64, help="images (default: 64)")
    loaders.add_argument("--size", type=int, default=32, help="side of an image in pixels (default: 32)")
    loaders.add_argument("--workers", type=int, default=2, help="processes that load (default: 2)")
    loaders.set_defaults(variants=loader_variants, baseline="timm", T=0, channels=3)
    for command, repeats in ((encoder, 30), (loaders, 10)):
        command.add_argument(
            "--repeats", type=int, default=repeats, help="timings of each variant (default: %(default)s)"
        )
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        command.add_argument("--output", type=Path, metavar="CSV", help="add the rows to this file")
    return parser.parse_args()


def encoder_variants(args: argparse.Namespace) -> dict[str, dict[str, Callable[[], torch.Tensor]]]:
    """Mode -> variant -> what is timed. ``once`` is ours; ``repeated`` is the same mathematics on T equal frames."""
    torch.manual_seed(0)
    encoder = GatedAttentionCoding(args.T, 3, args.channels).to(args.device)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    inputs = {"once": images, "repeated": images.repeat(args.T, 1, 1, 1, 1)}
    require_equal_results(encoder, inputs)
    grad = torch.randn(args.T, args.batch, args.channels, args.size, args.size, device=args.device)

    def forward(x: torch.Tensor) -> None:
        encoder.eval()
        with torch.no_grad():
            encoder(x)

    def forward_backward(x: torch.Tensor) -> None:
        encoder.train()
        encoder.zero_grad(set_to_none=True)
        encoder(x).backward(grad)

    def timed(function: Callable, x: torch.Tensor) -> Callable[[], None]:
        return lambda: function(x)

    return {
        "forward": {name: timed(forward, x) for name, x in inputs.items()},
        "forward+backward": {name: timed(forward_backward, x) for name, x in inputs.items()},
    }


def require_equal_results(encoder: GatedAttentionCoding, inputs: dict[str, torch.Tensor]) -> None:
    """In float64, where no spike flips: output, gradients and running statistics of one training step.

    Raises:
        RuntimeError: they differ.
    """
    results = []
    for x in inputs.values():
        exact = copy.deepcopy(encoder).double().train()
        output = exact(x.double())
        output.square().sum().backward()
        results.append([output, *(p.grad for p in exact.parameters()), *exact.buffers()])
    for ours, expected in zip(*results):
        if not torch.allclose(ours, expected, rtol=1e-8, atol=1e-8):
            raise RuntimeError("The variants do not compute the same, so timing them would mean nothing.")


def loader_variants(args: argparse.Namespace) -> dict[str, dict[str, Callable[[], torch.Tensor]]]:
    """One pass with pad-and-crop and flip: timm's loader with these transforms, ours, and the resident one."""
    how, size, device = Augmentation(), (args.size, args.size), torch.device(args.device)
    mean, std = DATASETS["folder"]
    train_set = load_datasets("folder", args.data_dir)[0].balanced(args.images)
    transform = train_transform(how, size, mean)
    same = dict(mean=mean, std=std, device=device)
    ours = training_loader(train_set, args.batch, transform, workers=args.workers, **same)
    resident = ResidentLoader(*read_images(train_set, size), args.batch, augmentation=how, **same)
    folder = torch.utils.data.Subset(create_dataset("", str(args.data_dir / "train")), train_set.index)
    theirs = create_loader(folder, (3, *size), args.batch, is_training=True, num_workers=args.workers, **same)
    folder.dataset.transform = transform

    def one_pass(loader: object) -> Callable[[], None]:
        def run() -> None:
            count = sum(len(images) for images, _ in loader)
            if count != args.images // args.batch * args.batch:
                raise RuntimeError(f"A loader gave {count} images of {args.images}, so timing it would mean nothing.")

        return run

    return {"pass": {name: one_pass(loader) for name, loader in
                     {"timm": theirs, "standard": ours, "resident": resident}.items()}}  # fmt: skip


def measure(variants: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of each variant, taken in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 3):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            if repeat >= 3:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def main() -> int:
    args = parse()
    try:
        rows = Rows(args.output, SETTINGS, SETTINGS + MEASURED) if args.output else None
        for name in ("T", "batch", "size", "channels", "images", "repeats"):
            if getattr(args, name, 1) < (name != "T" or args.benchmark == "encoder"):
                raise ValueError(f"{name} is {getattr(args, name)}; give a whole number of at least 1.")
        modes = args.variants(args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    shared = {name: getattr(args, name) for name in ("benchmark", "T", "batch", "size", "channels", "repeats")}
    shared |= {
        "date": date,
        "commit": commit(),
        "versions": versions(),
        "device": device_name(torch.device(args.device)),
    }
    for mode, variants in modes.items():
        times = measure(variants, args.repeats, args.device)
        baseline = statistics.median(times[args.baseline])
        for variant, values in times.items():
            low, *_, high = statistics.quantiles(values, n=5) if len(values) > 1 else values * 2
            median = statistics.median(values)
            print(
                f"{mode:<17} {variant:<9} {median:8.2f} ms  [{low:.2f}, {high:.2f}]  "
                f"{baseline / median:.2f} x {args.baseline}"
            )
            if rows:
                measured = {"median_ms": median, "low_ms": low, "high_ms": high, "speedup": baseline / median}
                rows.add(shared | {"mode": mode, "variant": variant} | {k: f"{v:.3f}" for k, v in measured.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
