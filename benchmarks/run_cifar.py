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
runs, also on machines that share the folder. With --jobs N one command trains N runs side by side, here or (--backend
dask or ray) on a cluster.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from comparison.settings import OF_A_RUN, fill_in, folder_of, options_of, read_settings, settings

from gac_sj._utils.errors import ExitError, UsageError, first_sentence
from gac_sj.analysis.energy_profile import DEFAULT_PROFILE, PROFILE_HELP, EnergyProfile, energy_profile
from gac_sj.checkpoint.runs import build_model
from gac_sj.cli.program import program
from gac_sj.encoders import encoder_info, encoder_label, list_encoders
from gac_sj.results import Run
from gac_sj.results.report import write_report
from gac_sj.results.schema import RUNS
from gac_sj.results.store import Rows
from gac_sj.training.backends import LOCAL, job_backend
from gac_sj.training.build import Data, load_data
from gac_sj.training.callbacks import find_callbacks
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.engine import InterruptedRunError
from gac_sj.training.folder import run_key
from gac_sj.training.jobs import threads_of_a_job
from gac_sj.training.run import complete, is_analysed, is_complete
from gac_sj.training.run_queue import QueuedRun, RunQueue
from gac_sj.training.settings import Settings
from gac_sj.training.settings_sources import add_arguments


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_cifar.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("comparison").add_argument
    compared = [name for name in list_encoders() if encoder_info(name).in_comparison]
    add("--encoders", nargs="+", default=compared, metavar="NAME", help=_encoders_help(compared))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of rows, weights and report")
    add("--jobs", type=int, metavar="N", help="runs side by side; they share the cores (default: 1, on a cluster all)")
    add(
        "--backend",
        default=LOCAL,
        metavar="NAME",
        help="joblib's, which distributes jobs: %(default)s (default), dask, ray",
    )
    add("--address", help="of the cluster, for the backends dask and ray; its machines need the same paths")
    add("--energy", default=DEFAULT_PROFILE, metavar="PROFILE", help=PROFILE_HELP)
    add("--worker", metavar="LEVEL", help=argparse.SUPPRESS)  # a job of another command, and its log level
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
        ExitError: some runs that were distributed are unfinished.
    """
    find_callbacks(shared.get("callback") or [])  # one that cannot be used is reported before any work
    profile = energy_profile(args.energy)
    runs = {}
    for seed in args.seeds:
        for name in args.encoders:
            with options_of(name, shared):
                runs.setdefault((run := settings(shared, name, seed)).name(), run)
    with jobs_of(args, world) as jobs:
        try:
            rows = world.on_first(lambda: Rows(args.output / "results.csv", RUNS))
        except OSError as error:
            raise UsageError(
                f"{args.output} cannot be written ({first_sentence(error)})", "name another folder", argument="output"
            ) from error
        with world.local_main_process_first():
            data = load_data(next(iter(runs.values())))
        filled = world.on_first(lambda: fill_in([*runs.values()], data, args.output, rows, world.device))
        for run in () if args.worker else filled:  # a network that cannot be built is reported before any work
            with torch.device("meta"), options_of(encoder_label(run.encoder, run.form, run.model_options), shared):
                build_model(run, data.info)
        unfinished = work(args, filled, jobs, rows, data, world, profile)
    found = [Run.from_row(row) for run in filled if (row := rows.find(run_key(run, data)))]
    if world.is_first and found and not args.worker:
        print(f"{write_report(args.output, found)}\nMore tables, and plots: {args.output / 'report.html'}")
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
    runs: list[Settings],
    jobs: tuple[int, int] | None,
    rows: Rows,
    data: Data,
    world: DistributedContext,
    profile: EnergyProfile,
) -> list[str]:
    """Complete the runs of a command, or those that its parent asks for.

    Args:
        args: of the command line.
        runs: all of them.
        jobs: see :func:`jobs_of`.
        rows: of all runs.
        data: of all runs.
        world: the processes of each run.
        profile: of their energies.

    Returns:
        The titles of unfinished runs.
    """
    by_name, queued = {run.name(): run for run in runs}, []
    for number, (name, run) in enumerate(by_name.items(), 1):
        row, folder = rows.find(run_key(run, data)), folder_of(run, data, args.output)
        title = f"[{number}/{len(runs)}] {encoder_label(run.encoder, run.form, run.model_options)}, seed {run.seed}"
        queued.append(QueuedRun(name, title, folder, is_complete(row, folder, profile, keep_checkpoints=False)))
    titles = {run.name: run.title for run in queued}

    def complete_run(name: str) -> str:
        run = by_name[name]
        try:
            row = complete(run, data, world, folder_of(run, data, args.output), rows, profile, keep_checkpoints=False)
        except (FloatingPointError, OSError) as error:
            raise type(error)(f"{titles[name]}: {error}") from error
        lacking = "" if is_analysed(row, profile) else f" (not analysed with {profile.name}: its weights are gone)"
        return (
            f"{titles[name]} ({row['train_seconds']} s){lacking}: test accuracy {row['accuracy_last']} %, best "
            f"{row['accuracy_best']} %"
        )

    queue = RunQueue(queued, complete_run, world.is_first)
    if args.worker:
        queue.serve()
    elif jobs:
        # machines of a cluster might choose otherwise
        chosen = ("--amp", runs[0].amp, f"--{'' if runs[0].channels_last else 'no-'}channels-last")
        return queue.side_by_side(args.output, (os.path.abspath(__file__), *args.command_line, *chosen), *jobs)
    else:
        queue.one_by_one()
    return []


@program(build_parser, "interrupted; the same command continues.")
def main(args: argparse.Namespace) -> None:
    # without a progress bar, a line for each epoch
    level = args.worker or ("WARNING" if sys.stderr.isatty() else "INFO")
    logging.basicConfig(level=level, format="%(message)s")
    if args.worker:  # the command has said it
        logging.getLogger("gac_sj.training.build").setLevel(logging.WARNING)
        logging.getLogger("gac_sj.training.hardware").setLevel(logging.ERROR)
    shared = read_settings(args)
    try:
        with distributed_context(Settings(**shared).device) as world:
            compare(args, shared, world)
    except InterruptedRunError as error:
        raise ExitError(f"{error} Finished runs are in {args.output / 'results.csv'}.", error.exit_code) from error


if __name__ == "__main__":
    sys.exit(main())
