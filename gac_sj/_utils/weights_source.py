"""Where weights to start from are: a file, a folder, or the name of a network with pretrained weights."""

from __future__ import annotations

from pathlib import Path

import timm
from timm.models._hub import HF_SAFE_WEIGHTS_NAME

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import fingerprint

__all__ = ["HUB", "identity", "weights_file"]

HUB = "hf-hub:"


def weights_file(source: str) -> Path | None:
    """The file that holds the weights; None for a name.

    Args:
        source: a file; a folder of a run, or in timm's form (a prefix "local-dir:" is ignored); or a name.

    Raises:
        UsageError: a folder without weights.
    """
    path = Path(source.removeprefix("local-dir:"))
    if not path.is_dir():
        return path if path.exists() else None
    names = (HF_SAFE_WEIGHTS_NAME, "last.safetensors")
    found = next((path / name for name in names if (path / name).exists()), None)
    if found is None:
        raise UsageError(
            f"must be a folder with weights, and {path} has neither {' nor '.join(names)}",
            "name a folder of a finished run, or of save_pretrained",
            argument="init_from",
        )
    return found


def identity(source: str) -> str:
    """What a key holds of weights: the first 12 hex digits of the SHA-256 of their file; of a name, the name.

    Args:
        source: see :func:`weights_file`.

    Raises:
        UsageError: there is no such file or folder, it cannot be read, or there are no pretrained weights of that name.
    """
    file = weights_file(source)
    if file is not None:
        try:
            return fingerprint(file)
        except OSError as error:
            raise UsageError(f"{file} cannot be read ({first_sentence(error)})", argument="init_from") from error
    if source.startswith(HUB):
        return source
    try:
        about = timm.get_pretrained_cfg(source)
    except RuntimeError:  # a known network with an unknown tag
        about = None
    if about is None or not about.has_weights:
        known = "a network without pretrained weights" if timm.is_model(source) else "which does not exist"
        raise UsageError(
            f"must be a file, a folder or a network with pretrained weights, got {source!r}, {known}",
            "name the last.safetensors of a run, a folder of save_pretrained, a published .pth file, or hf-hub:NAME",
            argument="init_from",
        )
    return source
