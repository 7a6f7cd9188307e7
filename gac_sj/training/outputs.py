"""Run outputs: args.yaml, summary.csv, weights, TensorBoard events, and Weights & Biases on request."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from gac_sj._utils.claims import check_claim
from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import as_utf8, named_errors, remove_unfinished, write_atomically
from gac_sj.checkpoint.runs import LABEL_NAMES
from gac_sj.training.build import Data
from gac_sj.training.settings import Settings

__all__ = ["RunOutputs"]


class RunOutputs:
    """The files of one run, but for its checkpoints.

    Args:
        folder: of the run; it must exist.
        settings: settings of the run.
        data: its data; weights get the names of its classes.
        epoch: the first epoch that will be added; TensorBoard forgets its values of this and later epochs.

    Raises:
        UsageError: Weights & Biases is requested and not installed.
        FolderInUseError: another process has taken the folder over; so do the methods.
    """

    def __init__(self, folder: Path, settings: Settings, data: Data, epoch: int):
        self.folder, self.settings, self.classes = folder, settings, data.train.classes
        self.tensorboard: Any = None
        self.wandb: Any = None
        check_claim(folder)
        remove_unfinished(folder)  # this start holds the folder
        write_atomically(folder / "args.yaml", settings.dump().encode())
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # the extra "train" brings it
            pass
        else:
            with named_errors(folder / "tensorboard"):
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
        check_claim(self.folder)
        text = io.StringIO()
        # callbacks add columns, not to every row
        columns = dict.fromkeys(name for row in history for name in row)
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_atomically(self.folder / "summary.csv", text.getvalue().encode())
        numbers = {name: value for name, value in history[-1].items() if isinstance(value, int | float)}
        epoch = history[-1]["epoch"]
        if self.tensorboard:
            with named_errors(self.folder / "tensorboard"):
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
        check_claim(self.folder)
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        settings = self.settings.at_epoch(history[-1]["epoch"] - 1)  # with the T of these weights
        # no second entry: safetensors would write the two in any order
        names = [as_utf8(name).decode() for name in self.classes]
        content = save(tensors, {"settings": json.dumps(settings.key() | {LABEL_NAMES: names})})
        files = ["last.safetensors"]
        if history[-1]["top1"] > max((row["top1"] for row in history[:-1] if row["top1"] != ""), default=-1):
            files.append("best.safetensors")
        for name in files:
            write_atomically(self.folder / name, content)

    def close(self) -> None:
        """End the logs."""
        if self.tensorboard:
            with named_errors(self.folder / "tensorboard"):
                self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()
