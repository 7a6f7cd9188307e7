"""Test the weights of a run.

    python experiments/evaluate.py runs/cifar10_gac_T4/seed0/last.safetensors --data-dir DIR

Prints top-1, top-5, the accuracy when only the first steps are read, and the accuracy of every class. --output DIR
gets evaluation.json and confusion.csv (rows: what it was, columns: what it was taken for).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gac_sj._utils.files import write_atomically
from gac_sj.checkpoint.runs import load_network, read_weights
from gac_sj.training.build import load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.evaluation import Evaluation, evaluate
from gac_sj.training.settings import Settings


def measure(settings: Settings, weights: dict, world: DistributedContext) -> tuple[Evaluation, tuple[str, ...]]:
    """The evaluation and the names of the classes."""
    data = load_data(settings)
    model = load_network(settings, weights, data).to(world.device)
    return evaluate(model, data.testing(settings, model, world), world, settings.autocast), data.test.classes


def report(evaluation: Evaluation, classes: tuple[str, ...]) -> str:
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
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "images": evaluation.images,
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "top1_by_steps": evaluation.by_steps.tolist(),
        "top1_by_class": dict(zip(classes, evaluation.per_class.tolist())),
    }
    write_atomically(folder / "evaluation.json", json.dumps(content, indent=1).encode())
    table = [["", *classes], *([name, *map(str, row)] for name, row in zip(classes, evaluation.confusion.tolist()))]
    write_atomically(folder / "confusion.csv", "".join(",".join(row) + "\n" for row in table).encode())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="last.safetensors or best.safetensors of a run")
    parser.add_argument("--data-dir", help="folder of the data set")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for evaluation.json and confusion.csv")
    args = parser.parse_args(arguments)
    try:
        settings, weights = read_weights(args.weights)
        with distributed_context(args.device) as world:
            settings = Settings(**vars(settings) | {"data_dir": args.data_dir})
            evaluation, classes = measure(settings, weights, world)
            if world.is_first:
                print(report(evaluation, classes))
                if args.output:
                    write(args.output, evaluation, classes)
    except (ValueError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evaluate.py: interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
