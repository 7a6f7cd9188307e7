"""The network of a run: built, with the weights that it starts from, on its device, and what of it is trained."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gac_sj._utils.errors import UsageError
from gac_sj.checkpoint.runs import build_model
from gac_sj.models.protocols import NetworkModule
from gac_sj.nn.memory_format import use_channels_last
from gac_sj.nn.sync_batchnorm import convert_sync_batchnorm
from gac_sj.training.build import Data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.initial_weights import load_initial_weights
from gac_sj.training.memory import save_memory
from gac_sj.training.settings import Settings

__all__ = ["build_network", "training_mode"]


def build_network(settings: Settings, data: Data, world: DistributedContext, initial: bool = True) -> NetworkModule:
    """The network of a run on its device, as the settings of the optimisation want it.

    Args:
        settings: settings of the run.
        data: its data.
        world: its processes.
        initial: whether to load the weights that the run starts from.

    Raises:
        UsageError: weights or patterns that do not fit the network.
    """
    model = build_model(settings, data.info)
    if initial and settings.init_weights is not None:
        load_initial_weights(model, settings, data.info, log=world.is_first)
    model = model.to(world.device)
    if settings.sync_bn:
        convert_sync_batchnorm(model)  # in place
    save_memory(model, settings)
    if settings.channels_last:
        use_channels_last(model)
    _freeze(model, settings.freeze)
    return model


def _freeze(model: nn.Module, patterns: list[str]) -> None:
    """Let no gradient reach the parameters whose names match."""
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        found = [parameter for name, parameter in parameters.items() if fnmatchcase(name, pattern)]
        if not found:
            parts = sorted({f"{name.partition('.')[0]}.*" for name in parameters})
            raise UsageError(
                f"must match names of parameters, and {pattern!r} matches none", "for example one of these",
                argument="freeze", options=parts, given=pattern,
            )  # fmt: skip
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UsageError(
            f"must leave something to train, and {', '.join(map(repr, patterns))} match every parameter",
            "freeze fewer",
            argument="freeze",
        )


def training_mode(model: nn.Module) -> None:
    """Put a network into training mode, except BatchNorms whose parameters are all frozen: their statistics stay.

    Args:
        model: the network.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
