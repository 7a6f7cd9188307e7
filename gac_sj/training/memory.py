"""What saves memory in the backward pass, for the networks that have it."""

from __future__ import annotations

from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.training.settings import Settings

__all__ = ["save_memory"]


def save_memory(model: nn.Module, settings: Settings) -> None:
    """Switch on what the settings ask for.

    Args:
        model: of the run.
        settings: their ``grad_checkpointing`` and ``spikes_as_bytes``.

    Raises:
        UsageError: the network does not have it.
    """
    for name in ("grad_checkpointing", "spikes_as_bytes"):
        if not getattr(settings, name):
            continue
        method = getattr(model, f"set_{name}", None)
        if not callable(method):
            raise UsageError(f"is not supported by {settings.model}", "leave it out", argument=name)
        method()
