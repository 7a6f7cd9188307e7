"""Train one network with each encoder under the same recipe and seeds, and compare them on the test set.

    python benchmarks/run_cifar.py --dataset digits --output runs/digits
    python benchmarks/run_cifar.py --dataset cifar10 --train-limit 10000 --epochs 10 --seeds 0 1 2 --output runs/cifar10
    python benchmarks/run_cifar.py --dataset digits --encoders gac gac:spatial gac:kernel_size=3 --output runs/forms
    python benchmarks/run_cifar.py --dataset digits --encoders gac direct:block_attention=TCSA --output runs/blocks

Writes results.csv (a row per encoder and seed: accuracy, and energy, dynamics and speed of the trained network), the
weights and a report with plots into --output. The same command continues where it was interrupted, also inside an
epoch.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from gac_sj.checkpoint.runs import build_model, load_network, read_weights
from gac_sj.encoders import encoder_info, encoder_label, list_encoders, parse_encoder
from gac_sj.results import Run
from gac_sj.results.report import write_report
from gac_sj.results.schema import result_rows
from gac_sj.training.analysis import analyse
from gac_sj.training.build import load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.engine import InterruptedRunError
from gac_sj.training.run import run_key, train
from gac_sj.training.settings import Settings

# long enough that direct coding passes 97 % of the digits; the CIFAR figure is a start, not the paper's 250
DEFAULT_EPOCHS = {"digits": 20, "cifar10": 30, "cifar100": 30, "folder": 30}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", required=True, help=", ".join(DEFAULT_EPOCHS))
    add("--data-dir", help="torchvision's CIFAR layout, or an image folder: train/<class>/*, test/<class>/*")
    add("--model", default="ms_resnet8_cifar", help="a network of gac_sj.models (default: %(default)s)")
    encoders = [name for name in list_encoders() if encoder_info(name).in_comparison]
    forms = (
        f"{', '.join(list_encoders())} (default: {', '.join(encoders)}), or NAME:OPTION,... with a form, a shorthand "
        "or a keyword of the encoder: gac:current,kernel_size=3,depth=1; or of the network: "
        "direct:block_attention=TCSA (MA-SNN's, in every block)"
    )
    add("--encoders", nargs="+", default=encoders, metavar="NAME", help=forms)
    add("-T", type=int, default=4, help="time steps (default: %(default)s)")
    add("--model-options", type=options, default={}, metavar="YAML", help="of every network: '{spike_driven: true}'")
    add("--epochs", type=int, help=f"default: {', '.join(f'{e} for {d}' for d, e in DEFAULT_EPOCHS.items())}")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--train-limit", type=int, metavar="N", help="train on N class-balanced images, the same for every seed")
    add("--eval-every", type=int, default=1, metavar="N", help="test every N epochs and after the last (default: 1)")
    add("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    add("--output", type=Path, required=True, metavar="DIR")
    return parser.parse_args(arguments)


def options(text: str) -> dict[str, Any]:
    """Keywords in YAML.

    Raises:
        argparse.ArgumentTypeError: it is no mapping.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping; write '{{name: value}}'")
    return found


def settings(args: argparse.Namespace, name: str, seed: int) -> Settings:
    """The run of one encoder and seed.

    Raises:
        ValueError: an unknown data set or encoder, or see :class:`Settings`.
    """
    if args.dataset not in DEFAULT_EPOCHS:
        raise ValueError(f"--dataset is {args.dataset!r}; choose one of {', '.join(DEFAULT_EPOCHS)}.")
    encoder, form, model_options = parse_encoder(name)
    epochs = DEFAULT_EPOCHS[args.dataset] if args.epochs is None else args.epochs
    plain = args.dataset == "digits"
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


def compare(args: argparse.Namespace, world: DistributedContext) -> None:
    """Train what has no row yet, write the report and print its table.

    Raises:
        ValueError, OSError, InterruptedRunError, FloatingPointError: see :func:`gac_sj.training.train`.
    """
    runs = {}
    for seed in args.seeds:
        for name in args.encoders:
            runs.setdefault((run := settings(args, name, seed)).name(), run)
    try:
        rows = result_rows(args.output / "results.csv")
    except OSError as error:
        raise ValueError(f"--output {args.output} cannot be written ({error}); name another folder.") from error
    first = next(iter(runs.values()))
    with world.local_main_process_first():
        data = load_data(first)
    for run in runs.values():  # a network that cannot be built is reported before any work
        with torch.device("meta"):
            build_model(run, data)
    for number, run in enumerate(runs.values(), 1):
        name = encoder_label(run.encoder, run.form, run.model_options)
        title = f"[{number}/{len(runs)}] {name}, seed {run.seed}"
        key = run_key(run, data)
        # the data too, which a checkpoint does not know
        folder = args.output / "runs" / f"{name.replace(':', '-')}-seed{run.seed}-{run.name()}-{key['data']}"
        row = world.from_first(rows.find(key))  # another command may be adding rows meanwhile
        if row is None:
            try:
                row = train(run, data, world, folder)
            except (FloatingPointError, OSError) as error:
                raise type(error)(f"{title}: {error}") from error
            if world.is_first:
                rows.add(row)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            title += f" ({row['train_seconds']} s)"
        weights = folder / "last.safetensors"
        # rows without an analysis were made before there was one
        if world.is_first and not row["analysed_images"]:
            if weights.exists():
                model = load_network(run, read_weights(weights)[1], data)
                rows.replace(row := row | analyse(model, run, data, world.device))
            else:
                title += " (not analysed: its weights are gone)"
        if world.is_first:
            print(f"{title}: test accuracy {row['accuracy_last']} %, best {row['accuracy_best']} %", flush=True)
    if world.is_first:
        found = [Run.from_row(rows.find(run_key(run, data))) for run in runs.values()]
        print(write_report(args.output, found))


def sentence(error: Exception, args: argparse.Namespace) -> str:
    """What went wrong; where it starts with the name of a setting, that of its option."""
    setting, _, rest = str(error).partition(" ")
    name = "seeds" if setting == "seed" else setting
    if name not in vars(args):
        return str(error)
    return f"{'-T' if name == 'T' else '--' + name.replace('_', '-')} {rest}"


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    # where no progress bar is shown, a line for each epoch
    logging.basicConfig(level=logging.WARNING if sys.stderr.isatty() else logging.INFO, format="%(message)s")
    try:
        with distributed_context(args.device) as world:
            compare(args, world)
    except (ValueError, OSError) as error:
        print(f"run_cifar.py: {sentence(error, args)}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"run_cifar.py: {error}", file=sys.stderr)
        return 1
    except InterruptedRunError as error:
        print(f"run_cifar.py: {error} Finished runs are in {args.output / 'results.csv'}.", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("run_cifar.py: interrupted; the same command continues.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
