"""Every setting of a training run: defaults, then a YAML file, then the command line."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import timm
import torch
import yaml
from timm.optim import list_optimizers

from gac_sj._utils.configuration import add_arguments, check, read_yaml, setting
from gac_sj._utils.errors import UsageError
from gac_sj.data import DATASETS, Augmentation
from gac_sj.encoders import encoder_info, list_encoders, require_source
from gac_sj.models import MODULES, default_encoder

__all__ = ["Settings", "parse"]


@dataclass(frozen=True, kw_only=True)
class Settings(Augmentation):
    """The settings of one run; ``experiments/train.py --help`` shows them all.

    ``batch_size`` counts the images of one optimiser step over all processes and accumulated parts, so that a recipe
    means the same on one device and on many.

    Raises:
        ValueError: an unknown name, a value of the wrong type or out of its range, or two that exclude each other.
    """

    model: str = setting("network", "gac_ms_resnet18_cifar", "a network of gac_sj.models")
    T: int = setting("network", 4, "time steps", least=1)
    encoder: str | None = setting("network", None, "another encoder than the network's own", list_encoders)
    form: str | None = setting("network", None, "form of the encoder; reference: the whole network as published")
    encoder_source: str | None = setting("network", None, "file that defines the encoder, and its digest", option=False)
    model_options: dict[str, Any] = setting("network", {}, "further keywords of the network, '{drop_rate: 0.1}'")

    dataset: str = setting("data", "cifar10", "data set", DATASETS)
    data_dir: str | None = setting("data", None, "its folder; CIFAR is downloaded into it", key=False)
    train_limit: int | None = setting("data", None, "number of class-balanced training images", least=1)
    loader: str = setting("data", "standard", "from disk, or all images on the device", ("standard", "resident"))
    workers: int = setting("data", 2, "processes that load images; 0: the main one does", least=0, key=False)
    skip_corrupt: bool = setting("data", False, "take the next image for an unreadable one, and count")

    epochs: int = setting("optimisation", 250, "passes over the training set", least=1)
    batch_size: int = setting("optimisation", 64, "images per step, over all processes and parts", least=1)
    accumulate: int = setting("optimisation", 1, "parts of a batch whose gradients are added", least=1)
    opt: str = setting("optimisation", "momentum", "timm's name; momentum is SGD without Nesterov, the paper's")
    lr: float = setting("optimisation", 0.1, "largest learning rate", least=0)
    momentum: float = setting("optimisation", 0.9, "of optimisers that have one", least=0, most=1)
    weight_decay: float = setting("optimisation", 5e-5, "weight decay", least=0)
    decay_all: bool = setting("optimisation", True, "decay biases and normalisation too, as the paper's code does")
    warmup_epochs: float = setting("optimisation", 0.0, "linear warm-up from 0, part of epochs", least=0)
    min_lr: float = setting("optimisation", 0.0, "learning rate at the end of the cosine", least=0)
    clip_grad: float | None = setting("optimisation", None, "largest norm of the gradient", least=1e-12)
    ema: float | None = setting(
        "optimisation", None, "decay of averaged weights, which are then tested and kept", least=0, most=1
    )
    loss: str = setting("optimisation", "ce", "cross-entropy of the mean over time, or TET", ("ce", "tet"))
    tet_lambda: float = setting("optimisation", 0.05, "weight of TET's squared error", least=0, most=1)
    amp: str = setting("optimisation", "none", "autocast", ("none", "bf16", "fp16"))
    channels_last: bool = setting("optimisation", False, "memory format")
    grad_checkpointing: bool = setting(
        "optimisation", False, "less memory: run blocks again in the backward pass", key=False
    )
    spikes_as_bytes: bool = setting(
        "optimisation", False, "less memory: spikes kept as bytes for the backward pass", key=False
    )
    compile: bool = setting("optimisation", False, "torch.compile network and loss")
    sync_bn: bool = setting("optimisation", False, "BatchNorm over all processes")

    seed: int = setting("run", 0, "of weights, order and augmentation", least=0, most=2**63 - 1)
    eval_every: int = setting("run", 1, "epochs between tests; the last epoch is always tested", least=1)
    device: str = setting("run", "auto", "cpu, cuda, cuda:N or auto", key=False)
    output: str | None = setting("run", None, "folder of the run", key=False)
    checkpoint_minutes: float = setting(
        "run", 10.0, "between checkpoints inside an epoch; 0: each step", least=0, key=False
    )
    keep_checkpoints: int = setting("run", 2, "newest checkpoints that stay", least=1, key=False)
    wandb: str | None = setting("run", None, "project of Weights & Biases", key=False)

    def __post_init__(self) -> None:
        if self.encoder_source is not None:
            require_source(self.encoder, self.encoder_source)
        check(self)
        if self.model not in (models := timm.list_models(module=MODULES)):
            raise ValueError(f"model is {self.model!r}; choose one of {', '.join(models)}.")
        if self.opt not in list_optimizers():
            raise ValueError(f"opt is {self.opt!r}; choose one of {', '.join(list_optimizers())}.")
        if not self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs; make it shorter.")
        if self.compile and self.spikes_as_bytes:
            raise ValueError("compile and spikes_as_bytes exclude each other; leave one out.")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size is {self.batch_size}, no multiple of accumulate={self.accumulate}; change one."
            )
        if self.mixes and self.batch_size % 2:
            raise ValueError(f"batch_size is {self.batch_size}, and MixUp and CutMix pair images; make it even.")
        if "form" in self.model_options:
            raise ValueError("model_options has form, which is a setting of its own; give it there.")
        # the same network under two names would be two keys
        object.__setattr__(self, "model_options", dict(sorted(self.model_options.items())))
        self._resolve_encoder()
        if self.auto_augment and self.color_jitter:
            raise ValueError("auto_augment and color_jitter are given, and timm takes only the first; leave one out.")
        if self.loader == "resident":
            unknown = {"crop": "resize", "interpolation": "bicubic"}
            refused = [name for name, value in unknown.items() if getattr(self, name) == value]
            refused += [
                n for n in ("crop_fraction", "color_jitter", "auto_augment", "skip_corrupt") if getattr(self, n)
            ]
            if refused:
                given = ", ".join(f"{name}={getattr(self, name)}" for name in refused)
                raise ValueError(f"loader is 'resident', which knows no {given}; use loader=standard.")

    def _resolve_encoder(self) -> None:
        """Write down the encoder, its form and the file that defines it, which are part of the key."""
        if self.encoder is None:
            object.__setattr__(self, "encoder", default_encoder(self.model))
        info = encoder_info(self.encoder)
        if self.form is None:
            object.__setattr__(self, "form", info.default_form)
        elif info.forms and self.form not in info.forms:
            raise UsageError(f"must be a form of {info.name!r}, got {self.form!r}", argument="form", options=info.forms)
        object.__setattr__(self, "encoder_source", info.source)

    @property
    def autocast(self) -> torch.dtype | None:
        """The type of autocast."""
        return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.amp]

    def key(self) -> dict[str, Any]:
        """The settings that decide about the result, seed included: not where and how it is read, run and written."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.metadata["key"]}

    def name(self) -> str:
        """Ten letters that stand for the key."""
        # without defaults, so that a setting that is added later does not rename older runs
        changed = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.metadata["key"] and (value := getattr(self, field.name)) not in (field.default, {})
        }
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]

    def dump(self) -> str:
        """As YAML."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """Settings of ``--config`` with the command line over it, and all that the parser read.

    Raises:
        ValueError: see :class:`Settings` and :func:`gac_sj._utils.configuration.read_yaml`.
    """
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file of settings; the command line goes over it")
    add_arguments(parser, Settings)
    args = parser.parse_args(arguments)
    names = [field.name for field in dataclasses.fields(Settings)]
    given = {name: value for name, value in vars(args).items() if name in names}
    return Settings(**(read_yaml(args.config, names) if args.config else {}) | given), args
