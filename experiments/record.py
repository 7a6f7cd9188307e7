"""The record run: direct coding and GAC under one fast recipe, each for half of some minutes, from archives to rows.

    experiments/record.sh FOLDER MINUTES
    experiments/record.sh FOLDER MINUTES --dataset cifar100 --output runs/record100
    experiments/record.sh FOLDER 0.5 --model gac_ms_resnet8_cifar --train-limit 512

FOLDER holds CIFAR as torchvision or an image folder has it, or archives of either, whole or in parts. MINUTES are those
of training; reading, measuring, tests and the analysis come on top. Settings are those of recipes/record.yaml, or of
--config, and the command line overrides them. The first 50 steps of each network tell how many epochs there is time
for; plan.yaml keeps it. --output gets results.csv (a row for each network and seed), record.log and a folder of each
run, with its learning curve and its weights, also in bfloat16 in files of less than 15 MB. The same command adds the
next seed, or continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_text, safe_name, write_atomically
from gac_sj._utils.reading import parse_yaml
from gac_sj._utils.time_schedule import steps_at
from gac_sj.analysis.energy_profile import DEFAULT_PROFILE, PROFILE_HELP, EnergyProfile, energy_profile
from gac_sj.cli.program import program
from gac_sj.data import EpochLoader
from gac_sj.encoders import BASELINE_ENCODER, DEFAULT_ENCODER, encoder_label
from gac_sj.results.schema import RUNS
from gac_sj.results.store import Rows
from gac_sj.training.build import Data, load_data
from gac_sj.training.capture import WARM_UP
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.engine import Training
from gac_sj.training.folder import run_key
from gac_sj.training.run import complete, is_complete
from gac_sj.training.settings import Settings
from gac_sj.training.settings_sources import add_arguments, from_command_line, from_file

RECIPE = Path(__file__).resolve().parent / "recipes" / "record.yaml"
#: The settings that this program chooses.
OWN = ("encoder", "form", "encoder_source", "epochs", "warmup_epochs", "T_schedule", "data_dir", "output")
#: Steps of each network before its epochs are known, shared by its numbers of time steps.
STEPS = 50
#: As many of them build kernels and the graph of a step, and are not timed.
UNTIMED = WARM_UP + 3
#: The largest file of weights.
PART = "14MB"
#: The part of the epochs in which the learning rate rises.
RISING = 0.125

_logger = logging.getLogger(__name__)


def time_steps(T: int) -> list[int]:
    """The numbers of time steps of a run: 1, 2 and T."""
    return sorted({1, min(2, T), T})


def time_schedule(epochs: int, T: int) -> dict[int, int]:
    """The setting ``T_schedule``: half of the epochs with one time step, half of the rest with two, the others with T.

    Where there are too few epochs for all numbers, the later ones count: the last epoch has T.
    """
    return {epochs - math.ceil(epochs / 2**place): steps for place, steps in enumerate(time_steps(T))}


def training_seconds(epochs: int, T: int, seconds: dict[int, float]) -> float:
    """How long a run trains.

    Args:
        epochs: of the run.
        T: of the run.
        seconds: of an epoch, by its number of time steps.
    """
    schedule = time_schedule(epochs, T)
    return sum(seconds[steps_at(schedule, epoch)] for epoch in range(epochs))


def epochs_within(limit: float, T: int, seconds: dict[int, float]) -> int:
    """The largest number of epochs for which there is time.

    Args:
        limit: seconds of the run.
        T: of the run.
        seconds: of an epoch, by its number of time steps.

    Raises:
        UsageError: there is no time for one.
    """
    if (one := training_seconds(1, T, seconds)) > limit:
        raise UsageError(
            f"must allow each of the two networks an epoch, which takes {one:.2f} s, got {limit / 30:g}",
            f"give at least {math.ceil(one / 30 * 100) / 100:g}",
            argument="MINUTES",
        )
    return next(epochs for epochs in count(1) if training_seconds(epochs + 1, T, seconds) > limit)


def measure(settings: Settings, data: Data, world: DistributedContext) -> dict[int, float]:
    """Train a network for some steps, and throw it away.

    Args:
        settings: of its run; the number of epochs does not matter.
        data: of its run.
        world: of its run.

    Returns:
        Seconds of an epoch, by its number of time steps.
    """
    numbers = time_steps(settings.T)
    timed = STEPS // len(numbers) - UNTIMED
    seconds = {}
    for T in numbers:
        gc.collect()  # a graph keeps its memory
        training = Training(replace(settings, T=T), data, world)
        batches = endless(training.loader)
        seconds_of_steps(training, batches, UNTIMED)
        seconds[T] = round(seconds_of_steps(training, batches, timed) / timed * len(training.loader), 4)
    return seconds


def endless(loader: EpochLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of epoch after epoch."""
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def seconds_of_steps(training: Training, batches: Iterator[tuple[Tensor, Tensor]], steps: int) -> float:
    """Make some steps, and wait for them."""
    started = time.perf_counter()
    for _ in range(steps):
        result = training.step(*next(batches), training.state)
    result.loss.item()
    return time.perf_counter() - started


def label(run: Settings) -> str:
    """The name of a network in folders, plan and messages."""
    return encoder_label(str(run.encoder), run.form, run.model_options)


def plan(runs: list[Settings], minutes: float, output: Path, data: Data, world: DistributedContext) -> list[Settings]:
    """The runs with their numbers of epochs, those of ``plan.yaml`` if it is there.

    Args:
        runs: of equal settings but for the encoder.
        minutes: of all of them.
        output: folder of the plan.
        data: of the runs.
        world: of the runs.

    Raises:
        UsageError: there is no time for an epoch, or the plan is another one or damaged.
    """
    path, of = output / "plan.yaml", {"minutes": minutes, "settings": [run.name() for run in runs]}
    if path.exists():
        found = parse_yaml(read_text(path))
        if not isinstance(found, dict) or {name: found.get(name) for name in of} != of:
            raise UsageError(f"holds {path} of other minutes or settings", "name another folder", argument="output")
    else:
        seconds = {label(run): measure(replace(run, seed=0), data, world) for run in runs}
        epochs = {label(run): epochs_within(30 * minutes, run.T, seconds[label(run)]) for run in runs}
        found = of | {"seconds_of_an_epoch": seconds, "epochs": epochs}
        write_atomically(path, yaml.safe_dump(found, sort_keys=False))
    _logger.info("Epochs: %s.", ", ".join(f"{name} {number}" for name, number in found["epochs"].items()))
    return [
        replace(run, epochs=epochs, warmup_epochs=RISING * epochs, T_schedule=time_schedule(epochs, run.T))
        for run in runs
        for epochs in (found["epochs"][label(run)],)
    ]


def write_bfloat16(folder: Path) -> None:
    """Write the weights of a run again, matrices in bfloat16; ``evaluate.py`` and ``load_pretrained`` read them too.

    Vectors, which are few, stay as they are: with autocast these are the weights with which the network was tested.

    Args:
        folder: of the run.
    """
    with safe_open(folder / "last.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        metadata = file.metadata()
    smaller = {name: tensor.bfloat16() if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
    parts = folder / "bfloat16"
    parts.mkdir(exist_ok=True)
    pattern = "weights{suffix}.safetensors"
    save_torch_state_dict(smaller, parts, filename_pattern=pattern, max_shard_size=PART, metadata=metadata)


def positive(text: str) -> float:
    """MINUTES as a number.

    Raises:
        UsageError: it is not one, or not positive.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"must be a positive number, got {text!r}", argument="MINUTES")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="record.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="CIFAR, in archives or not")
    parser.add_argument("minutes", metavar="MINUTES", help="training time of both networks together")
    parser.add_argument("--output", type=Path, default=Path("runs/record"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--energy", default=DEFAULT_PROFILE, metavar="PROFILE", help=PROFILE_HELP)
    add_arguments(parser, without=OWN)
    return parser


def networks(args: argparse.Namespace, world: DistributedContext) -> list[Settings]:
    """The settings of both networks; the epochs are open.

    Args:
        args: of the command line.
        world: of the runs.

    Raises:
        UsageError: settings that do not fit.
    """
    given = from_file(args.config or RECIPE) | from_command_line(args)
    given = {"cuda_graph": world.device.type == "cuda"} | {key: given[key] for key in given if key not in OWN}
    encoders = (BASELINE_ENCODER, DEFAULT_ENCODER)
    return [Settings(**given | {"encoder": encoder, "data_dir": args.folder}) for encoder in encoders]


def train(runs: list[Settings], output: Path, data: Data, world: DistributedContext, profile: EnergyProfile) -> str:
    """Complete the runs of the first seed that has not all of them.

    Args:
        runs: with their numbers of epochs, and the seed to begin with.
        output: for rows and folders.
        data: of the runs.
        world: of the runs.
        profile: of the analysis.

    Returns:
        The result in a line.
    """
    rows = Rows(output / "results.csv", RUNS)
    for seed in count(runs[0].seed):
        work = [(replace(run, seed=seed), output / safe_name(label(run)) / f"seed{seed}") for run in runs]
        found = [is_complete(rows.find(run_key(run, data)), folder, profile, False) for run, folder in work]
        if not all(found):
            break
    accuracies: dict[str, Any] = {}
    for analysis in (None, profile):  # rows and weights first
        for run, folder in work:
            gc.collect()  # a graph keeps its memory
            row = complete(run, data, world, folder, rows, analysis, keep_checkpoints=analysis is None)
            accuracies[label(run)] = float(row["accuracy_last"])
            if analysis is None:
                write_bfloat16(folder)
    (first, a), (second, b) = accuracies.items()
    return f"seed {seed}: {first} {a:.2f} %, {second} {b:.2f} %, {second} - {first} = {b - a:+.2f} points"


@program(build_parser, interrupted="interrupted; run the same command to resume.")
def main(args: argparse.Namespace) -> None:
    minutes, profile = positive(args.minutes), energy_profile(args.energy)
    with distributed_context(getattr(args, "device", "auto")) as world:
        if world.size > 1:
            raise UsageError("A record run has one process", "leave torchrun out")
        runs = networks(args, world)
        args.output.mkdir(parents=True, exist_ok=True)
        handlers = [logging.StreamHandler(), logging.FileHandler(args.output / "record.log", delay=True)]
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
        data = load_data(runs[0], download=False)
        runs = plan(runs, minutes, args.output, data, world)
        result = train(runs, args.output, data, world, profile)
    _logger.info("%s", result)
    print(f"{args.output}: {result}")


if __name__ == "__main__":
    sys.exit(main())
