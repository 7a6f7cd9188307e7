"""Train one network with each encoder under the same recipe and seeds, and compare them on the test set.

    python benchmarks/run_cifar.py --dataset digits --output runs/digits
    python benchmarks/run_cifar.py --dataset cifar10 --train-limit 10000 --epochs 10 --seeds 0 1 2 --output runs/cifar10
    python benchmarks/run_cifar.py --dataset digits --encoders gac gac:spatial gac:kernel_size=3 --output runs/forms
    python benchmarks/run_cifar.py --dataset digits --encoders gac direct:block_attention=TCSA --output runs/blocks

Writes results.csv (a row per encoder and seed: accuracy, and energy, dynamics and speed of the trained network), the
weights and a report with plots into --output. The same command continues where it was interrupted, also inside an
epoch; several at the same time share the runs, also on machines that share the folder. With --jobs N one command trains
N runs side by side, here or (--backend dask or ray) on a cluster.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gac_sj._utils.claims import check_claim
from gac_sj._utils.errors import ExitError, UsageError, first_sentence
from gac_sj._utils.files import safe_name
from gac_sj._utils.reading import parse_yaml
from gac_sj.checkpoint.runs import build_model, load_network, read_weights
from gac_sj.cli.program import program
from gac_sj.data import dataset_info
from gac_sj.encoders import encoder_info, encoder_label, list_encoders, parse_encoder
from gac_sj.results import Run
from gac_sj.results.report import write_report
from gac_sj.results.schema import RUNS
from gac_sj.results.store import Rows
from gac_sj.training.analysis import analyse
from gac_sj.training.backends import LOCAL, job_backend
from gac_sj.training.build import Data, load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.engine import InterruptedRunError
from gac_sj.training.folder import hold_folder, run_key
from gac_sj.training.jobs import threads_of_a_job
from gac_sj.training.run import train
from gac_sj.training.run_queue import QueuedRun, RunQueue
from gac_sj.training.settings import Settings

# enough for direct coding to pass 97 % on the digits; for CIFAR a start, the paper has 250
DEFAULT_EPOCHS = {"digits": 20, "cifar10": 30, "cifar100": 30, "folder": 30}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_cifar.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help=", ".join(DEFAULT_EPOCHS))
    add("--data-dir", help="torchvision's CIFAR layout, or an image folder: train/<class>/*, test/<class>/*")
    add("--model", default="ms_resnet8_cifar", help="a network of gac_sj.models (default: %(default)s)")
    compared = [name for name in list_encoders() if encoder_info(name).in_comparison]
    add("--encoders", nargs="+", default=compared, metavar="NAME", help=_encoders_help(compared))
    add("-T", type=int, default=4, help="time steps (default: %(default)s)")
    add("--model-options", type=options, default={}, metavar="YAML", help="of every network: '{spike_driven: true}'")
    add("--epochs", type=int, help=f"default: {', '.join(f'{e} for {d}' for d, e in DEFAULT_EPOCHS.items())}")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--train-limit", type=int, metavar="N", help="train on N class-balanced images, the same for every seed")
    add("--eval-every", type=int, default=1, metavar="N", help="test every N epochs and after the last (default: 1)")
    add("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of rows, weights and report")
    add("--jobs", type=int, metavar="N", help="runs side by side; they share the cores (default: 1, on a cluster all)")
    add(
        "--backend",
        default=LOCAL,
        metavar="NAME",
        help="joblib's, which distributes jobs: %(default)s (default), dask, ray",
    )
    add("--address", help="of the cluster, for the backends dask and ray; its machines need the same paths")
    add("--worker", metavar="LEVEL", help=argparse.SUPPRESS)  # a job of another command, and its log level
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


def options(text: str) -> dict[str, Any]:
    """Keywords in YAML.

    Raises:
        argparse.ArgumentTypeError: it is not a mapping.
    """
    try:
        found = parse_yaml(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a mapping; write '{{name: value}}'")
    return found


def settings(args: argparse.Namespace, name: str, seed: int) -> Settings:
    """The run of one encoder and seed.

    Args:
        args: of the command line.
        name: of the encoder, with its options.
        seed: of the run.

    Raises:
        UsageError: an unknown data set or encoder, or see :class:`Settings`.
    """
    if args.dataset not in DEFAULT_EPOCHS:
        raise UsageError(
            f"must be a data set of this benchmark, got {args.dataset!r}",
            argument="dataset",
            options=DEFAULT_EPOCHS,
            given=args.dataset,
        )
    encoder, form, model_options = parse_encoder(name)
    epochs = DEFAULT_EPOCHS[args.dataset] if args.epochs is None else args.epochs
    plain = not dataset_info(args.dataset).symmetric
    return Settings(
        dataset=args.dataset,
        data_dir=args.data_dir,
        train_limit=args.train_limit,
        loader="resident",
        model=args.model,
        encoder=encoder,
        form=form,
        model_options=model_options | args.model_options,
        T=args.T,
        crop="none" if plain else "pad",
        hflip=0.0 if plain else 0.5,
        epochs=epochs,
        batch_size=64,
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        warmup_epochs=min(1, epochs - 1) if epochs > 0 else 0,
        eval_every=args.eval_every,
        seed=seed,
    )


@contextmanager
def options_of(name: str, args: argparse.Namespace) -> Iterator[None]:
    """Name ``--encoders`` in an error about keywords that were given there, not by ``--model-options``.

    Args:
        name: of the encoder, with its options.
        args: of the command line.
    """
    try:
        yield
    except UsageError as error:
        if error.argument != "model_options" or args.model_options:
            raise
        raise UsageError(f"cannot be {name!r}: {str(error).rstrip('.')}", argument="encoders") from error


def compare(args: argparse.Namespace, world: DistributedContext) -> None:
    """Train what has no row yet, write the report and print its table.

    Args:
        args: of the command line.
        world: the processes of the run.

    Raises:
        UsageError: settings that do not fit, or an output that cannot be written.
        InterruptedRunError: a signal came.
        FloatingPointError: a loss is not finite.
        ExitError: some runs that were distributed are unfinished.
    """
    runs = {}
    for seed in args.seeds:
        for name in args.encoders:
            with options_of(name, args):
                runs.setdefault((run := settings(args, name, seed)).name(), run)
    with jobs_of(args, world) as jobs:
        try:
            rows = world.on_first(lambda: Rows(args.output / "results.csv", RUNS))
        except OSError as error:
            raise UsageError(
                f"{args.output} cannot be written ({first_sentence(error)})", "name another folder", argument="output"
            ) from error
        first = next(iter(runs.values()))
        with world.local_main_process_first():
            data = load_data(first)
        for run in () if args.worker else runs.values():  # a network that cannot be built is reported before any work
            with torch.device("meta"), options_of(encoder_label(run.encoder, run.form, run.model_options), args):
                build_model(run, data.info)
        unfinished = work(args, runs, jobs, rows, data, world)
    found = [Run.from_row(row) for run in runs.values() if (row := rows.find(run_key(run, data)))]
    if world.is_first and found and not args.worker:
        print(write_report(args.output, found))
    if unfinished:
        raise ExitError(
            f"{len(unfinished)} of {len(runs)} runs are unfinished ({'; '.join(unfinished)}); the same command "
            "continues them.",
            1,
        )


@contextmanager
def jobs_of(args: argparse.Namespace, world: DistributedContext) -> Iterator[tuple[int, int] | None]:
    """Have the runs of a command distributed inside the block.

    Args:
        args: of the command line.
        world: the processes of each run.

    Yields:
        The number of jobs and the threads of each; None if this process does all runs itself.

    Raises:
        UsageError: a number out of range, or see :func:`gac_sj.training.backends.job_backend`.
    """
    if args.worker or (args.jobs in (None, 1) and args.backend == LOCAL and args.address is None):
        yield None
        return
    if world.size > 1 or torch.distributed.is_torchelastic_launched():
        raise UsageError(
            "cannot be used with torchrun, whose processes share each run", "leave one of the two out", argument="jobs"
        )
    with job_backend(args.backend, args.address) as cores:
        jobs = cores if args.jobs is None else args.jobs
        if not 1 <= jobs <= cores:
            raise UsageError(f"must be between 1 and {cores}, the number of cores, got {jobs}", argument="jobs")
        yield jobs, threads_of_a_job(jobs, cores)


def work(
    args: argparse.Namespace,
    runs: dict[str, Settings],
    jobs: tuple[int, int] | None,
    rows: Rows,
    data: Data,
    world: DistributedContext,
) -> list[str]:
    """Complete the runs of a command, or those that its parent asks for.

    Args:
        args: of the command line.
        runs: by name.
        jobs: see :func:`jobs_of`.
        rows: of all runs.
        data: of all runs.
        world: the processes of each run.

    Returns:
        The titles of unfinished runs.
    """
    numbers = {name: f"[{number}/{len(runs)}] " for number, name in enumerate(runs, 1)}
    queued = []
    for name, run in runs.items():
        row, folder = rows.find(run_key(run, data)), folder_of(run, args.output, data)
        queued.append(QueuedRun(name, numbers[name] + title_of(run), folder, is_complete(row, folder)))
    queue = RunQueue(
        queued, lambda name: complete(runs[name], numbers[name], args.output, rows, data, world), world.is_first
    )
    if args.worker:
        queue.serve()
    elif jobs:
        return queue.side_by_side(args.output, (os.path.abspath(__file__), *args.command_line), *jobs)
    else:
        queue.one_by_one()
    return []


def title_of(run: Settings) -> str:
    """What messages call a run."""
    return f"{encoder_label(run.encoder, run.form, run.model_options)}, seed {run.seed}"


def folder_of(run: Settings, output: Path, data: Data) -> Path:
    """The folder of a run."""
    name = encoder_label(run.encoder, run.form, run.model_options).replace(":", "-")
    return output / "runs" / safe_name(f"{name}-seed{run.seed}-{run.name()}-{run_key(run, data)['data']}")


def is_complete(row: dict[str, str] | None, folder: Path) -> bool:
    """Whether nothing is left to do for a run; rows without an analysis were made before there was one.

    Args:
        row: of the run, if there is one.
        folder: of the run.
    """
    if row is None or (folder / "checkpoints").exists():
        return False
    return bool(row["analysed_images"]) or not (folder / "last.safetensors").exists()


def complete(run: Settings, number: str, output: Path, rows: Rows, data: Data, world: DistributedContext) -> str:
    """Do what a run still lacks: its training, row and analysis.

    Args:
        run: its settings.
        number: which of how many runs it is.
        output: folder of the command.
        rows: of all runs.
        data: of the run.
        world: its processes.

    Returns:
        A line with its accuracy.

    Raises:
        FolderInUseError: another command is at it.
        UsageError: see :class:`gac_sj.training.engine.Training`.
        InterruptedRunError: a signal came.
        FloatingPointError: a loss is not finite.
    """
    title, key, folder = number + title_of(run), run_key(run, data), folder_of(run, output, data)
    weights, checkpoints = folder / "last.safetensors", folder / "checkpoints"

    def find() -> tuple[dict[str, Any] | None, bool]:
        row = rows.find(key)
        return row, is_complete(row, folder)

    def keep() -> None:
        check_claim(folder)
        rows.add(row)

    row, is_done = world.on_first(find)
    if not is_done:
        with hold_folder(folder, world):
            row, _ = world.on_first(find)  # another command may have been at it meanwhile
            if row is None:
                try:
                    row = train(run, data, world, folder)
                except (FloatingPointError, OSError) as error:
                    raise type(error)(f"{title}: {error}") from error
                world.on_first(keep)
                title += f" ({row['train_seconds']} s)"
            if world.is_first and not row["analysed_images"] and weights.exists():
                model = load_network(run, read_weights(weights)[1], data.info)
                row |= analyse(model, run, data, world.device)
                check_claim(folder)
                rows.replace(row)
            if world.is_first:
                check_claim(folder)
                shutil.rmtree(checkpoints, ignore_errors=True)
    if not row["analysed_images"]:
        title += " (not analysed: its weights are gone)"
    return f"{title}: test accuracy {row['accuracy_last']} %, best {row['accuracy_best']} %"


@program(build_parser, "interrupted; the same command continues.")
def main(args: argparse.Namespace) -> None:
    # without a progress bar, a line for each epoch
    level = args.worker or ("WARNING" if sys.stderr.isatty() else "INFO")
    logging.basicConfig(level=level, format="%(message)s")
    try:
        with distributed_context(args.device) as world:
            compare(args, world)
    except InterruptedRunError as error:
        raise ExitError(f"{error} Finished runs are in {args.output / 'results.csv'}.", error.exit_code) from error


if __name__ == "__main__":
    sys.exit(main())
