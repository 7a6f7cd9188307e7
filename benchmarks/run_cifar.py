"""Train one network with each encoder under the same recipe and seeds, and compare them on the test set.

    python benchmarks/run_cifar.py --dataset digits --output runs/digits
    python benchmarks/run_cifar.py --dataset cifar10 --train-limit 10000 --epochs 10 --seeds 0 1 2 --output runs/cifar10

Writes results.csv (a row per encoder and seed), report.md and accuracy.png into --output. The same command continues
where it was interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from report import write_report
from rows import Rows, commit, device_name, versions
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2
from tqdm import tqdm

from gac_sj.analysis import firing_rates
from gac_sj.data import DATASETS, ImageSet, load_image_sets
from gac_sj.encoding import DEFAULT_RECIPE, ENCODERS, RECIPES
from gac_sj.training import evaluate, train_one_epoch

# long enough that direct coding passes 97 % of the digits; the CIFAR figure is a start, not the paper's 250
DEFAULT_EPOCHS = {"digits": 20, "cifar10": 30, "cifar100": 30, "folder": 30}

SETTINGS = (
    "dataset", "data", "train_limit", "model", "encoder", "recipe", "T", "epochs", "batch_size", "learning_rate",
    "momentum", "weight_decay", "warmup_epochs", "augmentation", "eval_every", "seed",
)  # fmt: skip
MEASURED = (
    "accuracy_best", "best_epoch", "accuracy_last", "test_loss_last", "train_loss_last", "parameters", "train_images",
    "test_images", "train_seconds", "images_per_second", "firing_rate_mean", "firing_rates", "accuracy_by_epoch",
    "commit", "versions", "device", "date",
)  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", required=True, help=", ".join(DATASETS))
    add(
        "--data-dir",
        type=Path,
        help="torchvision's CIFAR layout, or an image folder: train/<class>/*, test/<class>/*",
    )
    add("--model", default="ms_resnet8_cifar", help="a network of gac_sj.models (default: %(default)s)")
    forms = f"{', '.join(ENCODERS)} (default: these), or gac:RECIPE with {', '.join(RECIPES)}"
    add("--encoders", nargs="+", default=list(ENCODERS), metavar="NAME", help=forms)
    add("-T", type=int, default=4, help="time steps (default: %(default)s)")
    add("--epochs", type=int, help=f"default: {', '.join(f'{e} for {d}' for d, e in DEFAULT_EPOCHS.items())}")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--train-limit", type=int, metavar="N", help="train on N class-balanced images, the same for every seed")
    add(
        "--eval-every",
        type=int,
        default=1,
        metavar="N",
        help="test after every N epochs and after the last (default: 1)",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    add("--output", type=Path, required=True, metavar="DIR")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Everything that can be wrong with the arguments alone, before any work."""
    models = timm.list_models(module="ms_resnet")
    if args.dataset not in DATASETS:
        raise ValueError(f"--dataset is {args.dataset!r}; choose one of {', '.join(DATASETS)}.")
    if args.model not in models:
        raise ValueError(f"--model is {args.model!r}; choose one of {', '.join(models)}.")
    for name in args.encoders:
        encoder, _, recipe = name.partition(":")
        if encoder not in ENCODERS or (":" in name and (encoder != "gac" or recipe not in RECIPES)):
            choices = [*ENCODERS, *(f"gac:{recipe}" for recipe in RECIPES)]
            raise ValueError(f"--encoders has {name!r}; choose from {', '.join(choices)}.")
    if args.dataset == "digits" and args.data_dir:
        raise ValueError(f"--data-dir is {args.data_dir}, and digits come with scikit-learn; leave it out.")
    for name in ("T", "epochs", "train_limit", "eval_every"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; give a whole number of at least 1.")
    for seed in args.seeds:
        if not 0 <= seed < 2**63:
            raise ValueError(f"--seeds has {seed}; give whole numbers from 0 to 2^63 - 1.")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = args.device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else int(kind == "cpu")
    if not count or (colon and not (index.isdecimal() and int(index) < count)):
        raise ValueError(f"--device is {args.device!r}, which is not there; choose cpu, or auto for what there is.")


def settings(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """All settings of a run but the data and the seed: the encoder's, and what is the same for every encoder."""
    encoder, _, recipe = name.partition(":")
    epochs = args.epochs or DEFAULT_EPOCHS[args.dataset]
    return {
        "dataset": args.dataset,
        "train_limit": args.train_limit or "all",
        "model": args.model,
        "encoder": name,
        "recipe": recipe or (DEFAULT_RECIPE if encoder == "gac" else "none"),
        "T": args.T,
        "epochs": epochs,
        "batch_size": 64,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "warmup_epochs": min(1, epochs - 1),
        "augmentation": "none" if args.dataset == "digits" else "crop4,flip",
        "eval_every": args.eval_every,
    }


def fingerprint(*image_sets: ImageSet) -> str:
    """Short hash of all images and labels: two runs are the same only on the same data, wherever it lies."""
    digest = hashlib.sha256()
    for image_set in image_sets:
        for tensor in (image_set.images, image_set.labels):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]


def build(run: dict[str, Any], classes: int, in_chans: int) -> nn.Module:
    """The network of a run; its pretrained_cfg has the data set's mean and deviation, or what its encoder needs."""
    mean, std = DATASETS[run["dataset"]]
    return timm.create_model(
        run["model"],
        T=run["T"],
        num_classes=classes,
        in_chans=in_chans,
        encoder=run["encoder"].partition(":")[0],
        recipe=None if run["recipe"] == "none" else run["recipe"],
        pretrained_cfg_overlay={"mean": mean, "std": std},
    )


def batches(
    image_set: ImageSet,
    run: dict[str, Any],
    model: nn.Module,
    device: str,
    train: bool,
    progress: tqdm,
    order: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one pass on the device, normalised as the model's pretrained_cfg says."""
    augment = v2.Identity()
    if train and run["augmentation"] != "none":
        augment = v2.Compose([v2.RandomCrop(image_set.images.shape[-1], padding=4), v2.RandomHorizontalFlip()])

    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([augment(image) for image, _ in samples]), torch.stack([label for _, label in samples])

    channels = image_set.images.shape[1]
    mean, std = (
        torch.tensor(model.pretrained_cfg[name][:channels], device=device).view(-1, 1, 1) for name in ("mean", "std")
    )
    loader = DataLoader(
        TensorDataset(image_set.images, image_set.labels),
        batch_size=run["batch_size"] if train else 250,
        shuffle=train,
        generator=order,
        # a last batch of one image has no batch statistics
        drop_last=train and len(image_set) % run["batch_size"] == 1,
        collate_fn=collate,
    )
    for images, labels in loader:
        yield (images.to(device).float() / 255 - mean) / std, labels.to(device)
        progress.update(len(labels))


def train(run: dict[str, Any], train_set: ImageSet, test_set: ImageSet, device: str) -> dict[str, Any]:
    """Train and test one network; what is measured."""
    torch.manual_seed(run["seed"])
    model = build(run, len(train_set.classes), train_set.images.shape[1]).to(device)
    # the same order of images for every encoder, whatever it draws
    torch.manual_seed(run["seed"])
    order = torch.Generator().manual_seed(run["seed"])
    optimizer = torch.optim.SGD(
        model.parameters(), run["learning_rate"], momentum=run["momentum"], weight_decay=run["weight_decay"]
    )
    # as many as batches gives: it leaves out a last batch of one image
    steps = len(train_set) // run["batch_size"] + (len(train_set) % run["batch_size"] > 1)
    schedule = CosineLRScheduler(
        optimizer,
        # one more, so that the last step is not at learning rate 0
        t_initial=(run["epochs"] - run["warmup_epochs"]) * steps + 1,
        warmup_t=run["warmup_epochs"] * steps,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    done = 0

    def before_step() -> None:
        nonlocal done
        done += 1
        schedule.step_update(done)

    accuracies: dict[int, float] = {}
    seconds, test_loss, loss = 0.0, float("nan"), float("nan")
    for epoch in range(1, run["epochs"] + 1):
        title = f"{run['encoder']}, seed {run['seed']}, epoch {epoch}/{run['epochs']}"
        with tqdm(total=len(train_set), desc=title, unit="image", leave=False, mininterval=1) as progress:
            start = time.perf_counter()
            loss = train_one_epoch(
                model, batches(train_set, run, model, device, True, progress, order), optimizer, before_step
            )
            seconds += time.perf_counter() - start
        if epoch % run["eval_every"] == 0 or epoch == run["epochs"]:
            title = f"{run['encoder']}, seed {run['seed']}, test after {epoch}"
            with (
                tqdm(total=len(test_set), desc=title, unit="image", leave=False, mininterval=1) as progress,
                firing_rates(model) as rates,
            ):
                accuracies[epoch], test_loss = evaluate(model, batches(test_set, run, model, device, False, progress))
    best = max(accuracies, key=accuracies.get)
    return {
        "accuracy_best": round(100 * accuracies[best], 3),
        "best_epoch": best,
        "accuracy_last": round(100 * accuracies[run["epochs"]], 3),
        "test_loss_last": round(test_loss, 5),
        "train_loss_last": round(loss, 5),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_images": len(train_set),
        "test_images": len(test_set),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(run["epochs"] * len(train_set) / seconds, 1),
        "firing_rate_mean": round(sum(rates.values()) / len(rates), 5),
        "firing_rates": json.dumps({name: round(rate, 5) for name, rate in rates.items()}),
        "accuracy_by_epoch": json.dumps({epoch: round(100 * value, 3) for epoch, value in accuracies.items()}),
    }


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        check(args)
        try:
            rows = Rows(args.output / "results.csv", SETTINGS, SETTINGS + MEASURED)
        except OSError as error:
            raise ValueError(f"--output {args.output} cannot be written ({error}); name another folder.") from error
        size = timm.get_pretrained_cfg(args.model).input_size[-1]
        train_set, test_set = load_image_sets(args.dataset, args.data_dir, size)
        if args.train_limit:
            train_set = train_set.balanced(args.train_limit)
        if len(train_set) < 2:
            raise ValueError("The training set has one image; BatchNorm needs at least two; add images.")
        build(settings(args, args.encoders[0]), len(train_set.classes), train_set.images.shape[1])
    except (ValueError, OSError) as error:
        print(f"run_cifar.py: {error}", file=sys.stderr)
        return 2
    data = fingerprint(train_set, test_set)
    runs = [
        settings(args, name) | {"data": data, "seed": seed}
        for seed in dict.fromkeys(args.seeds)
        for name in dict.fromkeys(args.encoders)
    ]
    try:
        for number, run in enumerate(runs, 1):
            title = f"[{number}/{len(runs)}] {run['encoder']}, seed {run['seed']}"
            row = rows.find(run)
            if row is None:
                row = run | train(run, train_set, test_set, args.device)
                row |= {"commit": commit(), "versions": versions(), "device": device_name(args.device)}
                row["date"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
                rows.add(row)
                title += f" ({row['train_seconds']} s)"
            print(f"{title}: test accuracy {row['accuracy_last']} %, best {row['accuracy_best']} %", flush=True)
        print(write_report(args.output, [rows.find(run) for run in runs]))
    except KeyboardInterrupt:
        print(
            f"run_cifar.py: interrupted; the finished runs are in {rows.path}; the same command continues.",
            file=sys.stderr,
        )
        return 130
    except (FloatingPointError, OSError) as error:
        print(f"run_cifar.py: after {run['encoder']}, seed {run['seed']}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
