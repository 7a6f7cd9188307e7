"""Test trained networks on corrupted images, with dropped time steps, and under attack.

    python benchmarks/robustness.py runs/cifar10 --output runs/cifar10
    python benchmarks/robustness.py a/last.safetensors --corruptions blur pgd --severities 1 5 --output runs/blur

Writes a row for each network, corruption and severity (clean: 0) into robustness.csv of --output. What has a row there
is not measured again, so the same command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import read_text
from gac_sj._utils.provenance import commit, device_name, versions
from gac_sj._utils.randomness import derive_seed, seeded
from gac_sj._utils.validation import positive
from gac_sj.analysis.attacks import ATTACKS, EPSILONS, PGD_STEPS, OnPixels, pixel_gradient
from gac_sj.analysis.corruptions import CORRUPTIONS, DROPPED_STEPS, SEVERITIES, corrupt, dropped_steps
from gac_sj.checkpoint.runs import data_info, fingerprint, load_network, read_weights, with_data
from gac_sj.cli.program import program
from gac_sj.data import DatasetInfo
from gac_sj.models.protocols import encoder_of
from gac_sj.results.robustness import CLEAN, ROBUSTNESS, RUN_COLUMNS
from gac_sj.results.schema import as_text
from gac_sj.results.store import Rows
from gac_sj.training.build import Data, load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.progress import TimeLeft
from gac_sj.training.settings import Settings

STRENGTHS: dict[str, tuple[float, ...]] = {
    **{name: corruption.strengths for name, corruption in CORRUPTIONS.items()},
    "dropped_steps": DROPPED_STEPS,
    **dict.fromkeys(ATTACKS, EPSILONS),
}
# Passes through the network of one image, forward and backward as three, so that the time left is right.
PASSES = {"fgsm": 4, "pgd": 3 * PGD_STEPS + 1}
# settings that decide which images the test set has
DATA_SETTINGS = (
    "dataset", "dataset_source", "data_dir", "T", "model", "train_limit", "loader", "img_size", "mean", "std",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robustness.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("weights", type=Path, nargs="+", metavar="WEIGHTS", help="last.safetensors, or folders of finished runs")
    add("--data-dir", help="folder of the data set (default: that of each run)")
    names = ", ".join(STRENGTHS)
    add("--corruptions", nargs="+", default=list(STRENGTHS), metavar="NAME", help=f"of {names} (default: all)")
    add("--severities", type=int, nargs="+", default=list(SEVERITIES), metavar="N", help="of 1 2 3 4 5 (default: all)")
    add("--images", type=int, default=500, metavar="N", help="class-balanced test images (default: 500)")
    add("--seed", type=int, default=0, help="of corruptions, attacks and random encoders (default: 0)")
    add("--batch-size", type=int, default=100, metavar="N", help="images at a time (default: 100)")
    add("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of robustness.csv")
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Args:
        args: of the command line.

    Raises:
        UsageError: an unknown corruption or severity, or a number out of its range.
    """
    for argument, given, known in (
        ("corruptions", args.corruptions, STRENGTHS), ("severities", args.severities, SEVERITIES),
    ):  # fmt: skip
        for value in given:
            if value not in known:
                raise UsageError(f"has an unknown value: {value!r}", argument=argument, options=known, given=value)
    positive("images", args.images)
    positive("batch_size", args.batch_size)


def find_weights(places: Iterable[Path]) -> list[Path]:
    """The files themselves, and every last.safetensors below the folders, each once.

    Args:
        places: files and folders.

    Raises:
        UsageError: a folder has none.
    """
    found: dict[Path, None] = {}
    for place in places:
        files = sorted(place.rglob("last.safetensors")) if place.is_dir() else [place]
        if not files:
            raise UsageError(f"{place} has no last.safetensors", "pass one, or a folder of finished runs")
        found.update(dict.fromkeys(files))
    return list(found)


def read_runs(paths: Iterable[Path], data_dir: str | None) -> dict[Path, Settings]:
    """The settings of each file of weights, with the data folder if the data set needs one.

    Weights of an unfinished run are skipped: they change with every epoch.

    Args:
        paths: of the weights.
        data_dir: folder of the data set; None: that of each run.

    Raises:
        UsageError: a file that is not of a run, or a run on event frames.
    """
    runs = {}
    for path in paths:
        settings, _ = read_weights(path)
        info = data_info(settings)
        refuse_events(path, info)
        done = epochs_done(path.parent / "summary.csv")
        if done is not None and done < settings.epochs:
            print(
                f"robustness.py: skipped {path}: its run has finished {done} of {settings.epochs} epochs.",
                file=sys.stderr,
            )
            continue
        runs[path] = with_data(settings, path, None if info.folder is None else data_dir)
    if not runs:
        raise UsageError("There are no weights of a finished run", "finish one, or pass others")
    return runs


def refuse_events(path: Path, info: DatasetInfo) -> None:
    """Raise UsageError for weights of a run on event frames; only reading a user's data set shows what it has."""
    if info.is_events:
        raise UsageError(
            f"{path} is of a run on {info.name}, whose event frames are not pixels in [0, 1]", "leave it out"
        )


def epochs_done(summary: Path) -> int | None:
    """Number of epochs in the log of a run; None if it has none.

    Raises:
        UsageError: the log is damaged or cannot be read.
    """
    if not summary.exists():
        return None
    try:
        return max(int(row["epoch"]) for row in csv.DictReader(io.StringIO(read_text(summary), newline="")))
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else "is damaged"
        raise UsageError(f"{summary} {reason}", "restore it, or remove it if the run is finished") from error


def read_pixels(settings: Settings, data: Data, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The run's test images as bytes ``[n, C, H, W]``, and labels ``[n]``, on the CPU."""
    images, labels = zip(*data.testing(settings, model, DistributedContext(0, 1, torch.device("cpu"))))
    mean, std = (
        torch.tensor(model.pretrained_cfg[name][: data.test.channels]).view(-1, 1, 1) for name in ("mean", "std")
    )
    return ((torch.cat(images) * std + mean) * 255).round().to(torch.uint8), torch.cat(labels)


def measure(
    model: OnPixels, images: Tensor, labels: Tensor, name: str, severity: int, seed: int, batch_size: int
) -> tuple[float, str]:
    """Accuracy in percent, and the gradient that an attack used ("" without an attack).

    Args:
        model: on its device, in evaluation mode.
        images: bytes ``[n, C, H, W]`` on the CPU, so that corruptions are the same for every device.
        labels: ``[n]``, on the CPU.
        name: a key of :data:`STRENGTHS`, or "clean".
        severity: 1 to 5; 0 for "clean".
        seed: of corruptions, attacks and random encoders.
        batch_size: images at a time.
    """
    device = next(model.parameters()).device
    correct, gradient = 0, ""
    for first in range(0, len(labels), batch_size):
        pixels, target = images[first : first + batch_size].float() / 255, labels[first : first + batch_size].to(device)
        if name in CORRUPTIONS:
            pixels = corrupt(pixels, name, severity, seed, first)
        pixels = pixels.to(device)
        model.seed = derive_seed("robustness", seed, first)
        steps = nullcontext()
        if name in ATTACKS:
            with pixel_gradient(model) as gradient, seeded(name, model.seed):
                pixels = ATTACKS[name](model, pixels, target, strength(name, severity))
        elif name == "dropped_steps":
            steps = dropped_steps(encoder_of(model), strength(name, severity), model.seed)
        with steps, torch.no_grad():
            correct += int((model(pixels).argmax(1) == target).sum())
    return 100 * correct / len(labels), gradient


def strength(name: str, severity: int) -> float:
    """Strength of a severity from 1 to 5; 0 for severity 0, which does not corrupt."""
    return STRENGTHS[name][severity - 1] if severity else 0.0


def run_part(path: Path, settings: Settings, data: Data) -> dict[str, str]:
    """The columns of a row that describe the run."""
    others = replace(settings, encoder=None, encoder_source=None, form=None, model_options={}, seed=0)
    names = {"weights": fingerprint(path), "settings": others.name(), "data": data.fingerprint()}
    return names | as_text({name: getattr(settings, name) for name in RUN_COLUMNS})


def new_row(test: dict[str, Any], model: OnPixels, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """The row of a test that has none yet."""
    started = time.monotonic()
    name, severity = test["corruption"], test["severity"]
    accuracy, gradient = measure(model, images, labels, name, severity, test["corruption_seed"], test["batch_size"])
    return test | {
        "strength": round(strength(name, severity), 6),
        "gradient": gradient,
        "accuracy": round(accuracy, 3),
        "seconds": round(time.monotonic() - started, 2),
        "commit": commit(),
        "versions": versions(),
        "device": device_name(next(model.parameters()).device),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
    }


def add_rows(args: argparse.Namespace, world: DistributedContext) -> None:
    """Measure what has no row yet, and print a line for each network and corruption.

    Args:
        args: of the command line.
        world: its device is used.

    Raises:
        UsageError: bad arguments, weights that do not fit, or rows with other columns.
        OSError: data that cannot be read.
    """
    check(args)
    runs = read_runs(find_weights(args.weights), args.data_dir)
    try:
        rows = Rows(args.output / "robustness.csv", ROBUSTNESS)
    except OSError as error:
        raise UsageError(
            f"{args.output} cannot be written ({first_sentence(error)})", "name another folder", argument="output"
        ) from error
    tests = {CLEAN: [0]} | {name: sorted(set(args.severities)) for name in args.corruptions}
    loaded: dict[tuple[Any, ...], Data] = {}
    total = len(runs) * sum(PASSES.get(name, 1) * len(severities) for name, severities in tests.items())
    with TimeLeft(total) as progress:
        for number, (path, settings) in enumerate(runs.items(), 1):
            place = tuple(getattr(settings, name) for name in DATA_SETTINGS)
            data = loaded[place] = loaded.get(place) or load_data(settings)
            refuse_events(path, data.info)
            try:
                network = load_network(settings, read_weights(path)[1], data.info)
            except ValueError as error:
                reason = str(error).rstrip(".")
                raise UsageError(f"{path} cannot be tested ({reason})", "pass the last.safetensors of a run") from error
            images, labels = read_pixels(settings, data.sample(args.images), network)
            model = OnPixels(network).to(world.device).eval()
            run = run_part(path, settings, data) | {
                "images": len(labels),
                "batch_size": args.batch_size,
                "corruption_seed": args.seed,
            }
            for name, severities in tests.items():
                accuracies = []
                for severity in severities:
                    test = run | {"corruption": name, "severity": severity}
                    test["pgd_steps"] = PGD_STEPS if name == "pgd" else ""
                    row = rows.find(test)
                    if row is None:
                        progress.set_description(f"[{number}/{len(runs)}] {path.parent.name}, {name} {severity}")
                        row = new_row(test, model, images, labels)
                        rows.add(row)
                        progress.update(PASSES.get(name, 1))
                    else:  # it took no time
                        progress.skip(PASSES.get(name, 1))
                    accuracies.append(f"{float(row['accuracy']):.2f}")
                with progress.external_write_mode():
                    print(f"[{number}/{len(runs)}] {path.parent}, {name}: {' '.join(accuracies)} %", flush=True)


@program(build_parser, "interrupted; the same command continues.")
def main(args: argparse.Namespace) -> None:
    with distributed_context(args.device) as world:
        add_rows(args, world)


if __name__ == "__main__":
    sys.exit(main())
