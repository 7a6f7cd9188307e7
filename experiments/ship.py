"""Make the run of median accuracy, among seeds, pretrained weights of the package: a folder with a model card.

    python experiments/ship.py runs/cifar10:gac                   # into gac_sj/weights
    python experiments/ship.py runs/large:gac --output runs/weights   # elsewhere, of any size: for gac-sj push
    python experiments/ship.py --cards                            # write the cards of gac_sj/weights anew

RUNS is a folder with the rows and the weights of finished runs, followed by :ENCODER if it has several, as compare.py
takes it. The weights are those after the last epoch of the run whose accuracy then is the median (of an even number of
seeds the lower one). They are tested once more as timm loads them, in float32, with the test images of the run
(--data-dir: their folder, if it is another one); the card is made from that and from the rows. timm lists what is in
gac_sj/weights, by the names of the folders, NETWORK.DATASET_T, from the next import on.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from compare import read_set
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import write_atomically
from gac_sj.checkpoint import load_pretrained, save_pretrained
from gac_sj.checkpoint.pretrained import CARD
from gac_sj.checkpoint.runs import read_weights, with_data
from gac_sj.cli.program import program
from gac_sj.models import bare_name, default_encoder, list_networks
from gac_sj.models.shipped import FOLDER
from gac_sj.results import Run
from gac_sj.results.card import CHECK, ROWS, card
from gac_sj.results.schema import RUNS, as_text
from gac_sj.results.store import read_rows
from gac_sj.training.build import load_data
from gac_sj.training.distributed import distributed_context
from gac_sj.training.evaluation import draws_of_test, evaluate

LAST = "last.safetensors"
#: What a wheel takes, in bytes.
LARGEST = 1_000_000


def median(runs: list[Run]) -> Run:
    """The run of median last-epoch accuracy; the lower one of an even number.

    Args:
        runs: of equal settings but for the seed.
    """
    return sorted(runs, key=lambda run: (run.measured.accuracy_last, run.seed))[(len(runs) - 1) // 2]


def name_of(run: Run) -> str:
    """NETWORK.TAG, as timm names the weights of a run.

    Args:
        run: of any network.

    Raises:
        UsageError: it is not a network of the package behind the encoder that a name stands for.
    """
    settings = run.settings
    names = [name for name in list_networks() if bare_name(name) == run.network]
    name = next((name for name in names if default_encoder(name) == settings["encoder"]), None)
    if name is None or settings["encoder_source"] or settings["model_source"] or settings["dataset_source"]:
        raise UsageError(
            f"{settings['model']} behind {run.label} on {settings['dataset']} has no name in timm's registry",
            "ship a network of the package behind its own encoder, on a data set of the package",
        )
    return f"{name}.{settings['dataset']}_T{settings['T']}"


def weights_of(run: Run) -> Path:
    """The weights after the last epoch of a run.

    Args:
        run: read from a file beside or above them.

    Raises:
        UsageError: they are not there.
    """
    assert run.path is not None  # read_set
    for path in sorted(run.path.parent.rglob(LAST)):
        try:
            key = read_weights(path)[0].key()
        except UsageError:  # of an encoder that is not registered, or damaged
            continue
        if as_text(key) == as_text({name: run.settings[name] for name in key}):
            return path
    raise UsageError(f"{run.path.parent} has no {LAST} of {run.label} with the seed {run.seed}", "restore it")


def patterns(model: nn.Module, count: int = 8) -> Tensor:
    """Generated images, the same on every machine: waves of another direction and length in each channel.

    Args:
        model: whose ``pretrained_cfg`` has the size, mean and std.
        count: of images.
    """
    config: Any = model.pretrained_cfg
    channels, height, width = config["input_size"]
    image, channel = torch.arange(count).view(-1, 1, 1, 1), torch.arange(channels).view(-1, 1, 1)
    y, x = torch.arange(height).view(-1, 1), torch.arange(width)
    phase = (1.0 + image + 2.0 * channel) * x / width + (3.0 + 2.0 * image - channel) * y / height
    mean, std = (torch.tensor(config[name], dtype=torch.float64).view(-1, 1, 1) for name in ("mean", "std"))
    return ((0.5 + 0.5 * torch.sin(2.0 * phase.double()) - mean) / std).float()


def ship(runs: list[Run], output: Path, data_dir: str | None, device: str) -> tuple[Path, dict[str, Any]]:
    """Write the folder of the median run.

    Args:
        runs: of equal settings but for the seed.
        output: for the folder, which is new.
        data_dir: of the test images; None: that of the run.
        device: see :func:`gac_sj.training.distributed.distributed_context`.

    Returns:
        The folder, and what was measured.

    Raises:
        UsageError: runs without a name in timm's registry, weights that are missing or too large, a folder that exists.
        OSError: a file that cannot be read or written.
    """
    run = median(runs)
    name, weights = name_of(run), weights_of(run)
    folder = output / name
    if folder.exists():
        raise UsageError(f"{folder} exists", "move it away")
    if output.resolve() == FOLDER and weights.stat().st_size > LARGEST:
        raise UsageError(
            f"{weights} has {weights.stat().st_size:,} bytes, and a wheel takes weights of {LARGEST:,}",
            "name another output, push it to the Hub, and see gac_sj/models/shipped.py",
            argument="output",
        )
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".") as unfinished:
        place = Path(unfinished) / name
        model = load_pretrained(weights)
        model.pretrained_cfg["architecture"] = name.partition(".")[0]
        save_pretrained(model, place)
        check = measure(place, weights, data_dir, device) | {"seed": run.seed}
        write_atomically(place / CHECK, json.dumps(check, indent=1))
        write_atomically(place / ROWS, rows_of(runs))
        write_atomically(place / CARD, card(place))
        shutil.move(place, folder)
    return folder, check


def measure(folder: Path, weights: Path, data_dir: str | None, device: str) -> dict[str, Any]:
    """Accuracy on the test images and logits of generated ones, of the network as it is loaded, in float32.

    Args:
        folder: of the weights.
        weights: of the run.
        data_dir: see :func:`ship`.
        device: see :func:`ship`.
    """
    model: Any = load_pretrained(folder)
    with torch.no_grad():
        logits = model(patterns(model))
    settings = replace(with_data(read_weights(weights)[0], weights, data_dir), train_limit=None)
    with distributed_context(device) as world, draws_of_test(settings, settings.epochs, world):
        found = evaluate(model.to(world.device), load_data(settings).testing(settings, model, world), world)
    return {
        "accuracy": round(100 * found.top1, 2),
        "top5": round(100 * found.top5, 2),
        "images": found.images,
        "logits": [[round(value, 4) for value in row] for row in logits.tolist()],
    }


def rows_of(runs: list[Run]) -> str:
    """The rows of some runs, as they were written."""
    found: Iterator[dict[str, str]] = (
        row
        for path in dict.fromkeys(run.path for run in runs if run.path)
        for row in read_rows(path, RUNS)
        if Run.from_row(row, path) in runs
    )
    writer = csv.DictWriter(text := io.StringIO(), RUNS.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ship.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="?", metavar="RUNS", help="folder of runs, followed by :ENCODER")
    parser.add_argument("--cards", action="store_true", help="write the cards of the weights in --output anew")
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR", help="default: gac_sj/weights")
    parser.add_argument("--data-dir", help="folder of the data set (default: that of the run)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    return parser


@program(build_parser)
def main(args: argparse.Namespace) -> None:
    if (args.runs is None) != args.cards:
        raise UsageError("Either RUNS or --cards is needed, not both")
    if args.cards:
        for path in sorted(args.output.glob(f"*/{CHECK}")):
            write_atomically(path.with_name(CARD), card(path.parent))
            print(path.with_name(CARD))
        return
    folder, check = ship(read_set(args.runs), args.output, args.data_dir, args.device)
    print(f"{folder}: seed {check['seed']}, {check['accuracy']:.2f} % of {check['images']:,} test images")


if __name__ == "__main__":
    sys.exit(main())
