"""A network as two: the encoder and the backbone."""

from __future__ import annotations

from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.encoders.base import Encoder
from gac_sj.nn.copying import copy_network

__all__ = ["split"]


def split(model: nn.Module) -> tuple[Encoder, nn.Module]:
    """Copy the encoder of a network, for the host, and the backbone behind it, for the chip.

    The backbone is the network with ``nn.Identity`` in the encoder's place. It takes the encoder's sequence
    ``[T, N, C, H, W]``, and ``backbone(encoder(images))`` equals ``model(images)`` exactly; the same holds for the
    ``forward_sequence`` of networks of :mod:`gac_sj.models`. Whether each of its layers receives spikes depends on the
    network: in those built with ``spike_driven=True`` each does; in others
    :func:`gac_sj.analysis.non_spiking_layers` names the exceptions.

    Example::

        encoder, backbone = split(model.eval())
        logits = backbone(encoder(images))

    Args:
        model: a network with one encoder of this package, which is the first layer to see the images.

    Returns:
        The encoder and the backbone, with their neurons reset; the network itself keeps its state.

    Raises:
        UsageError: the network has no encoder or more than one, or is itself an encoder.
    """
    found = [name for name, module in model.named_modules() if isinstance(module, Encoder)]
    if "" in found or len(found) != 1:
        given = "is itself an encoder" if "" in found else f"has {len(found)} encoders of gac_sj"
        raise UsageError(f"{type(model).__name__} {given}", "pass a network with one encoder")
    (name,) = found
    backbone = copy_network(model)
    encoder = backbone.get_submodule(name)
    assert isinstance(encoder, Encoder)
    backbone.set_submodule(name, nn.Identity().train(encoder.training))
    return encoder, backbone
