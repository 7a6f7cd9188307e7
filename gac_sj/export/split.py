"""Encoder and backbone as two networks."""

from __future__ import annotations

import copy

from torch import nn

from gac_sj.encoders.base import Encoder

__all__ = ["split"]


def split(model: nn.Module) -> tuple[Encoder, nn.Module]:
    """Copies of a network's encoder, for the host, and of the backbone behind it, for the chip.

    The backbone is the network with ``nn.Identity`` in the encoder's place: it takes the encoder's sequence
    ``[T, N, C, H, W]``, and ``backbone(encoder(images))`` is ``model(images)``, exactly; so is a network of
    :mod:`gac_sj.models`' ``forward_sequence``. Whether each of its layers receives spikes depends on the network: those
    built with ``spike_driven=True`` do, and of others :func:`gac_sj.analysis.non_spiking_layers` names the exceptions.

    Example::

        encoder, backbone = split(model.eval())
        logits = backbone(encoder(images))

    Args:
        model: a network with one encoder of this package, which is the first to see the images.

    Raises:
        ValueError: no encoder, or more than one; the model is an encoder.
    """
    found = [name for name, module in model.named_modules() if isinstance(module, Encoder)]
    if "" in found or len(found) != 1:
        given = "is an encoder itself" if "" in found else f"has {len(found)} encoders of gac_sj"
        raise ValueError(f"{type(model).__name__} {given}; split needs a network with one encoder; give the network.")
    (name,) = found
    backbone = copy.deepcopy(model)
    encoder = backbone.get_submodule(name)
    backbone.set_submodule(name, nn.Identity().train(encoder.training))
    return encoder, backbone
