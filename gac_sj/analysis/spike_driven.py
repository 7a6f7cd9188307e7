"""Which layers behind the encoder receive something else than spikes.

A chip that only adds weights where spikes arrive cannot run such a layer. The published network has them: its
convolutional shortcuts receive membrane potentials, the first of them gated spikes, and its head receives means over
pixels. ``spike_driven=True`` builds networks of :mod:`gac_sj.models` without them.
"""

from __future__ import annotations

from torch import Tensor, nn

from gac_sj.analysis.energy import Energy, measure_energy

__all__ = ["non_spiking_layers"]


def non_spiking_layers(network: nn.Module | Energy, images: Tensor | None = None) -> list[str]:
    """Names of the layers behind the encoder whose input on these images is not all zeros and ones.

    In a network without an encoder of this package, what stands up to its first neuron is the encoder.

    Args:
        network: with SpikingJelly neurons, or what :func:`gac_sj.analysis.measure_energy` found in it.
        images: what the network takes: ``[N, C, H, W]`` or ``[T, N, C, H, W]``, on its device.

    Raises:
        ValueError: a network without images, or see :func:`gac_sj.analysis.measure_energy`.
    """
    if not isinstance(network, Energy) and images is None:
        raise ValueError("The network needs images, as what a layer receives depends on them; give a batch.")
    energy = network if isinstance(network, Energy) else measure_energy(network, [images])
    return [layer.name for layer in energy.layers if layer.after_encoder and layer.receives == "floats"]
