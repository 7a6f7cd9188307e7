"""Train one network.

    python experiments/train.py --config experiments/configs/cifar10_gac_T4.yaml --seed 0
    torchrun --nproc-per-node 8 experiments/train.py --config experiments/configs/imagenet_gac18_T4.yaml --data-dir DIR

Settings come from the YAML file, and the command line overrides it. The run's folder gets args.yaml, summary.csv,
checkpoints, last.safetensors and best.safetensors, TensorBoard events and, at the end, result.csv. The same command
resumes a run that was killed.
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from pathlib import Path

from gac_sj._utils.errors import UsageError
from gac_sj.analysis import summarize
from gac_sj.analysis.energy_profile import DEFAULT_PROFILE, PROFILE_HELP, energy_profile
from gac_sj.checkpoint.runs import data_info
from gac_sj.cli.program import program
from gac_sj.results.schema import RUNS
from gac_sj.results.store import Rows
from gac_sj.training.build import generate_data, load_data
from gac_sj.training.callbacks import find_callbacks
from gac_sj.training.continuation import continue_finished
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.engine import Training
from gac_sj.training.folder import keeps
from gac_sj.training.hardware import resolve
from gac_sj.training.run import complete, is_analysed
from gac_sj.training.settings import Settings
from gac_sj.training.settings_sources import add_arguments, from_args


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be trained; write nothing")
    parser.add_argument("--analyse", action="store_true", help="measure energy, dynamics and firing rates after it too")
    parser.add_argument("--energy", default=DEFAULT_PROFILE, metavar="PROFILE", help=PROFILE_HELP)
    add_arguments(parser)
    return parser


def preview(settings: Settings, world: DistributedContext) -> str:
    """Parameters, arithmetic and firing rates of the network, and the first batch.

    Args:
        settings: settings of the run; generated images replace a data set of images that cannot be read.
        world: the processes of the run.

    Raises:
        UsageError: settings that do not fit each other, or event data that cannot be read.
        OSError: event data that cannot be read.
    """
    note = ""
    try:
        data = load_data(settings, download=False)
    except (ValueError, OSError) as error:
        info = data_info(settings)
        if info.is_events or info.source is not None:
            raise
        note = f"The data set cannot be read, so generated images are used instead: {error}\n"
        data = generate_data(settings)
    training = Training(resolve(settings, world.device), data, world)
    training.loader.set_epoch(0)
    images, labels = next(iter(training.loader))
    images, soft = training.step.augment(images, labels, 0)
    return (
        f"{note}{summarize(training.model, images)}\n"
        f"training images {len(data.train):,}, test images {len(data.test):,}, classes {len(data.train.classes)}, "
        f"batches per epoch {len(training.loader):,}\n"
        f"first batch: images {list(images.shape)}, mean {images.mean():.3f}, std {images.std():.3f}; "
        f"labels {list(soft.shape)}"
    )


def open_rows(folder: Path) -> Rows:
    """The file of the run's row.

    Raises:
        UsageError: it is damaged, or the folder cannot be written.
    """
    try:
        return Rows(folder / "result.csv", RUNS)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror})", "name another folder", argument="output"
        ) from error


@program(build_parser, interrupted="interrupted; run the same command to resume.")
def main(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = from_args(args)
    find_callbacks(settings.callback)  # one that cannot be used is reported before the data are read
    profile = energy_profile(args.energy)
    with distributed_context(settings.device) as world:
        if args.dry_run:
            print(preview(settings, world))
            return
        folder = Path(settings.output or f"runs/{Path(args.config or 'train').stem}/seed{settings.seed}")
        with world.local_main_process_first():
            data = load_data(settings)
        given = resolve(data.resolved(settings), world.device, functools.partial(keeps, folder))
        settings, folder = world.on_first(lambda: continue_finished(given, folder))
        rows = world.on_first(lambda: open_rows(folder))
        row = complete(settings, data, world, folder, rows, profile if args.analyse else None)
        if args.analyse and not is_analysed(row, profile) and world.is_first:
            print(f"{folder}: not analysed with {profile.name}, because its weights are gone.", file=sys.stderr)
        if world.is_first:
            print(
                f"{folder}: test accuracy {row['accuracy_last']} %, best {row['accuracy_best']} % after epoch "
                f"{row['best_epoch']}"
            )


if __name__ == "__main__":
    sys.exit(main())
