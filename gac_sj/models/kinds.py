"""The networks that ``--model`` can name, of four kinds.

- a network of this package: ``ms_resnet8_cifar``
- another network that timm knows, registered by a file that ``--import`` runs
- one of SpikingJelly's: ``spikingjelly:sew_resnet18`` (:mod:`gac_sj.models.spikingjelly`)
- a user's: ``FILE.py:FUNCTION`` (:mod:`gac_sj.models.own`)

Everything that depends on the kind is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.data import DEFAULT_CROP_PCT
from torch import nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.user_code import class_source, is_place
from gac_sj.encoders import EncoderInfo
from gac_sj.models.own import create_own, record_own
from gac_sj.models.protocols import NetworkModule, check_network
from gac_sj.models.spikingjelly import PREFIX, create_spikingjelly, require_spikingjelly

__all__ = [
    "MODULES",
    "PREFIX",
    "Defaults",
    "create_network",
    "defaults_of",
    "list_networks",
    "pixel_statistics",
    "record_network",
]

#: timm's names of the modules of this package's networks: ``timm.list_models(module=MODULES)``.
MODULES = ("ms_resnet", "att_ms_resnet", "ma_snn")
#: Images of at most this side are tested whole; of larger ones timm's central part (0.875) is.
_WHOLE = 64


class Defaults(NamedTuple):
    """What a network is made for where data and settings do not say it.

    Args:
        size: height and width of the images; None: any.
        classes: number of classes.
        classifier: name of its last layer; None: not known.
    """

    size: tuple[int, int] | None
    classes: int
    classifier: str | None


def list_networks() -> list[str]:
    """Names of the networks of this package."""
    return timm.list_models(module=MODULES)


def defaults_of(name: str) -> Defaults:
    """What a network is made for.

    Args:
        name: of any kind.
    """
    config = None if name.startswith(PREFIX) or is_place(name) else timm.get_pretrained_cfg(name)
    if config is None:
        return Defaults(None, 1000, None)
    return Defaults(config.input_size[1:], config.num_classes, config.classifier)


def record_network(name: str, source: str | None = None) -> tuple[str, str | None]:
    """How settings name a network, and the file that defines it.

    Args:
        name: of any kind. The file of a user's network is run.
        source: "FILE:DIGEST" where weights or settings of a run name the network; None: it is named now.

    Returns:
        The name, without the folder of a user's file, and the source; None for networks of packages.

    Raises:
        UsageError: there is no such network, or the one that there is comes from another file.
    """
    if name.startswith(PREFIX):
        require_spikingjelly(name)
        return name, None
    if is_place(name):
        return record_own(name, source)
    if name in list_networks():
        return name, None
    builder = timm.model_entrypoint(name) if timm.is_model(name) else None
    if builder is not None and builder.__name__ == name and builder.__module__.partition(".")[0] != "timm":
        found = class_source(builder)
        if source not in (None, found):
            raise UsageError(
                f"The network {name!r} was defined in {' with SHA-256 '.join(source.split(':'))}, and the registered "
                f"one comes from {found}",
                f"import the {source.partition(':')[0]} that was used",
            )
        return name, found
    if source is not None:
        file = source.rpartition(":")[0]
        raise UsageError(f"The network {name!r} is defined in {file}, which was not imported", f"add --import {file}")
    raise UsageError(
        f"must be a network of gac_sj, got {name!r}",
        f"or {PREFIX}NAME, FILE.py:FUNCTION, or what a file registers with timm (--import FILE)",
        argument="model",
        options=list_networks(),
        given=name,
    )


def pixel_statistics(info: EncoderInfo, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation that pixels are normalised with in front of an encoder, as in ``pretrained_cfg``.

    Args:
        info: of the encoder.
        mean: of the data set, per channel.
        std: of the data set, per channel.
    """
    if info.needs_unit_range:
        return {"mean": (0.0,) * len(mean), "std": (1.0,) * len(std)}
    return {"mean": tuple(mean), "std": tuple(std)}


def create_network(
    name: str,
    source: str | None,
    *,
    T: int,
    encoder: str,
    form: str | None,
    num_classes: int,
    shape: tuple[int, int, int],
    statistics: Mapping[str, Any],
    options: Mapping[str, Any],
) -> NetworkModule:
    """Build a network with random weights.

    Args:
        name: as :func:`record_network` returns it.
        source: as :func:`record_network` returns it.
        T: number of time steps.
        encoder: name of the encoder.
        form: of the encoder; None: its default.
        num_classes: number of classes.
        shape: channels, height and width of the images.
        statistics: mean and std of the pixels.
        options: further keywords of the network and of its encoder.

    Raises:
        UsageError: options that do not fit, or a network that lacks what :class:`gac_sj.models.protocols.Network` says.
        Exception: other errors of the builder about its options.
    """
    in_chans, size = shape[0], shape[1:]
    keywords: dict[str, Any] = dict(T=T, encoder=encoder, num_classes=num_classes, in_chans=in_chans)
    keywords |= {} if form is None else {"form": form}
    config = {"input_size": tuple(shape), **statistics}
    if name in list_networks():
        return cast(NetworkModule, timm.create_model(name, pretrained_cfg_overlay=config, **keywords, **options))
    try:
        if name.startswith(PREFIX):
            model: Any = create_spikingjelly(name, size=size, **keywords, **options)
        else:
            with torch.device("cpu"):  # a user's function need not work on "meta"
                if is_place(name):
                    model = create_own(name, source or "", size=size, **keywords, **options)
                else:
                    model = _create_registered(name, pretrained_cfg_overlay=config, **keywords, **options)
    except UsageError as error:
        if error.argument is not None:
            raise
        raise UsageError(f"cannot be {name!r}: {str(error).rstrip('.')}", argument="model") from error
    check_network(model, name, encoder, T, num_classes, shape)
    crop = DEFAULT_CROP_PCT if max(size) > _WHOLE else 1.0
    defaults = {"crop_pct": crop, "interpolation": "bicubic", "num_classes": num_classes}
    model.pretrained_cfg = {**defaults, **(getattr(model, "pretrained_cfg", None) or {}), **config}
    return cast(NetworkModule, model)


def _create_registered(name: str, **keywords: Any) -> nn.Module:
    """A network of another package, or of a user's file, that timm knows."""
    try:
        return timm.create_model(name, **keywords)
    except TypeError as error:
        raise UsageError(
            f"cannot be {name!r}, which does not take {', '.join(sorted(keywords))} ({first_sentence(error)})",
            "let its function take them",
            argument="model",
        ) from error
