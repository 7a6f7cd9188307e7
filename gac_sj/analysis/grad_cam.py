"""Grad-CAM of a spiking network: which pixels of a layer support a class, at every time step and over all steps."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj.analysis.modes import in_mode
from gac_sj.nn.neuron import is_neuron, reset_states

__all__ = ["GradCAM", "default_layer", "grad_cam"]


@dataclass(frozen=True)
class GradCAM:
    """Maps of one layer, not negative and not scaled; the maps of one image share a unit and can be compared.

    Args:
        by_step: ``[T, N, h, w]``, the map of each step.
        over_time: ``[N, h, w]``, the map of all steps.
        classes: ``[N]``, the class that the maps of an image explain.
    """

    by_step: Tensor
    over_time: Tensor
    classes: Tensor


def grad_cam(model: nn.Module, images: Tensor, layer: str, classes: Tensor | Sequence[int] | None = None) -> GradCAM:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) of any layer, extended over time (ours).

    The score is the logit of the class, averaged over time. Let ``A[t, n, k]`` be the layer's output in channel k, and
    ``G`` the gradient of the score with respect to it, which passes through neurons by their surrogate functions and
    reaches later steps through their membrane potentials:

    - weight ``a[t, n, k]``: mean of ``G[t, n, k]`` over pixels, as in the paper, separately for every step;
    - map of a step: ``ReLU(sum_k a[t, n, k] A[t, n, k])``;
    - map over time: ``ReLU(mean_t sum_k a[t, n, k] A[t, n, k])``, so that evidence against the class at one step
      reduces evidence for it at another.

    With T = 1 both are the paper's map. The network runs in evaluation mode, from reset states; its mode, its states
    and the gradients of its parameters are restored.

    Args:
        model: images -> logits ``[N, K]`` or ``[T, N, K]``.
        images: ``[N, C, H, W]`` or a sequence, as the network takes them.
        layer: a name from ``model.named_modules()``; the output of the layer must be ``[T, N, C, h, w]``.
        classes: one class per image, 0 to K - 1; None: the predicted classes.

    Raises:
        UsageError: there is no layer of that name, or its output has another shape; a class that the network does not
            have, or not one class per image.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        near = ", ".join(difflib.get_close_matches(layer, filter(None, modules), n=5, cutoff=0.0))
        raise UsageError(
            f"must be the name of a module of the network, got {layer!r}", f"give one such as {near}", argument="layer"
        )
    outputs: list[Any] = []

    def capture(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        outputs.append(output)
        if not isinstance(output, Tensor) or output.dim() != 5:
            return None
        # a leaf, so that nothing in front of the layer is differentiated, and layers without weights have gradients
        outputs[-1] = output.detach().requires_grad_()
        return outputs[-1].clone()  # the next layer may work in place

    handle = modules[layer].register_forward_hook(capture)
    try:
        with torch.enable_grad(), in_mode(model, training=False), _restored_states(model):
            for module in filter(is_neuron, model.modules()):
                module.train()  # those of SpikingJelly 0.0.0.0.14 have the same spikes in evaluation, without gradient
            reset_states(model)
            logits = model(images)
            activation = _single_output(outputs, layer)
            logits = logits.mean(0) if logits.dim() == 3 else logits
            targets = _target_classes(classes, logits)
            score = logits.gather(1, targets[:, None]).sum()  # the maps of an image depend on its own logit alone
            (gradient,) = torch.autograd.grad(score, activation)
    finally:
        handle.remove()
    weighted = (gradient.mean((-2, -1), keepdim=True) * activation.detach()).sum(2)
    return GradCAM(weighted.relu(), weighted.mean(0).relu(), targets)


@torch.no_grad()
def default_layer(model: nn.Module, images: Tensor) -> str:
    """The name of the neuron that runs last of those that output ``[T, N, C, h, w]``.

    Args:
        model: any network; its mode and its states are restored.
        images: as the network takes them.

    Raises:
        UsageError: no neuron has such an output.
    """
    found: list[str] = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 5:
                found.append(name)

        return hook

    neurons = ((name, module) for name, module in model.named_modules() if is_neuron(module))
    handles = [module.register_forward_hook(record(name)) for name, module in neurons]
    try:
        with in_mode(model, training=False), _restored_states(model):
            reset_states(model)
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UsageError(
            f"must be named, because no neuron of {type(model).__name__} outputs [T, N, C, h, w]", argument="layer"
        )
    return found[-1]


@contextmanager
def _restored_states(model: nn.Module) -> Iterator[None]:
    """Restore the value of every SpikingJelly memory on exit."""
    stateful = [module for module in model.modules() if isinstance(module, base.MemoryModule)]
    before = [dict(module.named_memories()) for module in stateful]
    try:
        yield
    finally:
        for module, memories in zip(stateful, before):
            for name, value in memories.items():
                setattr(module, name, value)


def _single_output(outputs: list[Any], layer: str) -> Tensor:
    """The one output of a layer, with all steps in it."""
    if len(outputs) != 1:
        raise UsageError(
            f"must run once for a batch, with all steps in one output, but {layer!r} ran {len(outputs)} times",
            "name a layer that runs once, in step mode 'm'",
            argument="layer",
        )
    output = outputs[0]
    if not isinstance(output, Tensor) or output.dim() != 5:
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"must have an output [T, N, C, h, w], but that of {layer!r} is {found}",
            "name another layer, such as a neuron or a block behind the encoder",
            argument="layer",
        )
    return output


def _target_classes(classes: Tensor | Sequence[int] | None, logits: Tensor) -> Tensor:
    """One class per image, ``[N]``: the given ones, checked, or the predicted ones."""
    images, known = logits.shape
    if classes is None:
        return logits.argmax(1)
    classes = torch.as_tensor(classes, device=logits.device)
    if classes.shape != (images,):
        raise UsageError(
            f"must have one class for each of {images} images, got the shape {list(classes.shape)}", argument="classes"
        )
    if unknown := [value for value in classes.tolist() if value not in range(known)]:
        raise UsageError(f"must be from 0 to {known - 1}, got {unknown[0]}", argument="classes")
    return classes.long()
