"""Energy of one image, by what every layer receives, in three conventions, which are always all measured.

An operation is a multiply-accumulate (MAC), or an accumulation (AC) where one factor is a spike (0 or 1). What it costs
is in a profile (:mod:`gac_sj.analysis.energy_profile`): by default 4.6 and 0.9 picojoules, at 45 nm and fp32 (Horowitz,
ISSCC 2014, the usual figures in the field). Layers of :func:`gac_sj.quantize` add integers: an AC adds a weight of 8
bits to a sum of 32 bits, for which the addition of 32 bits counts (0.1 pJ), and a MAC has a product of 8 bits in front
of it (0.2 pJ); both from the same source. With weights of 16 bits each happens twice, once for each plane of 8 bits, as
it runs.

- *paper* (GAC, arXiv 2308.06582, the formula that its authors call Eq. (11)): the first convolution once as MACs, every
  later layer as rate x MACs x T ACs, where the rate is the fraction of its input that is not zero (a later layer of the
  encoder that runs once on a static image counts once). Attention, in the encoder and in blocks, and all elementwise
  products are left out.
- *complete* (ours): everything that ran. An operation with a spike is an AC, and any other is a MAC: attention, the
  gate, layers that receive gated spikes, membrane shortcuts, pooled heads. Zeros cost nothing, and an operation that
  runs once counts once.
- *with memory* (ours), for two machines, each with what its memory needs (:mod:`gac_sj.analysis.memory_energy`): a
  *dense* one does all operations, zeros included; an *event-driven* one those of *complete*.

None counts neuron updates, additions outside of products (residual sums, means, biases), functions of single numbers
(the sigmoid), softmax, or BatchNorm (which folds into convolutions). *Paper* and *complete* do not count memory. An
operation that may multiply and is unknown (:mod:`gac_sj.analysis.operations`) is named in the result, with a warning.

The published energies (ImageNet, T = 4 and 6: MS-ResNet-18 1.49 and 2.34 mJ, MS-ResNet-34 2.20 and 3.38 mJ) are what
*paper* gives for mean firing rates of 0.157, 0.199, 0.131 and 0.149. So they must leave out the attention: its two
convolutions on 112 x 112 pixels are 1,644 million MACs, 7.6 mJ even if they run once, and T times that as published.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.analysis.batches import Batch, inputs_and_labels, no_images
from gac_sj.analysis.energy_profile import DEFAULT_PROFILE, EnergyProfile, energy_profile
from gac_sj.analysis.memory_energy import MemoryEnergy, memory_of_layer, memory_of_neuron
from gac_sj.analysis.modes import in_mode, plain_operations
from gac_sj.analysis.products import trace_products
from gac_sj.nn.neuron import is_neuron, reset_states
from gac_sj.nn.quantized import Quantized

__all__ = ["Energy", "LayerEnergy", "measure_energy"]


@dataclass(frozen=True)
class LayerEnergy:
    """The operations and the energy of a layer for one image and all steps.

    Args:
        name: name of the module; with "(gate)" its elementwise products.
        in_encoder: whether it belongs to an encoder of this package.
        in_attention: whether it belongs to an encoder's attention, the gate included, or to attention in a block.
        after_encoder: whether it is behind the encoder, or behind the first neuron of a network without one.
        receives: "spikes" or "floats".
        dense_macs: multiply-accumulates, zeros included.
        effective_macs: multiply-accumulates without the zeros, where no factor is a spike.
        effective_acs: accumulations without the zeros, where a factor is a spike.
        firing_rate: fraction of the input that is not zero, 0 to 1.
        paper_macs: operations that *paper* counts as MACs (the first layer, once).
        paper_dense: operations that *paper* multiplies by the rate.
        paper_pj: picojoules in the convention *paper*.
        complete_pj: picojoules in the convention *complete*.
        mac_pj: picojoules of one of its multiply-accumulates.
        ac_pj: picojoules of one of its accumulations.
    """

    name: str
    in_encoder: bool
    in_attention: bool
    after_encoder: bool
    receives: str
    dense_macs: float
    effective_macs: float
    effective_acs: float
    firing_rate: float
    paper_macs: float
    paper_dense: float
    paper_pj: float
    complete_pj: float
    mac_pj: float
    ac_pj: float

    @property
    def dense_pj(self) -> float:
        """Picojoules of a dense machine's arithmetic, which does not skip zeros."""
        return self.dense_macs * (self.ac_pj if self.receives == "spikes" else self.mac_pj)


@dataclass(frozen=True)
class Energy:
    """The energy of one image, the mean over the measured ones. Printing it gives a table.

    Args:
        layers: the layers, in the order in which they first ran.
        images: number of measured images.
        memory: what the memory of both machines needs, layer by layer.
        profile: what operations and memory cost.
        uncounted: operations that may multiply and are not counted, as "layer (operation)".
    """

    layers: tuple[LayerEnergy, ...]
    images: int
    memory: MemoryEnergy
    profile: EnergyProfile
    uncounted: tuple[str, ...] = ()

    def total(self, column: str, where: Callable[[LayerEnergy], bool] = lambda layer: True) -> float:
        """The sum of a column of :class:`LayerEnergy` over layers.

        Args:
            column: name of the field.
            where: which layers count; default: all.
        """
        return sum(getattr(layer, column) for layer in self.layers if where(layer))

    @property
    def paper_pj(self) -> float:
        """Picojoules in the convention *paper*."""
        return self.total("paper_pj")

    @property
    def complete_pj(self) -> float:
        """Picojoules in the convention *complete*."""
        return self.total("complete_pj")

    @property
    def dense_pj(self) -> float:
        """Picojoules of a dense machine, *with memory*."""
        return self.total("dense_pj") + self.memory.dense_pj

    @property
    def event_pj(self) -> float:
        """Picojoules of an event-driven machine, *with memory*."""
        return self.complete_pj + self.memory.event_pj

    @property
    def encoder_pj(self) -> float:
        """The encoder's part of :attr:`complete_pj`."""
        return self.total("complete_pj", lambda layer: layer.in_encoder)

    @property
    def attention_pj(self) -> float:
        """The part of :attr:`complete_pj` that attention needs: one in the encoder, or one in every block."""
        return self.total("complete_pj", lambda layer: layer.in_attention)

    @property
    def firing_rate(self) -> float:
        """The mean rate that *paper* implies: that of the later layers, weighted by their operations."""
        dense = self.total("paper_dense")
        return sum(layer.firing_rate * layer.paper_dense for layer in self.layers) / dense if dense else 0.0

    def paper_pj_at(self, rate: float) -> float:
        """Picojoules in the convention *paper* if every later layer had the same firing rate.

        Args:
            rate: the firing rate, 0 to 1.

        Raises:
            UsageError: ``rate`` is outside [0, 1].
        """
        if not 0 <= rate <= 1:
            raise UsageError(f"must be a firing rate from 0 to 1, got {rate}", argument="rate")
        return sum(layer.mac_pj * layer.paper_macs + layer.ac_pj * rate * layer.paper_dense for layer in self.layers)

    def __str__(self) -> str:
        width = max([len("layer"), *(len(layer.name) for layer in self.layers)])
        lines = [
            f"{'layer':<{width}}  receives  dense MACs  effective MACs  effective ACs  rate    paper nJ    complete nJ"
        ]
        rows = [(layer.name, layer.receives, layer) for layer in self.layers] + [("total", "", self)]
        for name, receives, row in rows:
            dense, macs, acs = (
                self.total(column) if row is self else getattr(row, column)
                for column in ("dense_macs", "effective_macs", "effective_acs")
            )
            lines.append(
                f"{name:<{width}}  {receives:<8}  {dense:>10,.0f}  {macs:>14,.0f}  {acs:>13,.0f}  {row.firing_rate:.4f}"
                f"  {row.paper_pj / 1000:>10,.2f}  {row.complete_pj / 1000:>11,.2f}"
            )
        return "\n".join(lines + ([f"not counted: {', '.join(self.uncounted)}"] if self.uncounted else []))


def measure_energy(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    T: int | None = None,
    energy: str | Path | EnergyProfile = DEFAULT_PROFILE,
) -> Energy:
    """Run a network in evaluation mode on batches and count its operations per image.

    Args:
        model: any network with SpikingJelly neurons, behind any encoder. It starts each batch from a reset state; its
            mode and device are not changed.
        loader: batches of inputs, or of pairs (inputs, labels), on the model's device. Inputs of three and five
            dimensions are sequences ``[T, N, *]`` (with labels: if there are N of them), others are images ``[N, *]``.
        T: for a network in step mode "s": the number of steps. An image is fed T times, and a sequence ``[T, N, *]``
            step by step. None: the network takes a batch in one call.
        energy: what operations and memory cost: the name of a profile, or a YAML file of your own
            (:func:`gac_sj.analysis.energy_profile.energy_profile`).

    Raises:
        UsageError: a network without neurons, or without convolutions and matrix products; a loader without images; an
            unknown or wrong profile.
    """
    profile = energy_profile(energy)
    if not any(map(is_neuron, model.modules())):
        raise UsageError(f"{type(model).__name__} has no spiking neurons", "pass a network with SpikingJelly neurons")
    images, steps = 0, 1
    products = trace_products(model)
    with plain_operations(model), in_mode(model, training=False), products as layers:
        for batch in loader:
            x, labels = inputs_and_labels(batch)
            x = x.clone() if x.is_inference() else x  # otherwise PyTorch runs operations that are not dispatched
            is_sequence = x.dim() in (3, 5) and (labels is None or x.shape[1] == len(labels))
            images += len(labels) if labels is not None else x.shape[1] if is_sequence else x.shape[0]
            steps = T or (len(x) if is_sequence else 1)
            reset_states(model)
            for step in [x] if T is None else x if is_sequence else [x] * T:
                model(step)
    reset_states(model)
    if not images:
        raise no_images()
    first = next((layer for layer in layers if not layer.elementwise), None)
    if first is None:
        unknown = f" that is known, but {', '.join(products.uncounted)}" if products.uncounted else ""
        raise UsageError(
            f"{type(model).__name__} ran no convolution and no matrix product{unknown}", "pass a whole network"
        )
    if products.uncounted:
        warnings.warn(
            f"{type(model).__name__} has operations that may multiply and are not counted: "
            f"{', '.join(products.uncounted)}; its energies lack them.",
            stacklevel=2,
        )
    measured, memory, named = [], [], dict(model.named_modules())
    frames = max((neuron.frames for neuron in products.neurons.values()), default=images)
    for layer in layers:
        bits, mac, ac = _weight(named.get(layer.name), profile)
        is_first, counts = layer is first, not layer.elementwise and not layer.attention
        dense = layer.dense / images
        runs = layer.frames / images if layer.frames else steps
        paper_macs = dense / runs if is_first else 0.0
        paper_dense = dense if counts and not is_first else 0.0
        measured.append(
            LayerEnergy(
                name=layer.title,
                in_encoder=layer.place == "encoder",
                in_attention=layer.attention,
                after_encoder=layer.place == "after",
                receives="spikes" if layer.spikes else "floats",
                dense_macs=dense,
                effective_macs=layer.macs / images,
                effective_acs=layer.acs / images,
                firing_rate=layer.rate,
                paper_macs=paper_macs,
                paper_dense=paper_dense,
                paper_pj=mac * paper_macs + ac * layer.rate * paper_dense,
                complete_pj=(mac * layer.macs + ac * layer.acs) / images,
                mac_pj=mac,
                ac_pj=ac,
            )
        )
        memory.append(memory_of_layer(layer, images, frames, bits, profile))
    memory += [memory_of_neuron(neuron, images, profile) for neuron in products.neurons.values()]
    return Energy(tuple(measured), images, MemoryEnergy(tuple(memory)), profile, tuple(products.uncounted))


def _weight(module: nn.Module | None, profile: EnergyProfile) -> tuple[int, float, float]:
    """The bits of a layer's weights, and what a multiply-accumulate and an accumulation of it cost."""
    if not isinstance(module, Quantized):
        return profile.weight, profile.mac, profile.ac
    planes = module.bits // 8
    return module.bits, planes * profile.int8_mac, planes * profile.int8_ac
