"""What a device computes fastest: the settings that are left open, ``amp: auto`` and no ``channels_last``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import timm
import torch

from gac_sj.models import MODULES
from gac_sj.training.settings import Settings

__all__ = ["CHANNELS_LAST", "has_bfloat16", "resolve"]

_logger = logging.getLogger(__name__)

#: Kinds of device and modules of networks (:data:`gac_sj.models.MODULES`) whose training is faster in the memory format
#: channels_last, in float32 and in bfloat16; rows of benchmarks/results/speed.csv show it. All others are not known.
CHANNELS_LAST = {("cpu", "ms_resnet"), ("cuda", "ms_resnet")}


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16: AVX512-BF16, AMX, or a GPU from Ampere on.

    Args:
        device: of this machine.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # not public; a PyTorch without them says no
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in questions)


def resolve(
    settings: Settings, device: torch.device, exists: Callable[[Settings], bool] = lambda settings: False
) -> Settings:
    """The settings with a value for everything that they leave open (:attr:`Settings.open`).

    bfloat16 on a CPU that has no instructions for it is reported, once.

    Args:
        settings: settings of a run.
        device: that it runs on.
        exists: whether a run with certain settings was begun: it keeps its values, on any device.
    """
    if settings.open:
        found = list(_candidates(settings, device))
        settings = next(filter(exists, found), found[0])
    if settings.amp == "bf16" and device.type == "cpu" and not has_bfloat16(device):
        _warn_of_slow_bfloat16()
    return settings


@functools.cache
def _warn_of_slow_bfloat16() -> None:
    _logger.warning(
        "amp is bf16, but this CPU has no instructions for bfloat16 (AVX512-BF16 or AMX), so that it is "
        "much slower than in float32; use --amp none."
    )


def _candidates(settings: Settings, device: torch.device) -> Iterator[Settings]:
    """Every way to fill in what is open, the fastest first."""
    amps, formats = [settings.amp], [settings.channels_last]
    if "amp" in settings.open:
        amps = ["bf16", "none"] if has_bfloat16(device) else ["none", "bf16"]
    if "channels_last" in settings.open:
        kinds = (module for module in MODULES if settings.model in timm.list_models(module=module))
        is_faster = (device.type, next(kinds, "")) in CHANNELS_LAST
        formats = [is_faster, not is_faster]
    return (replace(settings, amp=amp, channels_last=last) for amp, last in product(amps, formats))
