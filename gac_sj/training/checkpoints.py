"""Checkpoints of a run: written completely or not at all, damage is recognised, reading executes no code."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from pathlib import Path
from typing import Any

import torch

from gac_sj._utils.claims import check_claim
from gac_sj._utils.errors import first_sentence
from gac_sj._utils.files import read_bytes, remove_unfinished, write_atomically

__all__ = ["Checkpoints"]

_logger = logging.getLogger(__name__)


class Checkpoints:
    """The newest checkpoints in a folder; the name of each has epoch, step and the SHA-256 of its content.

    Args:
        folder: created when needed.
        keep: number of checkpoints that are kept.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def save(self, epochs: int, steps: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint; then remove the oldest ones, and those of later steps, which are damaged.

        (The run has resumed before them, and it resumes at the newest one that is not damaged.)

        Args:
            epochs: finished epochs.
            steps: finished optimiser steps.
            state: tensors and plain values.

        Raises:
            FolderInUseError: another process has taken the folder of the run over.
        """
        check_claim(self.folder.parent)
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        path = self.folder / f"epoch{epochs:05d}-step{steps:09d}-{_checksum(content)}.pt"
        write_atomically(path, content)
        paths = self._newest_first()
        kept = [other for other in paths if other <= path][: self.keep]
        remove_unfinished(self.folder)
        for other in set(paths).difference(kept):
            if not other.is_dir():
                other.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest state that is not damaged, or None; damaged ones are logged and skipped."""
        for path in self._newest_first():
            try:
                content = read_bytes(path)
                if _checksum(content) != path.stem.rpartition("-")[2]:
                    raise ValueError("its checksum is wrong")
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception as error:
                _logger.warning("The checkpoint %s is damaged (%s); it is skipped.", path, first_sentence(error))
        return None

    def any(self) -> bool:
        """Whether there is a checkpoint, damaged or not."""
        return bool(self._newest_first())

    def _newest_first(self) -> list[Path]:
        paths = self.folder.glob("epoch*.pt") if self.folder.is_dir() else []
        complete = (path for path in paths if re.fullmatch(r"epoch\d{5}-step\d{9}-[0-9a-f]{16}\.pt", path.name))
        return sorted(complete, reverse=True)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
