"""What a run leaves in its folder: args.yaml, summary.csv, TensorBoard events, Weights & Biases where asked for."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import yaml

from gac_sj._utils.files import write_atomically
from gac_sj.training.settings import Settings

__all__ = ["Record"]


class Record:
    """The files of one run.

    Args:
        folder: of the run; made when needed.
        settings: of the run.
        epoch: the first that will be added; TensorBoard forgets what it has of this and later ones.

    Raises:
        ValueError: the folder holds a run with other settings, or W&B is asked for and not installed.
    """

    def __init__(self, folder: Path, settings: Settings, epoch: int = 0):
        self.folder = folder
        self.tensorboard = self.wandb = None
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
                raise ValueError("wandb is asked for and not installed; pip install wandb, or leave it out.") from error
            self.wandb = wandb.init(
                project=settings.wandb, id=settings.name(), resume="allow", config=settings.key(), dir=str(folder)
            )

    @staticmethod
    def check(folder: Path, settings: Settings) -> None:
        """Refuse to mix two runs in one folder.

        Raises:
            ValueError: the folder holds a run with other settings; the message names them.
        """
        path = folder / "args.yaml"
        if not path.exists():
            return
        try:
            before = Settings(**yaml.safe_load(path.read_text(encoding="utf-8"))).key()
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged; move the folder away or name another output.") from error
        now = settings.key()
        if differing := [f"{name}: {before[name]} -> {now[name]}" for name in now if before[name] != now[name]]:
            raise ValueError(
                f"{folder} holds a run with other settings ({'; '.join(differing)}); name another output, or the same "
                "settings to continue it."
            )

    def write(self, history: list[dict[str, Any]]) -> None:
        """All epochs so far; the last one is new."""
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

    def close(self) -> None:
        if self.tensorboard:
            self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()
