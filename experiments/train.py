"""Train one network.

    python experiments/train.py --config experiments/configs/cifar10_gac_T4.yaml --seed 0
    torchrun --nproc-per-node 8 experiments/train.py --config experiments/configs/imagenet_gac18_T4.yaml --data-dir DIR

Settings come from the YAML file, and the command line goes over it. The run's folder gets args.yaml, summary.csv,
checkpoints, last.safetensors and best.safetensors, TensorBoard events and, at the end, result.csv. The same command
continues a run that was killed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from gac_sj.analysis import summarize
from gac_sj.data import EVENT_SETS
from gac_sj.results.schema import result_rows
from gac_sj.training.build import generate_data, load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.engine import InterruptedRunError, Training
from gac_sj.training.run import run_key, train
from gac_sj.training.settings import Settings, parse


def preview(settings: Settings, world: DistributedContext) -> str:
    """What would be trained: parameters, arithmetic, firing rates and the first batch; generated images stand in."""
    note = ""
    try:
        data = load_data(settings, download=False)
    except (ValueError, OSError) as error:
        if settings.dataset in EVENT_SETS:
            raise  # images cannot stand in for frames
        note = f"The data set cannot be read, so generated images stand in for it: {error}\n"
        data = generate_data(settings)
    training = Training(settings, data, world)
    training.loader.set_epoch(0)
    images, labels = next(iter(training.loader))
    images, soft = training.augment(images, labels, 0)
    return (
        f"{note}{summarize(training.model, images)}\n"
        f"training images {len(data.train):,}, test images {len(data.test):,}, classes {len(data.train.classes)}, "
        f"batches per epoch {len(training.loader):,}\n"
        f"first batch: images {list(images.shape)}, mean {images.mean():.3f}, deviation {images.std():.3f}; "
        f"labels {list(soft.shape)}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="show what would be trained, and leave no file")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings, args = parse(parser, arguments)
        with distributed_context(settings.device) as world:
            if args.dry_run:
                print(preview(settings, world))
                return 0
            folder = Path(settings.output or f"runs/{Path(args.config or 'train').stem}/seed{settings.seed}")
            with world.local_main_process_first():
                data = load_data(settings)
            try:
                rows = result_rows(folder / "result.csv") if world.is_first else None
            except OSError as error:
                raise ValueError(f"output {folder} cannot be written ({error}); name another folder.") from error
            row = world.from_first(rows.find(run_key(settings, data)) if rows else None)
            if row is None:
                row = train(settings, data, world, folder)
                if world.is_first:
                    rows.add(row)
            if world.is_first:
                print(
                    f"{folder}: test accuracy {row['accuracy_last']} %, best {row['accuracy_best']} % after epoch "
                    f"{row['best_epoch']}"
                )
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except InterruptedRunError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("train.py: interrupted; the same command continues.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
