"""An optimiser step of a network, and a program that times those of any revision of the package.

    PYTHONPATH=CHECKOUT:benchmarks python -m speeds.stepping --forms float32 bfloat16+channels_last --output ROWS

``speed.py train --against REV`` runs it for both revisions, so that both do the same work. It knows of the package only
what all revisions have: that importing it registers networks with timm.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import gac_sj
from speeds.forms import PLAIN, Form, form
from speeds.measuring import measure, wall_time

__all__ = ["QUICK", "add_arguments", "batch", "optimiser_step"]

QUICK = {"batch": 8, "repeats": 3}

#: Small, so that the networks of a comparison stay alike.
_LR = 1e-3


def add_arguments(parser: argparse.ArgumentParser, model: str, batch_size: int) -> None:
    """Add the options that describe networks, their input and their forms.

    Args:
        parser: of the program.
        model: the default network.
        batch_size: the default batch.
    """
    forms = [form(name) for name in (PLAIN, "channels_last", "bfloat16", "bfloat16+channels_last")]
    parser.add_argument("--model", default=model, help="with GAC (default: %(default)s)")
    parser.add_argument("-T", type=int, default=4, help="time steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=batch_size, help="images (default here: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument(
        "--forms",
        nargs="+",
        type=form,
        default=forms,
        metavar="FORM",
        help="float32, or bfloat16, channels_last, compile (ours alone), cuda_graph (ours alone, a whole step), joined "
        f"by + (default: {' '.join(each.name for each in forms)})",
    )


def batch(args: argparse.Namespace, memory_format: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Images ``[N, 3, H, W]`` and labels ``[N]``, the same ones at every call.

    Args:
        args: parsed options of :func:`add_arguments`.
        memory_format: of the images.
    """
    torch.manual_seed(1)
    images = torch.randn(args.batch, 3, args.size, args.size).to(args.device, memory_format=memory_format)
    return images, torch.randint(10, (args.batch,)).to(args.device)


def optimiser_step(
    model: nn.Module, images: Tensor, labels: Tensor, autocast: torch.dtype | None, captured: bool = False
) -> Callable[[], object]:
    """A step of SGD with momentum: forward pass, loss, backward pass, update.

    Args:
        model: in training mode.
        images: ``[N, 3, H, W]``.
        labels: ``[N]``.
        autocast: dtype of autocast, or None.
        captured: whether the step is a CUDA graph.
    """
    optimizer = torch.optim.SGD(model.parameters(), _LR, momentum=0.9, fused=captured or None)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor]:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            logits = model(images)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return (loss.detach(),)

    if not captured:
        return lambda: step(images, labels)
    from gac_sj.training.capture import Captured  # a revision of before it has no such form

    graph = Captured(step)
    return lambda: graph(images, labels)


def main() -> None:
    """Write a row for each form of the package's network."""
    parser = argparse.ArgumentParser("stepping.py", description=__doc__, allow_abbrev=False)
    add_arguments(parser, "gac_ms_resnet8_cifar", 64)
    parser.add_argument("--repeats", type=int, default=10, help="number of timings (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True, metavar="CSV")
    parser.add_argument("--quick", action="store_true", help="smaller defaults; explicit options still apply")
    if "--quick" in sys.argv:
        parser.set_defaults(**QUICK)
    args = parser.parse_args()
    getattr(gac_sj, "keep_memory", bool)()  # as the programs of revisions that have it do
    runs = {each.name: _step_of(args, each) for each in args.forms}
    times, _ = measure(runs, args.repeats, args.device, wall_time)
    shared = {"benchmark": "train", "mode": "step", "ops_path": ""} | {
        name: getattr(args, name) for name in ("model", "T", "batch", "size", "repeats", "device")
    }
    rows = [
        shared | {"variant": name, "median_ms": statistics.median(values), "commit": _commit()}
        for name, values in times.items()
    ]
    with open(args.output, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _step_of(args: argparse.Namespace, each: Form) -> Callable[[], object]:
    torch.manual_seed(0)
    model = timm.create_model(args.model, T=args.T, num_classes=10).to(args.device).train()
    images, labels = batch(args, each.memory_format)
    return optimiser_step(each.apply(model), images, labels, each.autocast, each.has("cuda_graph"))


def _commit() -> str:
    """The commit of the package that was imported."""
    command = ["git", "-C", os.path.dirname(gac_sj.__file__), "describe", "--always", "--abbrev=12", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
