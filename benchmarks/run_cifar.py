"""Train one network with each encoder under the same recipe and seeds, and compare them on the test set.

    python benchmarks/run_cifar.py --dataset digits --output runs/digits
    python benchmarks/run_cifar.py --dataset cifar10 --train-limit 10000 --epochs 10 --seeds 0 1 2 --output runs/cifar10
    python benchmarks/run_cifar.py --dataset digits --encoders gac gac:spatial gac:kernel_size=3 --output runs/forms
    python benchmarks/run_cifar.py --dataset digits --encoders gac direct:block_attention=TCSA --output runs/blocks
    python benchmarks/run_cifar.py --dataset digits --opt adamw --lr 2e-3 --amp bf16 --output runs/adamw
    python benchmarks/run_cifar.py --config experiments/recipes/timm_cifar10.yaml --output runs/timm

Settings are those of experiments/train.py: of the file --config, or else of the comparison's own recipe
(experiments/recipes/comparison*.yaml), and the command line overrides them. Writes results.csv (a row per encoder and
seed: accuracy, and energy, dynamics and speed of the trained network), the weights and a report with plots into
--output. The same command continues where it was interrupted, also inside an epoch; several at the same time share the
runs.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gac_sj._utils.errors import ExitError, UsageError, first_sentence
from gac_sj._utils.files import safe_name
from gac_sj.checkpoint.runs import build_model
from gac_sj.cli.program import program
from gac_sj.data import DATASETS
from gac_sj.encoders import encoder_info, encoder_label, list_encoders, parse_encoder
from gac_sj.results import Run
from gac_sj.results.report import write_report
from gac_sj.results.schema import RUNS
from gac_sj.results.store import Rows
from gac_sj.training.build import Data, load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.engine import InterruptedRunError
from gac_sj.training.folder import FolderInUseError, run_key
from gac_sj.training.hardware import resolve
from gac_sj.training.run import complete
from gac_sj.training.settings import Settings, add_arguments, from_command_line, from_file

#: Recipes of comparisons; a data set may have its own.
RECIPES = Path(__file__).resolve().parent.parent / "experiments" / "recipes"
#: The settings that a comparison varies, or keeps for itself; a file may have them, as that of a run does.
OF_A_RUN = ("encoder", "form", "encoder_source", "seed", "output")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_cifar.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("comparison").add_argument
    compared = [name for name in list_encoders() if encoder_info(name).in_comparison]
    add("--encoders", nargs="+", default=compared, metavar="NAME", help=_encoders_help(compared))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of rows, weights and report")
    add_arguments(parser, without=OF_A_RUN)
    return parser


def _encoders_help(compared: list[str]) -> str:
    """Names, forms and shorthands of the registered encoders."""
    infos = [encoder_info(name) for name in list_encoders()]
    words = [f"{info.name}:{word}" for info in infos for word in (*info.forms, *info.shorthands)]
    return (
        f"{', '.join(info.name for info in infos)} (default: {', '.join(compared)}), or NAME:OPTION,... with a form or "
        f"shorthand ({', '.join(words)}) or a keyword of the encoder or the network (NAME:depth=1, "
        "NAME:block_attention=TCSA)"
    )


def read_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that all runs share: those of ``--config``, or of the recipe, overridden by the command line.

    Args:
        args: of the command line.

    Raises:
        UsageError: see :func:`gac_sj.training.settings.from_file`.
    """
    given = from_command_line(args)
    found = from_file(args.config or recipe_for(given.get("dataset"))) | given
    if not (args.config or "warmup_epochs" in given) and isinstance(found["epochs"], int):
        found["warmup_epochs"] = max(0, min(found["warmup_epochs"], found["epochs"] - 1))
    return {name: value for name, value in found.items() if name not in OF_A_RUN}


def recipe_for(dataset: str | None) -> Path:
    """The recipe of a data set where no file is given: its own, or that of all others."""
    own = RECIPES / f"comparison_{dataset}.yaml"
    return own if dataset in DATASETS and own.exists() else RECIPES / "comparison.yaml"


def settings(shared: Mapping[str, Any], name: str, seed: int) -> Settings:
    """The run of one encoder and seed.

    Args:
        shared: settings of all runs (:func:`read_settings`).
        name: of the encoder, with its options.
        seed: of the run.

    Raises:
        UsageError: an unknown encoder, or see :class:`Settings`.
    """
    encoder, form, options = parse_encoder(name)
    options |= shared.get("model_options") or {}
    return Settings(**shared | dict(encoder=encoder, form=form, model_options=options, seed=seed))


@contextmanager
def options_of(name: str, shared: Mapping[str, Any]) -> Iterator[None]:
    """Name ``--encoders`` in an error about keywords that were given there, not by ``model_options``.

    Args:
        name: of the encoder, with its options.
        shared: settings of all runs.
    """
    try:
        yield
    except UsageError as error:
        if error.argument != "model_options" or shared.get("model_options"):
            raise
        raise UsageError(f"cannot be {name!r}: {str(error).rstrip('.')}", argument="encoders") from error


def folder_of(run: Settings, data: Data, output: Path) -> Path:
    """The folder of a run below the command's."""
    name = encoder_label(run.encoder, run.form, run.model_options).replace(":", "-")
    return output / "runs" / safe_name(f"{name}-seed{run.seed}-{run.name()}-{data.fingerprint()}")


def fill_in(runs: list[Settings], data: Data, output: Path, rows: Rows, device: torch.device) -> list[Settings]:
    """The runs with values for what is open, the same for all: those of runs that are there, or the fastest.

    Args:
        runs: of equal settings but for encoder and seed.
        data: of the runs.
        output: folder of the command.
        rows: of all runs.
        device: that they run on.
    """

    def filled(values: Settings) -> list[Settings]:
        return [replace(run, **{name: getattr(values, name) for name in runs[0].open}) for run in runs]

    def exist(values: Settings) -> bool:
        return any(rows.find(run_key(run, data)) or folder_of(run, data, output).exists() for run in filled(values))

    return filled(resolve(runs[0], device, exist))


def compare(args: argparse.Namespace, shared: Mapping[str, Any], world: DistributedContext) -> None:
    """Train what has no row yet, write the report and print its table.

    Args:
        args: of the command line.
        shared: settings of all runs.
        world: the processes of the run.

    Raises:
        UsageError: settings that do not fit, or an output that cannot be written.
        InterruptedRunError: a signal came.
        FloatingPointError: a loss is not finite.
    """
    runs = {}
    for seed in args.seeds:
        for name in args.encoders:
            with options_of(name, shared):
                runs.setdefault((run := settings(shared, name, seed)).name(), run)
    try:
        rows = world.on_first(lambda: Rows(args.output / "results.csv", RUNS))
    except OSError as error:
        raise UsageError(
            f"{args.output} cannot be written ({first_sentence(error)})", "name another folder", argument="output"
        ) from error
    with world.local_main_process_first():
        data = load_data(next(iter(runs.values())))
    found = world.on_first(lambda: fill_in([*runs.values()], data, args.output, rows, world.device))
    for run in found:  # a network that cannot be built is reported before any work
        with torch.device("meta"), options_of(encoder_label(run.encoder, run.form, run.model_options), shared):
            build_model(run, data.info)
    waiting, told = list(enumerate(found, 1)), set()
    while waiting:
        left = []
        for number, run in waiting:
            try:
                complete_and_print(run, f"[{number}/{len(found)}] ", args.output, rows, data, world)
            except FolderInUseError as error:
                left.append((number, run))
                if world.is_first and number not in told:
                    print(f"[{number}/{len(found)}] {error.problem}; it comes last.", flush=True)
                told.add(number)
        if left == waiting:
            time.sleep(1)  # until another command has the row, or ends without it
        waiting = left
    if world.is_first:
        print(write_report(args.output, [Run.from_row(rows.find(run_key(run, data))) for run in found]))


def complete_and_print(
    run: Settings, number: str, output: Path, rows: Rows, data: Data, world: DistributedContext
) -> None:
    """Do what a run still lacks, and print its accuracy.

    Args:
        run: its settings.
        number: which of how many runs it is.
        output: folder of the command.
        rows: of all runs.
        data: of the run.
        world: its processes.

    Raises:
        FolderInUseError: another command is at it.
        UsageError: see :class:`gac_sj.training.engine.Training`.
        InterruptedRunError: a signal came.
        FloatingPointError: a loss is not finite.
    """
    title = f"{number}{encoder_label(run.encoder, run.form, run.model_options)}, seed {run.seed}"
    folder = folder_of(run, data, output)
    try:
        row = complete(run, data, world, folder, rows, analysis=True, keep_checkpoints=False)
    except (FloatingPointError, OSError) as error:
        raise type(error)(f"{title}: {error}") from error
    if world.is_first:
        lacking = "" if row["analysed_images"] else " (not analysed: its weights are gone)"
        print(
            f"{title} ({row['train_seconds']} s){lacking}: test accuracy {row['accuracy_last']} %, best "
            f"{row['accuracy_best']} %",
            flush=True,
        )


@program(build_parser, "interrupted; the same command continues.")
def main(args: argparse.Namespace) -> None:
    # without a progress bar, a line for each epoch
    logging.basicConfig(level=logging.WARNING if sys.stderr.isatty() else logging.INFO, format="%(message)s")
    shared = read_settings(args)
    try:
        with distributed_context(Settings(**shared).device) as world:
            compare(args, shared, world)
    except InterruptedRunError as error:
        raise ExitError(f"{error} Finished runs are in {args.output / 'results.csv'}.", error.exit_code) from error


if __name__ == "__main__":
    sys.exit(main())
