"""Which layers behind the encoder receive anything other than spikes.

A chip that only adds weights where spikes arrive cannot run such a layer. The published network has some: its
convolutional shortcuts receive membrane potentials, except for the first one, which receives gated spikes, and its head
receives means over pixels. ``spike_driven=True`` builds the networks of :mod:`gac_sj.models` without them.
"""

from __future__ import annotations

from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj.analysis.energy import Energy, measure_energy

__all__ = ["non_spiking_layers"]


def non_spiking_layers(network: nn.Module | Energy, images: Tensor | None = None) -> list[str]:
    """Names of the layers behind the encoder whose input on these images is not all zeros and ones.

    In a network without an encoder of this package, the layers up to its first neuron count as the encoder.

    Args:
        network: a network with SpikingJelly neurons, or the result of :func:`gac_sj.analysis.measure_energy` for it.
        images: ``[N, C, H, W]`` or ``[T, N, C, H, W]``, on the network's device; not needed with a measured energy.

    Raises:
        UsageError: a network without images; or see :func:`gac_sj.analysis.measure_energy`.
    """
    if isinstance(network, Energy):
        energy = network
    elif images is None:
        raise UsageError(
            "must be a batch, because what a layer receives depends on it, got None", "pass a batch", argument="images"
        )
    else:
        energy = measure_energy(network, [images])
    return [layer.name for layer in energy.layers if layer.after_encoder and layer.receives == "floats"]
