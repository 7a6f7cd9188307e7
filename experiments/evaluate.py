"""Test the weights of a run.

    python experiments/evaluate.py runs/cifar10_gac_T4/seed0/last.safetensors

Prints top-1, top-5, the accuracy when only the first steps are read, and the accuracy of every class. --output DIR
gets evaluation.json and confusion.csv (rows: true class, columns: predicted class). With --quantized the layers that
receive spikes have integer weights (gac_sj.quantize), found on the first batch.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import cast

from torch import Tensor

from gac_sj._utils.files import write_atomically
from gac_sj.checkpoint.runs import load_network, read_weights, with_data
from gac_sj.cli.program import program
from gac_sj.models.protocols import NetworkModule
from gac_sj.nn.memory_format import use_channels_last
from gac_sj.nn.quantized import BITS
from gac_sj.quantize import quantize
from gac_sj.training.build import load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.evaluation import Evaluation, draws_of_test, evaluate
from gac_sj.training.settings import Settings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="last.safetensors or best.safetensors of a run")
    parser.add_argument("--data-dir", help="folder of the data set (default: that of the run)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    parser.add_argument(
        "--quantized", type=int, choices=tuple(BITS), help="bits of the weights of layers that receive spikes"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for evaluation.json and confusion.csv")
    return parser


def measure(
    settings: Settings, weights: dict[str, Tensor], world: DistributedContext, bits: int | None = None
) -> tuple[Evaluation, tuple[str, ...]]:
    """The evaluation, with the draws of the test after the last epoch, and the names of the classes."""
    data = load_data(settings)
    model = load_network(settings, weights, data.info).to(world.device)
    if settings.channels_last:  # as it was tested, to the last bit
        use_channels_last(model)
    if bits:
        with draws_of_test(settings, settings.epochs, world):
            images, _ = next(iter(data.testing(settings, model, world)))
        model = cast(NetworkModule, quantize(model.eval(), bits, images))
    with draws_of_test(settings, settings.epochs, world):
        evaluation = evaluate(model, data.testing(settings, model, world), world, settings.autocast)
    return evaluation, data.test.classes


def report(evaluation: Evaluation, classes: tuple[str, ...]) -> str:
    """The lines that are printed."""
    steps = ", ".join(f"{100 * value:.2f}" for value in evaluation.by_steps.tolist())
    width = max(map(len, classes))
    lines = [
        f"{evaluation.images:,} images: top-1 {100 * evaluation.top1:.2f} %, top-5 {100 * evaluation.top5:.2f} %, "
        f"cross-entropy {evaluation.loss:.4f}",
        f"top-1 when only the first 1, 2, ... steps are read: {steps} %",
        *(f"{name:<{width}}  {100 * value:6.2f} %" for name, value in zip(classes, evaluation.per_class.tolist())),
    ]
    return "\n".join(lines)


def write(folder: Path, evaluation: Evaluation, classes: tuple[str, ...]) -> None:
    """Write evaluation.json and confusion.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "images": evaluation.images,
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "top1_by_steps": evaluation.by_steps.tolist(),
        "top1_by_class": dict(zip(classes, evaluation.per_class.tolist())),
    }
    write_atomically(folder / "evaluation.json", json.dumps(content, indent=1))
    rows = [["", *classes], *([name, *row] for name, row in zip(classes, evaluation.confusion.tolist()))]
    csv.writer(text := io.StringIO(), lineterminator="\n").writerows(rows)
    write_atomically(folder / "confusion.csv", text.getvalue())


@program(build_parser)
def main(args: argparse.Namespace) -> None:
    settings, weights = read_weights(args.weights)
    with distributed_context(args.device) as world:
        evaluation, classes = measure(with_data(settings, args.weights, args.data_dir), weights, world, args.quantized)
        if world.is_first:
            print(report(evaluation, classes))
            if args.output:
                write(args.output, evaluation, classes)


if __name__ == "__main__":
    sys.exit(main())
