"""Inference with spikes as bytes: layers that receive spikes get integer weights."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.analysis.consumers import trace_consumers
from gac_sj.analysis.energy import measure_energy
from gac_sj.models.trunk import Trunk
from gac_sj.nn.copying import copy_network
from gac_sj.nn.folding import fold_in_place
from gac_sj.nn.memory_format import use_channels_last
from gac_sj.nn.neuron import reset_states
from gac_sj.nn.quantization import Quantization, quantize_in_place, use_bytes
from gac_sj.nn.quantized import BITS, Quantized, why_not_quantized
from gac_sj.ops import int8

__all__ = ["BACKENDS", "quantize", "why_not_onednn"]

AUTO, ONEDNN, TORCH = BACKENDS = ("auto", "onednn", "torch")


def quantize(model: nn.Module, bits: int = 8, images: Tensor | None = None, *, backend: str = AUTO) -> nn.Module:
    """A copy for inference in which every layer behind the encoder that receives spikes has integer weights.

    These convolutions and linear layers are found by what they receive on example images. Their activations, zeros and
    ones, are exact; weights are rounded, with one scale for each output channel, after BatchNorm was folded into them
    (:func:`gac_sj.fold_batch_norm`). With 8 bits a weight is one byte. With 16 bits it is two, and each layer equals
    that of floats within 1e-4 of its largest output, at twice the products. Behind a neuron single spikes may flip, as
    after any rounding.

    On x86 with VNNI or AMX, and on Arm, they run as oneDNN's products of bytes, and neurons that only such layers read
    write bytes, which max-pools keep. Elsewhere (on a GPU too, for which PyTorch has no convolution of bytes), in
    compiled code, in exports and where a gradient of the images is asked for, they run as PyTorch's float operations on
    the rounded weights. All other layers stay floats, or bfloat16 under autocast: the encoder, membrane shortcuts,
    pooled heads, and layers with hooks, parametrisations or another ``forward``. The copy is in the memory format
    channels_last, and its ``quantization`` (:class:`gac_sj.nn.quantization.Quantization`) lists the layers of both
    sorts, with reasons.

    Example::

        fast = gac_sj.quantize(model.eval(), bits=8, images=images)
        with torch.no_grad():
            logits = fast(other_images)

    Args:
        model: a network with spiking neurons, of this package or of SpikingJelly's layers, in evaluation mode.
        bits: of a weight, 8 or 16.
        images: examples ``[N, C, H, W]``, or a sequence ``[T, N, C, H, W]``, on the network's device; a few real ones.
        backend: "auto" (oneDNN where the machine has such products, otherwise floats, with a warning that says why),
            "onednn" (or an error) or "torch" (floats).

    Returns:
        The copy, without trainable parameters and with its neurons reset; the network itself keeps its state.

    Raises:
        UsageError: a network in training mode, without neurons, or quantised already; no layer receives spikes; no
            images, or images that it does not take; other bits; an unknown backend, or "onednn" where it cannot run.
    """
    if bits not in BITS or isinstance(bits, bool):
        raise UsageError(f"must be the bits of a weight, got {bits!r}", argument="bits", options=BITS)
    if backend not in BACKENDS:
        raise UsageError(f"must be a way to run, got {backend!r}", argument="backend", options=BACKENDS, given=backend)
    if not isinstance(images, Tensor):
        raise UsageError(
            f"must be a batch, because what a layer receives depends on it, got {images!r}",
            "pass a few real images, [N, C, H, W]",
            argument="images",
        )
    if any(isinstance(module, Quantized) for module in model.modules()):
        raise UsageError(f"{type(model).__name__} is quantised already", "pass the network of floats")
    training = [name or "the network itself" for name, module in model.named_modules() if module.training]
    if training:
        raise UsageError(
            f"{type(model).__name__} is in training mode ({training[0]}), and quantize returns a copy for inference",
            "call eval()",
        )
    reason = why_not_onednn(model)
    if backend == ONEDNN and reason:
        raise UsageError(f"cannot be {ONEDNN!r}, because {reason}", f"pass {AUTO!r} or {TORCH!r}", argument="backend")
    copied = copy_network(model).requires_grad_(False)
    fold_in_place(copied)
    use_channels_last(copied)
    reasons, silent = _layers(copied, images)
    neurons, pools, fed = _on_bytes(copied, images, [name for name, why in reasons.items() if why is None])
    reasons |= {name: "it received zeros only, not from a neuron" for name in silent - fed if reasons[name] is None}
    layers = [name for name, why in reasons.items() if why is None]
    if not layers:
        raise UsageError(
            f"No convolution or linear layer of {type(model).__name__} can take spikes as bytes"
            + "".join(f"; {name}: {why}" for name, why in list(reasons.items())[:3]),
            "pass a network whose layers receive the spikes of neurons",
        )
    fast = backend != TORCH
    path = ONEDNN if fast and reason is None else TORCH
    quantize_in_place(copied, bits, layers, fast)
    if path == ONEDNN:
        use_bytes(copied, neurons, pools)
    copied.quantization = Quantization(  # type: ignore[assignment]
        bits,
        tuple(layers),
        tuple(neurons),
        tuple(pools),
        {name: why for name, why in reasons.items() if why is not None},
        path,
        reason if fast else None,
    )
    if backend == AUTO and reason:
        warnings.warn(f"The quantised {type(model).__name__} runs in floats: {reason}.", stacklevel=2)
    return copied


def why_not_onednn(model: nn.Module) -> str | None:
    """Why the products of a network cannot run as oneDNN's products of bytes; None if they can.

    Args:
        model: any network.
    """
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device.type != "cpu":
        return f"its products of bytes run on CPUs, and the network is on {parameter.device}"
    if parameter is not None and parameter.dtype == torch.float64:
        return "its products of bytes have float32 results, and the network is in float64"
    return int8.why_not()


def _layers(model: nn.Module, images: Tensor) -> tuple[dict[str, str | None], set[str]]:
    """Names of the layers behind the encoder that multiply, why they stay floats or None, and those without input."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that are not counted
            energy = measure_energy(model, [images])
    except (RuntimeError, IndexError) as error:
        raise UsageError(
            f"must be a batch that {type(model).__name__} takes, got {images.dtype} of shape {list(images.shape)} on "
            f"{images.device} ({first_sentence(error)})",
            argument="images",
        ) from error
    named = dict(model.named_modules())
    behind = [layer for layer in energy.layers if layer.after_encoder and layer.name in named]
    floats = {layer.name for layer in behind if layer.receives == "floats"}
    reasons = {
        layer.name: "it receives other numbers than spikes"
        if layer.name in floats
        else why_not_quantized(named[layer.name])
        for layer in behind
    }
    return reasons, {layer.name for layer in behind if layer.firing_rate == 0}


def _on_bytes(model: nn.Module, images: Tensor, layers: list[str]) -> tuple[list[str], list[str], set[str]]:
    """Names of the neurons that only these layers read, of the max-pools between, and of the layers behind neurons."""
    readers = {name: model.get_submodule(name) for name in layers}
    reset_states(model)
    with torch.inference_mode(False), torch.no_grad():
        images = images.clone() if images.is_inference() else images
        with trace_consumers(model, readers.values()) as traced:
            output = model(images)
        neurons, pools = traced.found(output)
    reset_states(model)
    if isinstance(model, Trunk):  # forward_features returns the last neuron's spikes
        neurons = [name for name in neurons if model.get_submodule(name) is not model.lif]
    return neurons, pools, {name for name, module in readers.items() if traced.is_fed(module)}
