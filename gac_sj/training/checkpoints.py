"""Checkpoints of a run: written whole or not at all, recognised when damaged, read without executing code."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from pathlib import Path
from typing import Any

import torch

from gac_sj._utils.files import write_atomically

__all__ = ["Checkpoints"]

_logger = logging.getLogger(__name__)


class Checkpoints:
    """The newest checkpoints in a folder; the name of each has its place and the SHA-256 of its content.

    Args:
        folder: is made when needed.
        keep: how many stay.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def save(self, epochs: int, steps: int, state: dict[str, Any]) -> Path:
        """Write a state of tensors and plain values after so many whole epochs and steps.

        Then the oldest are removed, and those of later steps: the run has not continued there, so they are damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        path = self.folder / f"epoch{epochs:05d}-step{steps:09d}-{_checksum(content)}.pt"
        write_atomically(path, content)
        paths = self._newest_first()
        kept = [other for other in paths if other <= path][: self.keep]
        killed = self.folder.glob(".epoch*.tmp")  # what a kill left unfinished
        for other in {*paths, *killed}.difference(kept):
            other.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None where there is none; damaged ones are named and passed over."""
        for path in self._newest_first():
            try:
                content = path.read_bytes()
                if _checksum(content) != path.stem.rpartition("-")[2]:
                    raise ValueError("its checksum is wrong")
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception as error:
                _logger.warning("The checkpoint %s is damaged (%s) and passed over.", path, error)
        return None

    def _newest_first(self) -> list[Path]:
        paths = self.folder.glob("epoch*.pt") if self.folder.is_dir() else []
        whole_names = (path for path in paths if re.fullmatch(r"epoch\d{5}-step\d{9}-[0-9a-f]{16}\.pt", path.name))
        return sorted(whole_names, reverse=True)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
