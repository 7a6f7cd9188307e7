"""What the memory of two machines needs for one image: the part that *paper* and *complete* leave out.

Both machines keep every kind of data of a layer in the smallest level of memory that holds it (the weights of the
layer; its inputs, outputs and potentials of one image and step), and a bit that is read or written costs what that
level costs (:mod:`gac_sj.analysis.energy_profile`). Images come one at a time, and steps one after the other. The
definitions are ours; that counts of operations mislead without memory is what the critics of spike counts say (Davidson
and Furber, Frontiers in Neuroscience 2021; Dampfhoffer et al., IEEE TETCI 2023).

The *dense* machine does the same whatever fires. At each step, or once an image where a layer runs once:

- a layer reads each of its weights once, reads its inputs, and writes its outputs. A spike is one bit of a map;
- a neuron reads its input and its membrane potential, and writes the potential and its spikes.

The *event-driven* machine moves nothing for what is zero:

- a neuron writes an event for each spike, which is an address. Any other number that is not zero is an event of an
  address and the number (a graded spike), which makes layers that receive them expensive here;
- a layer reads each event once and, for each output that it reaches, reads the weight, and reads and writes the sum
  that becomes the membrane potential of the neuron behind. A neuron without input costs nothing, because its leak is
  made up for when its next event comes. The elementwise products of a gate read both inputs as events, and write
  events.

So the memory of an event-driven machine is proportional to the number of spikes, and that of a dense one does not
depend on it. They are two ends: the dense machine uses whatever it reads for all that needs it, the other for one event
only. Numbers have the bits that the profile says, weights of :func:`gac_sj.quantize` their own. Neither counts
biases, normalisation (which folds into weights), residual sums, pooling, further states of a neuron, or the network
that carries events. SpikingJelly 2.0.0 counts the same bytes where its definitions are the same:
``MemoryAccessCounter`` those of the dense machine's layers for one image and step, with equal bits for all numbers, and
``NeuromorphicMemoryAccessCounter`` the weights that spikes read, and a dense machine's potentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gac_sj.analysis.energy_profile import EnergyProfile, Level
from gac_sj.analysis.products import LayerProducts, NeuronCalls

__all__ = ["KINDS", "LayerMemory", "MemoryEnergy", "memory_of_layer", "memory_of_neuron"]

#: What a machine keeps in memory.
KINDS = ("weights", "inputs", "outputs", "potentials")


@dataclass(frozen=True)
class LayerMemory:
    """Bits that a layer or a neuron moves for one image and all steps, by the kinds of data :data:`KINDS`.

    Args:
        name: name of the module; with "(gate)" its elementwise products.
        levels: where each kind is kept.
        dense_bits: of the dense machine.
        event_bits: of the event-driven machine.
    """

    name: str
    levels: Mapping[str, Level]
    dense_bits: Mapping[str, float]
    event_bits: Mapping[str, float]

    @property
    def dense_pj(self) -> float:
        """Picojoules of the dense machine's memory."""
        return self._cost(self.dense_bits)

    @property
    def event_pj(self) -> float:
        """Picojoules of the event-driven machine's memory."""
        return self._cost(self.event_bits)

    def _cost(self, bits: Mapping[str, float]) -> float:
        return sum(moved * self.levels[kind].pj_per_bit for kind, moved in bits.items())


@dataclass(frozen=True)
class MemoryEnergy:
    """The memory of one image, the mean over the measured ones. Printing it gives a table.

    Args:
        layers: layers in the order in which they first ran, then neurons.
    """

    layers: tuple[LayerMemory, ...]

    @property
    def dense_pj(self) -> float:
        """Picojoules of the dense machine's memory."""
        return sum(layer.dense_pj for layer in self.layers)

    @property
    def event_pj(self) -> float:
        """Picojoules of the event-driven machine's memory."""
        return sum(layer.event_pj for layer in self.layers)

    def __str__(self) -> str:
        width = max([len("memory"), *(len(layer.name) for layer in self.layers)])
        levels = [layer.levels["weights"].name if layer.dense_bits["weights"] else "" for layer in self.layers]
        place = max([len("weights in"), *map(len, levels)])
        lines = [f"{'memory':<{width}}  {'weights in':<{place}}  dense kbit  events kbit    dense nJ   events nJ"]
        for layer, level in zip(self.layers, levels):
            kbits = [sum(bits.values()) / 1000 for bits in (layer.dense_bits, layer.event_bits)]
            lines.append(
                f"{layer.name:<{width}}  {level:<{place}}  {kbits[0]:>10,.1f}  {kbits[1]:>11,.1f}"
                f"  {layer.dense_pj / 1000:>10,.2f}  {layer.event_pj / 1000:>10,.2f}"
            )
        total = f"{self.dense_pj / 1000:>10,.2f}  {self.event_pj / 1000:>10,.2f}"
        return "\n".join([*lines, f"{'total':<{width}}  {'':<{place}}  {'':>10}  {'':>11}  {total}"])


def memory_of_layer(layer: LayerProducts, images: int, frames: int, weight: int, profile: EnergyProfile) -> LayerMemory:
    """What the products of a layer move.

    Args:
        layer: its products over all images.
        images: number of images.
        frames: images times steps of the network; a layer that ran once an image counts once.
        weight: bits of a weight.
        profile: of the machines.
    """
    found = layer.operands
    read = {key: min(runs, frames) for key, runs in found.weights.items()}  # a matrix applies its weights to many rows
    dense = {
        "weights": weight * sum(elements * runs for (_, elements), runs in read.items()),
        "inputs": profile.spike * found.spikes + profile.activation * found.floats,
        "outputs": profile.activation * found.outputs,
    }
    pairs, number = layer.acs + layer.macs, profile.address + profile.activation
    event = {
        "weights": weight * pairs if read else 0,
        "inputs": profile.address * found.active_spikes + number * found.active_floats,
    }
    event |= {"outputs": number * pairs} if layer.elementwise else {"potentials": 2 * profile.potential * pairs}
    return _memory(
        layer.title,
        images,
        layer.frames or max(read.values(), default=frames),
        dense | {"potentials": profile.potential * found.outputs},
        dense,
        event,
        profile,
    )


def memory_of_neuron(neuron: NeuronCalls, images: int, profile: EnergyProfile) -> LayerMemory:
    """What a neuron moves.

    Args:
        neuron: what it did over all images.
        images: number of images.
        profile: of the machines.
    """
    kept = {
        "inputs": profile.activation * neuron.elements,
        "outputs": profile.spike * neuron.elements,
        "potentials": profile.potential * neuron.elements,
    }
    return _memory(
        neuron.name or "(network)",
        images,
        neuron.frames,
        kept,
        kept | {"potentials": 2 * kept["potentials"]},
        {"outputs": profile.address * neuron.active},
        profile,
    )


def _memory(
    name: str,
    images: int,
    frames: int,
    kept: Mapping[str, float],
    dense: Mapping[str, float],
    event: Mapping[str, float],
    profile: EnergyProfile,
) -> LayerMemory:
    """Totals over all images as those of one; ``kept`` is what has to fit into memory in all frames together."""

    def of_an_image(bits: Mapping[str, float]) -> dict[str, float]:
        return {kind: bits.get(kind, 0) / images for kind in KINDS}

    levels = {kind: profile.level(kept.get(kind, 0) / frames) for kind in KINDS}
    return LayerMemory(name, levels, of_an_image(dense), of_an_image(event))
