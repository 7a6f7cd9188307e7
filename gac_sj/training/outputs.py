"""Run outputs: args.yaml, summary.csv, weights, TensorBoard events, and Weights & Biases on request."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import read_text, write_atomically
from gac_sj._utils.reading import parse_yaml
from gac_sj.training.settings import Settings

__all__ = ["RunOutputs", "check_folder"]


def check_folder(folder: Path, settings: Settings) -> None:
    """Refuse to mix two runs in one folder.

    Args:
        folder: of the run; it need not exist.
        settings: settings of the run.

    Raises:
        UsageError: the folder holds a run with other settings, which the message names, or its args.yaml is damaged.
    """
    path = folder / "args.yaml"
    if not path.exists():
        return
    try:
        before = Settings(**parse_yaml(read_text(path))).key()
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"has a damaged file {path} ({first_sentence(error)})",
            "move the folder away or name another output",
            argument="output",
        ) from error
    now = settings.key()
    if differing := [f"{name}: {before[name]} -> {now[name]}" for name in now if before[name] != now[name]]:
        raise UsageError(
            f"{folder} holds a run with other settings ({', '.join(differing)})",
            "name another output, or give the same settings to resume it",
            argument="output",
        )


class RunOutputs:
    """The files of one run, but for its checkpoints.

    Args:
        folder: of the run; it must exist.
        settings: settings of the run.
        epoch: the first epoch that will be added; TensorBoard forgets its values of this and later epochs.

    Raises:
        UsageError: Weights & Biases is requested and not installed.
    """

    def __init__(self, folder: Path, settings: Settings, epoch: int):
        self.folder, self.settings = folder, settings
        self.tensorboard: Any = None
        self.wandb: Any = None
        write_atomically(folder / "args.yaml", settings.dump().encode())
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # the extra "train" brings it
            pass
        else:
            self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch)
        if settings.wandb:
            try:
                import wandb
            except ImportError as error:
                raise UsageError(
                    "needs the package wandb, which is not installed", "pip install wandb, or leave it out",
                    argument="wandb",
                ) from error  # fmt: skip
            self.wandb = wandb.init(
                project=settings.wandb, id=settings.name(), resume="allow", config=settings.key(), dir=str(folder)
            )

    def write_summary(self, history: list[dict[str, Any]]) -> None:
        """Write summary.csv, and log the last epoch.

        Args:
            history: a row for each epoch so far; the last one is new.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, history[-1], lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_atomically(self.folder / "summary.csv", text.getvalue().encode())
        numbers = {name: value for name, value in history[-1].items() if isinstance(value, int | float)}
        epoch = history[-1]["epoch"]
        if self.tensorboard:
            for name, value in numbers.items():
                self.tensorboard.add_scalar(name, value, epoch)
            self.tensorboard.flush()
        if self.wandb:
            self.wandb.log(numbers, step=epoch)

    def write_weights(self, model: nn.Module, history: list[dict[str, Any]]) -> None:
        """Write last.safetensors, and best.safetensors if the last test is the best so far.

        Args:
            model: the network that was tested after the last epoch.
            history: a row for each epoch so far.
        """
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        # no second entry: safetensors would write the two in any order
        content = save(tensors, {"settings": json.dumps(self.settings.key())})
        names = ["last.safetensors"]
        if history[-1]["top1"] > max((row["top1"] for row in history[:-1] if row["top1"] != ""), default=-1):
            names.append("best.safetensors")
        for name in names:
            write_atomically(self.folder / name, content)

    def close(self) -> None:
        """End the logs."""
        if self.tensorboard:
            self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()
