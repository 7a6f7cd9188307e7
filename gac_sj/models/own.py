"""A user's network: a function of a Python file that returns one, ``FILE.py:FUNCTION``."""

from __future__ import annotations

from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from torch import nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.user_code import load_from_file, loaded_before, source_of
from gac_sj.encoders import Encoder, create_encoder
from gac_sj.models.attached import AttachedNetwork

__all__ = ["create_own", "record_own"]


def record_own(place: str, source: str | None) -> tuple[str, str]:
    """How settings name a user's network, and the file that defines it.

    Args:
        place: ``FILE.py:FUNCTION`` with the path of the file, which is run; or with ``source`` the name that this
            function has returned.
        source: "FILE:DIGEST", from settings of a run; None: the file is given now.

    Returns:
        ``FILE.py:FUNCTION`` without folders, and the source.

    Raises:
        UsageError: the file does not exist, raises or lacks the function, or this process has not run the file, or
            another version of it, that the source names.
    """
    if source is not None:
        function = loaded_before(place, source, "network")
        recorded = place, source
    else:
        function = load_from_file(place, "model")
        file, _, name = place.rpartition(":")
        recorded = f"{Path(file).name}:{name}", source_of(file)
    if not callable(function):
        raise UsageError(
            f"must name a function that returns a network, got {place!r}, a {type(function).__name__}", argument="model"
        )
    return recorded


def create_own(
    name: str,
    source: str,
    *,
    T: int,
    num_classes: int,
    in_chans: int,
    size: tuple[int, int],
    encoder: str,
    form: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a user's network.

    The function is called with those of these keywords that it has: ``T``, ``num_classes``, ``in_chans``, ``size``
    (height and width of the images), ``encoder``, and the options. It returns either

    - a :class:`gac_sj.models.protocols.Network`, taken as it is, with the encoder that it has built by
      ``encoder(channels=64)``, which takes further keywords of :class:`gac_sj.Encoder` such as ``stem``, or
    - a plain SpikingJelly network, whose stem becomes the encoder (:class:`AttachedNetwork`). The stem begins at the
      first convolution, unless the options ``at`` and ``until`` say otherwise (:func:`gac_sj.attach`).

    Options that the function does not have are the encoder's.

    Args:
        name: ``FILE.py:FUNCTION``, as :func:`record_own` returns it.
        source: as :func:`record_own` returns it.
        T: number of time steps.
        num_classes: number of classes.
        in_chans: channels of the images.
        size: height and width of the images.
        encoder: name of the encoder.
        form: of the encoder.
        options: further keywords.

    Raises:
        UsageError: the function raises, or returns something that is neither.
    """
    function = loaded_before(name, source, "network")
    parameters = signature(function).parameters
    takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
    of_encoder = {option: value for option, value in options.items() if option not in parameters}
    build = partial(create_encoder, encoder, T=T, in_channels=in_chans, **_form(form), **of_encoder)
    run = dict(T=T, num_classes=num_classes, in_chans=in_chans, size=size, encoder=build)
    given = {keyword: value for keyword, value in run.items() if takes_any or keyword in parameters}
    try:
        network = function(**given, **{option: value for option, value in options.items() if option in parameters})
    except UsageError:
        raise
    except Exception as error:  # a user's code raises whatever it likes
        raise UsageError(
            f"cannot be {name!r}, which raises {type(error).__name__} ({first_sentence(error)})",
            "correct the function, or model_options",
            argument="model",
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"must name a function that returns a network, an nn.Module, got {name!r}, which returns a "
            f"{type(network).__name__}",
            argument="model",
        )
    if any(isinstance(module, Encoder) for module in network.modules()):
        return network
    return AttachedNetwork(network, T, in_chans, encoder, form, **of_encoder)


def _form(form: str | None) -> dict[str, str]:
    return {} if form is None else {"form": form}
