"""Every setting of a training run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from timm.optim import list_optimizers

from gac_sj._utils.configuration import check, setting
from gac_sj._utils.errors import UsageError
from gac_sj._utils.time_schedule import check_time_schedule, steps_at
from gac_sj._utils.user_code import is_place
from gac_sj._utils.weights_source import identity
from gac_sj.data import DATASETS, DEFAULT_DATASET, Augmentation, dataset_info
from gac_sj.data.statistics import numbers_text, size_text
from gac_sj.encoders import encoder_info, list_encoders, require_source
from gac_sj.models import default_encoder
from gac_sj.models.builder import OF_TIMM
from gac_sj.models.kinds import record_network

__all__ = ["MAY_BE_OPEN", "Settings"]

#: Values of the setting ``compile``; false and true stand for the first two, as in rows of before there were more.
_COMPILE = ("off", "default", "reduce-overhead", "max-autotune")
#: Settings that may wait for a device, and what says that they do.
MAY_BE_OPEN = {"amp": "auto", "channels_last": None}


@dataclass(frozen=True, kw_only=True)
class Settings(Augmentation):
    """The settings of one run; ``experiments/train.py --help`` shows them all.

    ``batch_size`` counts the images of one optimiser step over all processes and micro-batches, so that a recipe means
    the same on one device and on many.

    Raises:
        UsageError: an unknown name, a value of the wrong type or out of range, or two that exclude each other.
    """

    model: str = setting(
        "network",
        "gac_ms_resnet18_cifar",
        "a network of gac_sj, spikingjelly:NAME, FILE.py:FUNCTION, or what --import registers with timm",
    )
    T: int = setting("network", 4, "time steps", least=1)
    T_schedule: dict[int, int] = setting(
        "network", {}, "fewer time steps in the first epochs, counted from 0: '{0: 1, 20: 2, 30: 4}' for -T 4"
    )
    encoder: str | None = setting("network", None, "encoder in the place of the network's own", list_encoders)
    form: str | None = setting("network", None, "form of the encoder; reference: the complete network as published")
    encoder_source: str | None = setting("network", None, "file that defines the encoder, and its digest", option=False)
    model_source: str | None = setting("network", None, "file that defines the network, and its digest", option=False)
    model_options: dict[str, Any] = setting("network", {}, "further keywords of the network, '{drop_rate: 0.1}'")
    init_from: str | None = setting(
        "network", None, "weights to start from: of a run, in timm's form, published, or a name", key=False
    )
    init_weights: str | None = setting("network", None, "SHA-256 of the weights to start from, or name", option=False)
    freeze: list[str] = setting("network", [], "parameters that are not trained, by patterns of names: 'encoder.*'")

    dataset: str = setting(
        "data", DEFAULT_DATASET, f"data set: {', '.join(DATASETS)}, or FILE.py:FUNCTION, which returns two data sets"
    )
    dataset_source: str | None = setting("data", None, "file that defines the data set, and its digest", option=False)
    data_dir: str | None = setting("data", None, "folder of the data set; CIFAR is downloaded into it", key=False)
    train_limit: int | None = setting("data", None, "number of class-balanced training images", least=1)
    img_size: str | None = setting("data", None, "side of images or frames, or HEIGHTxWIDTH (None: the network's)")
    mean: str | None = setting(
        "data", None, "subtracted from pixels in [0, 1], by channel: 0.5,0.5,0.5; auto: measured (None: the data set's)"
    )
    std: str | None = setting("data", None, "that pixels are divided by, in the same way; measured with mean=auto")
    loader: str = setting(
        "data", "standard", "read images from disk, or keep all of them on the device", ("standard", "resident")
    )
    workers: int = setting("data", 2, "processes that read images; 0: the main process reads them", least=0, key=False)
    skip_corrupt: bool = setting("data", False, "replace an unreadable image by the next one, and count")

    epochs: int = setting("optimisation", 250, "passes over the training set", least=1)
    batch_size: int = setting("optimisation", 64, "images per step, over all processes and micro-batches", least=1)
    accumulate: int = setting("optimisation", 1, "micro-batches per step whose gradients are added", least=1)
    opt: str = setting(
        "optimisation", "momentum", "timm's name of the optimiser; momentum is SGD without Nesterov, as in the paper"
    )
    lr: float = setting("optimisation", 0.1, "largest learning rate", least=0)
    momentum: float = setting("optimisation", 0.9, "momentum of optimisers that have one", least=0, most=1)
    weight_decay: float = setting("optimisation", 5e-5, "weight decay", least=0)
    decay_all: bool = setting("optimisation", True, "decay biases and normalisation too, as the published code does")
    decay_gate: bool = setting("optimisation", True, "decay the encoder's gate too, as published; false spares it")
    warmup_epochs: float = setting("optimisation", 0.0, "epochs of linear warm-up from 0, part of all epochs", least=0)
    min_lr: float = setting("optimisation", 0.0, "learning rate at the end of the cosine", least=0)
    clip_grad: float | None = setting("optimisation", None, "largest norm of the gradient", least=1e-12)
    ema: float | None = setting(
        "optimisation", None, "decay of an EMA of the weights, which is then tested and saved", least=0, most=1
    )
    loss: str = setting("optimisation", "ce", "cross-entropy of the mean over time, or TET", ("ce", "tet"))
    tet_lambda: float = setting("optimisation", 0.05, "weight of TET's squared error", least=0, most=1)
    amp: str = setting(
        "optimisation", "none", "autocast; auto: bf16 where the device has it", ("none", "bf16", "fp16", "auto")
    )
    channels_last: bool | None = setting(
        "optimisation", None, "memory format; null: what is faster on the device", absent=False
    )
    grad_checkpointing: bool = setting(
        "optimisation", False, "save memory: run blocks again in the backward pass", key=False
    )
    spikes_as_bytes: bool = setting(
        "optimisation", False, "save memory: keep spikes as bytes for the backward pass", key=False
    )
    compile: str | bool = setting(
        "optimisation", False, "compile network and loss with torch.compile; true is default", _COMPILE
    )
    cuda_graph: bool = setting("optimisation", False, "launch a whole step on a GPU at once, as a CUDA graph")
    sync_bn: bool = setting("optimisation", False, "BatchNorm over all processes")

    continues: str | None = setting("run", None, "epochs and name of the run that it continues", option=False)
    continue_from: str | None = setting("run", None, "folder of the run that it continues", key=False, option=False)
    seed: int = setting("run", 0, "seed of weights, order and augmentation", least=0, most=2**63 - 1)
    eval_every: int = setting("run", 1, "epochs between tests; the last epoch is always tested", least=1)
    device: str = setting("run", "auto", "cpu, cuda, cuda:N or auto", key=False)
    output: str | None = setting("run", None, "folder of the run", key=False)
    checkpoint_minutes: float = setting(
        "run", 10.0, "minutes between checkpoints, besides one before each test; 0: every step", least=0, key=False
    )
    keep_checkpoints: int = setting("run", 2, "number of newest checkpoints that are kept", least=1, key=False)
    wandb: str | None = setting("run", None, "project of Weights & Biases", key=False)
    log_firing_rates: bool = setting(
        "run", False, "log firing rates by layer, and statistics of the gates, of every test", key=False
    )
    # no part of the key: a callback observes, and a run whose callback was corrected is the same run
    callback: list[str] = setting(
        "run", [], "FILE.py:CLASS that is called after steps, tests and epochs; may be repeated", key=False
    )

    def __post_init__(self) -> None:
        if self.encoder_source is not None:  # first, because an encoder that was not imported is an unknown name
            require_source(str(self.encoder or default_encoder(str(self.model))), str(self.encoder_source))
        object.__setattr__(self, "img_size", size_text(self.img_size))
        for name in ("mean", "std"):
            object.__setattr__(self, name, numbers_text(name, getattr(self, name)))
        check(self)
        object.__setattr__(self, "compile", {"off": False, "default": True}.get(str(self.compile), self.compile))
        self._resolve_dataset()
        for name, value in zip(("model", "model_source"), record_network(self.model, self.model_source)):
            object.__setattr__(self, name, value)
        optimisers = list(map(str, list_optimizers()))
        if self.opt not in optimisers:
            raise UsageError(
                f"must be an optimiser of timm, got {self.opt!r}", argument="opt", options=optimisers, given=self.opt
            )
        self._check_batches()
        self._check_combinations()
        # the same network under two names would be two keys
        object.__setattr__(self, "model_options", dict(sorted(self.model_options.items())))
        object.__setattr__(self, "T_schedule", check_time_schedule(self.T_schedule, self.T, self.epochs))
        self._resolve_encoder()
        if self.init_from is not None and self.init_weights is None:
            object.__setattr__(self, "init_weights", identity(self.init_from))

    def _check_batches(self) -> None:
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"must be a multiple of accumulate={self.accumulate}, got {self.batch_size}", argument="batch_size"
            )
        if self.mixes and self.batch_size % 2:
            raise UsageError(
                f"must be even for MixUp and CutMix, which pair images, got {self.batch_size}", argument="batch_size"
            )
        if not self.warmup_epochs < self.epochs:
            raise UsageError(
                f"must be less than epochs={self.epochs}, got {self.warmup_epochs:g}", argument="warmup_epochs"
            )

    def _check_combinations(self) -> None:
        if self.compile and self.spikes_as_bytes:
            raise UsageError("cannot be combined with spikes_as_bytes", "leave one out", argument="compile")
        if self.cuda_graph and (reason := self._why_not_captured()):
            raise UsageError(f"cannot be combined with {reason}", "leave one out", argument="cuda_graph")
        if self.auto_augment and self.color_jitter:
            raise UsageError(
                "cannot be combined with color_jitter, which timm would ignore", "leave one out",
                argument="auto_augment",
            )  # fmt: skip
        if of_timm := sorted(OF_TIMM & self.model_options.keys()):
            raise UsageError(
                f"must be keywords of the network, not of timm's builder, got {', '.join(of_timm)}",
                "leave them out",
                argument="model_options",
            )
        if own := sorted({"T", "encoder", "form"} & self.model_options.keys()):
            raise UsageError(f"must not have {own[0]}, which is a setting", "give it there", argument="model_options")
        if self.loader == "resident":
            refused = [name for name in ("crop_fraction", "color_jitter", "auto_augment", "skip_corrupt")
                       if getattr(self, name)]  # fmt: skip
            if self.crop == "resize":
                refused.append("crop")
            if self.interpolation == "bicubic":
                refused.append("interpolation")
            if refused:
                given = ", ".join(f"{name}={getattr(self, name)}" for name in refused)
                raise UsageError(f"must not be 'resident' with {given}", "use loader=standard", argument="loader")

    def _why_not_captured(self) -> str | None:
        """What a CUDA graph of a step cannot hold; None if nothing is asked for."""
        if self.amp == "fp16":
            return "amp=fp16, whose scaling of the loss is decided on the CPU in every step"
        if isinstance(self.compile, str):
            return f"compile={self.compile}, which captures graphs of its own"
        return "grad_checkpointing, which looks at random states" if self.grad_checkpointing else None

    def _resolve_dataset(self) -> None:
        """Run the file of a user's data set, unless it was recorded; its name and digest are part of the key."""
        info = dataset_info(self.dataset, self.dataset_source if _is_recorded(vars(self), "dataset") else None)
        object.__setattr__(self, "dataset", info.name)
        object.__setattr__(self, "dataset_source", info.source)

    def _resolve_encoder(self) -> None:
        """Set the encoder, its form and the file that defines it, which are part of the key."""
        encoder = default_encoder(self.model) if self.encoder is None else self.encoder
        object.__setattr__(self, "encoder", encoder)
        info = encoder_info(encoder)
        if self.form is None:
            object.__setattr__(self, "form", info.default_form)
        elif info.forms and self.form not in info.forms:
            raise UsageError(f"must be a form of {info.name!r}, got {self.form!r}", argument="form", options=info.forms)
        object.__setattr__(self, "encoder_source", info.source)

    @property
    def autocast(self) -> torch.dtype | None:
        """The data type of autocast; None without it, and while ``amp`` is "auto"."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.amp)

    @property
    def open(self) -> tuple[str, ...]:
        """The settings that wait for a device (:func:`gac_sj.training.hardware.resolve`)."""
        return tuple(name for name, value in MAY_BE_OPEN.items() if getattr(self, name) == value)

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> Settings:
        """The settings of a run that were recorded, perhaps before some settings of today existed.

        Args:
            values: settings by name.

        Raises:
            UsageError: see the class; a file of a user without its digest, since records never run one by themselves.
            TypeError: an unknown name.
        """
        values = dict(values)
        for name in ("model", "dataset"):
            if is_place(str(values.get(name))) and not _is_recorded(values, name):
                raise UsageError(f"names {values[name]!r} without the digest of its file", argument=name)
        return cls(**{field.name: field.metadata["absent"] for field in dataclasses.fields(cls)} | values)

    def at_epoch(self, epoch: int) -> Settings:
        """The settings with the number of time steps of an epoch.

        Args:
            epoch: counted from 0.
        """
        T = steps_at(self.T_schedule, epoch) if self.T_schedule else self.T
        return self if T == self.T else dataclasses.replace(self, T=T, T_schedule={})

    def key(self) -> dict[str, Any]:
        """The settings that the result depends on, the seed included; not where and how it is read, run and written."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.metadata["key"]}

    def name(self) -> str:
        """First 10 hex digits of the SHA-256 of the key."""
        # without the values of older runs, so that a setting that is added later does not rename them
        changed = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.metadata["key"] and (value := getattr(self, field.name)) != field.metadata["absent"]
        }
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]

    def dump(self) -> str:
        """All settings as YAML."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


def _is_recorded(values: Mapping[str, Any], name: str) -> bool:
    """Whether settings name a user's network or data set as records do: without a folder, and with the digest."""
    return bool(values.get(f"{name}_source")) and Path(values[name]).name == values[name]
