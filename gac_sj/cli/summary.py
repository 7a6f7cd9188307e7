"""Say what a network costs and does: parameters, arithmetic, energy, firing rates, and which operators are fused.

gac-sj summary gac_ms_resnet18_cifar -T 6 --num-classes 100
gac-sj summary FOLDER_OF_WEIGHTS --layers

Firing rates and energy are those of generated images, or event frames for a network of two channels, not of a data set
(gac_sj.analysis.measure_energy takes one). A network without trained weights gets their BatchNorm statistics first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile

from gac_sj._utils.validation import positive
from gac_sj.analysis import Energy, firing_rates, measure_energy, summarize
from gac_sj.analysis.energy_profile import DEFAULT_PROFILE, PROFILE_HELP, energy_profile
from gac_sj.analysis.inputs import draw_inputs
from gac_sj.analysis.modes import in_mode
from gac_sj.analysis.operator_paths import operator_paths
from gac_sj.cli.networks import add_network, open_network
from gac_sj.models.protocols import encoder_of
from gac_sj.ops.dispatch import choose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("--images", type=int, default=4, metavar="N", help="number of generated inputs (default: 4)")
    parser.add_argument("--layers", action="store_true", help="operations, energy and memory of every layer")
    parser.add_argument("--energy", default=DEFAULT_PROFILE, metavar="PROFILE", help=PROFILE_HELP)


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Print the summary.

    Args:
        args: of the command line.

    Raises:
        UsageError: see :func:`gac_sj.cli.networks.open_network`; fewer than one image; an unknown or wrong profile.
        OSError: weights that cannot be read.
    """
    positive("images", args.images)
    costs = energy_profile(args.energy)
    model, trained = open_network(args)
    images, generated = draw_inputs(model, args.images)
    if not trained:
        _take_statistics(model, images)
    summary = summarize(model, images)
    with firing_rates(model) as rates:
        model(images)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:  # apart: a watched neuron is not fused
        model(images)
    launched = {event.name for event in profiler.events()}
    energy = measure_energy(model, [images], energy=costs)
    print(replace(summary, name=args.network, firing_rates=rates))
    print()
    print("\n".join(_costs(energy, encoder_of(model).T)))
    print("\n".join(_operators(model, images, launched)))
    statistics = "" if trained else "; untrained, with their BatchNorm statistics"
    print(f"firing rates and energy: of {generated}, not of a data set{statistics}")
    if args.layers:
        print(f"\n{energy}\n\n{energy.memory}")


def _take_statistics(model: nn.Module, images: Tensor) -> None:
    """Give the BatchNorms the statistics of these images in the place of their initial ones."""
    norms: list[Any] = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with in_mode(model, training=True):
        model(images)
    for norm, momentum in zip(norms, before):
        norm.momentum = momentum


def _costs(energy: Energy, T: int) -> Iterator[str]:
    in_encoder = 100 * energy.encoder_pj / energy.complete_pj
    encoder = energy.total("dense_macs", lambda layer: layer.in_encoder)
    behind = energy.total("dense_macs", lambda layer: not layer.in_encoder)
    yield (
        f"arithmetic of one input (dense): encoder {encoder / 1e6:,.1f} million multiply-accumulates in all; "
        f"behind it {behind / T / 1e6:,.1f} million a step, {T} steps"
    )
    yield (
        f"energy of one input ({energy.profile.name}, nominal): paper's convention {energy.paper_pj / 1e6:,.2f} µJ; "
        f"complete {energy.complete_pj / 1e6:,.2f} µJ, {in_encoder:.1f} % of it in the encoder"
    )
    yield (
        f"energy with memory: dense machine {energy.dense_pj / 1e6:,.2f} µJ, event-driven {energy.event_pj / 1e6:,.2f} "
        f"µJ; of which memory {energy.memory.dense_pj / 1e6:,.2f} and {energy.memory.event_pj / 1e6:,.2f} µJ"
    )


def _operators(model: nn.Module, images: Tensor, launched: set[str]) -> Iterator[str]:
    """Where neurons run, as :mod:`gac_sj.ops.dispatch` decides for the device of the images."""
    nodes = {name: module for name, module in model.named_modules() if isinstance(module, neuron.BaseNode)}
    yield f"operators on {images.device.type}:"
    if "gac_sj::gated_lif" in launched:
        encoder = encoder_of(model)
        name = next(name for name, node in nodes.items() if node is encoder.neuron)
        path = choose("gated_lif", images, nodes.pop(name).surrogate_function, steps=encoder.T)
        yield f"  gated_lif: fused, the encoder's neuron and gate in one kernel (path {path})"
    others = (module for module in model.modules() if not isinstance(module, neuron.BaseNode))  # they name pairs
    paths = operator_paths([*others, *nodes.values()], images, encoder_of(model).T)
    for path, count in paths.items():
        fused = "not fused, the definition" if path == "torch" else "fused, all steps in one kernel"
        fused += ", BatchNorm included" if path.endswith("+norm_lif") else ""
        yield f"  lif: {fused} (path {path}), {count} neurons"
    if rest := len(nodes) - paths.total():
        yield f"  {rest} neurons of other classes, as SpikingJelly runs them"
