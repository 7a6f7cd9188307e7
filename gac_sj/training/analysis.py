"""The analysis of a trained network as columns of its row: energy, dynamics, speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gac_sj._utils.errors import UsageError
from gac_sj._utils.randomness import seeded
from gac_sj.analysis import firing_rates, measure_energy, non_spiking_layers
from gac_sj.analysis.dynamics import compare_durations, measure_dynamics
from gac_sj.analysis.energy_profile import EnergyProfile
from gac_sj.analysis.gates import gate_statistics
from gac_sj.models.protocols import NetworkModule, encoder_of, last_neuron
from gac_sj.nn.copying import copy_network
from gac_sj.quantize import quantize, why_not_onednn
from gac_sj.results.schema import Analysed, as_row
from gac_sj.training.build import Data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import Settings

__all__ = ["analyse"]

#: The largest number of test images that are analysed, equally many of each class.
MAX_IMAGES = 1000
#: The largest number of values in the encoder's output (1 GB in float32); of large images fewer are analysed.
MAX_VALUES = 2**28


def analyse(
    model: NetworkModule, settings: Settings, data: Data, device: torch.device, profile: EnergyProfile
) -> dict[str, Any]:
    """The columns of :class:`gac_sj.results.schema.Analysed` of a network.

    Random encoders draw from the run's seed, so that the same weights give the same columns, except speeds.

    Args:
        model: a trained network.
        settings: settings of its run.
        data: data of its run; at most 1,000 test images are used, and fewer where they are large.
        device: where to measure.
        profile: what operations and memory cost.
    """
    model = model.to(device).eval()
    encoder = encoder_of(model)
    batches = list(data.sample(MAX_IMAGES).testing(settings, model, DistributedContext(0, 1, device)))
    with torch.no_grad():
        values = sum(len(labels) for _, labels in batches) * encoder(batches[0][0][:1]).numel()
    every = -(-values // MAX_VALUES)
    batches = [(images[::every], labels[::every]) for images, labels in batches]
    with seeded(settings.seed, "analysis"):
        with firing_rates(model, by_step=True) as rates:
            energy = measure_energy(model, batches, energy=profile)
        with gate_statistics(encoder) as gates:
            dynamics = measure_dynamics(encoder, batches)
        # a neuron like that of direct coding in this network
        durations = compare_durations(encoder, batches, copy_network(last_neuron(model)))
        parts: dict[str, Callable[[Tensor], Tensor]] = {"network": model, "encoder": encoder}
        speeds = _images_per_second(parts | _with_bytes(model, batches[0][0]), batches[0][0])
    gate = next(iter(gates.values()), None)
    return as_row(
        Analysed(
            analysed_images=energy.images,
            energy_paper_pj=round(energy.paper_pj),
            energy_complete_pj=round(energy.complete_pj),
            energy_encoder_pj=round(energy.encoder_pj),
            dense_macs=round(energy.total("dense_macs")),
            effective_macs=round(energy.total("effective_macs")),
            effective_acs=round(energy.total("effective_acs")),
            energy_by_layer={layer.name: (round(layer.paper_pj), round(layer.complete_pj)) for layer in energy.layers},
            energy_profile=energy.profile.name,
            energy_dense_pj=round(energy.dense_pj),
            energy_event_pj=round(energy.event_pj),
            memory_by_layer={
                layer.name: (round(layer.dense_pj), round(layer.event_pj)) for layer in energy.memory.layers
            },
            non_spiking_layers=non_spiking_layers(energy),
            firing_rates_by_step={name: _rounded(by_step) for name, by_step in rates.items()},
            time_to_repeat=_rounded(dynamics.time_to_repeat.mean()),
            duration_not_shorter=_rounded(1.0 - durations["shorter"]),
            entropy_bits=_rounded(dynamics.entropy.mean()),
            information_by_step=_rounded(dynamics.information.mean((1, 2, 3))),
            time_to_first_spike=_rounded(dynamics.time_to_first_spike.nanmean()),
            silent=_rounded(dynamics.silent.mean()),
            change_by_step=_rounded(dynamics.change_by_step),
            readout_by_step=None if dynamics.readout_by_step is None else _rounded(dynamics.readout_by_step),
            gate_mean=None if gate is None else _rounded(gate.mean),
            gate_spread=None if gate is None else _rounded(gate.spread),
            gate_silent=None if gate is None or gate.silent is None else _rounded(gate.silent),
            inference_images_per_second=round(speeds["network"], 1),
            encoder_images_per_second=round(speeds["encoder"], 1),
            inference_int8_images_per_second=round(speeds["int8"], 1) if "int8" in speeds else None,
        )
    )


def _rounded(values: Tensor | list[float] | float, digits: int = 5) -> Any:
    if isinstance(values, Tensor):
        values = values.tolist()
    return [round(value, digits) for value in values] if isinstance(values, list) else round(values, digits)


def _with_bytes(model: NetworkModule, images: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """The network with integer weights, where it has layers for it and the machine has instructions; else nothing."""
    if why_not_onednn(model):
        return {}
    try:
        return {"int8": quantize(model, 8, images[:16])}
    except UsageError:  # no layer receives spikes
        return {}


@torch.no_grad()
def _images_per_second(
    parts: dict[str, Callable[[Tensor], Tensor]], images: Tensor, repeats: int = 5
) -> dict[str, float]:
    """Speeds by the median time of one batch, measured in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for repeat in range(repeats + 1):
        for name, run in parts.items():
            start = time.perf_counter()
            run(images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: len(images) / statistics.median(taken) for name, taken in times.items()}
