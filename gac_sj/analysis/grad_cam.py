"""Grad-CAM of a spiking network: which pixels of a layer speak for a class, at every time step and over all."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from spikingjelly.activation_based import base, neuron
from torch import Tensor, nn

from gac_sj.analysis.modes import in_mode
from gac_sj.nn.neuron import reset_states

__all__ = ["GradCAM", "grad_cam"]


@dataclass(frozen=True)
class GradCAM:
    """Maps of one layer, at least 0, not scaled; all of an image have one unit and may be compared.

    Args:
        by_step: ``[T, N, h, w]``, the map of each step.
        over_time: ``[N, h, w]``, the map of all steps.
        classes: ``[N]``, the class that the maps of an image are about.
    """

    by_step: Tensor
    over_time: Tensor
    classes: Tensor


def grad_cam(model: nn.Module, images: Tensor, layer: str, classes: Tensor | Sequence[int] | None = None) -> GradCAM:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) of any layer, extended over time (ours).

    The score is the class's logit, averaged over time. With the layer's output ``A[t, n, k]`` of channel k and the
    gradient ``G`` of the score with respect to it, which passes the neurons by their surrogates and reaches later
    steps by their membrane potentials:

    - weight ``a[t, n, k]``: mean of ``G[t, n, k]`` over pixels, as in the paper, for every step by itself;
    - map of a step: ``ReLU(sum_k a[t, n, k] A[t, n, k])``;
    - map over time: ``ReLU(mean_t sum_k a[t, n, k] A[t, n, k])``, so what speaks against the class at one step counts
      against what speaks for it at another.

    With T = 1 both are the paper's. The network runs in evaluation mode, from reset states; its mode, its states and
    the gradients of its parameters are left as they were.

    Args:
        model: images -> logits ``[N, K]`` or ``[T, N, K]``.
        images: ``[N, C, H, W]`` or a sequence, as the network takes them.
        layer: a name of ``model.named_modules()``, whose output is ``[T, N, C, h, w]``.
        classes: one for each image, 0 to K - 1; None: those that the network predicts.

    Raises:
        ValueError: no layer of that name, another output, a class that the network does not have, or not one for each
            image.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        near = ", ".join(difflib.get_close_matches(layer, filter(None, modules), n=5, cutoff=0.0))
        raise ValueError(f"The network has no layer {layer!r}; give a name of its modules, such as {near}.")
    outputs: list[Tensor] = []

    def capture(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        outputs.append(output)
        if not isinstance(output, Tensor) or output.dim() != 5:
            return None
        # a leaf, so that nothing in front of the layer is differentiated, and layers without weights have gradients
        outputs[-1] = output.detach().requires_grad_()
        return outputs[-1].clone()  # a layer behind may work in place

    handle = modules[layer].register_forward_hook(capture)
    try:
        with torch.enable_grad(), in_mode(model, training=False), _states_kept(model):
            for module in model.modules():
                if isinstance(module, neuron.BaseNode):
                    module.train()  # SpikingJelly 0.0.0.0.14's have no gradient in evaluation, and the same spikes
            reset_states(model)
            logits = model(images)
            activation = _only(outputs, layer)
            logits = logits.mean(0) if logits.dim() == 3 else logits
            classes = _checked(classes, logits)
            score = logits.gather(1, classes[:, None]).sum()  # an image's maps depend on its own logit alone
            (gradient,) = torch.autograd.grad(score, activation)
    finally:
        handle.remove()
    weighted = (gradient.mean((-2, -1), keepdim=True) * activation.detach()).sum(2)
    return GradCAM(weighted.relu(), weighted.mean(0).relu(), classes)


@contextmanager
def _states_kept(model: nn.Module) -> Iterator[None]:
    """After the block every SpikingJelly memory has the value that it had before."""
    stateful = [module for module in model.modules() if isinstance(module, base.MemoryModule)]
    before = [dict(module.named_memories()) for module in stateful]
    try:
        yield
    finally:
        for module, memories in zip(stateful, before):
            for name, value in memories.items():
                setattr(module, name, value)


def _only(outputs: list, layer: str) -> Tensor:
    """The layer's one output."""
    if len(outputs) != 1:
        raise ValueError(
            f"The layer {layer!r} ran {len(outputs)} times for one batch, and Grad-CAM needs one output of all steps; "
            "name a layer that runs once, in step mode 'm'."
        )
    output = outputs[0]
    if not isinstance(output, Tensor) or output.dim() != 5:
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"The layer {layer!r} puts out {found}, and Grad-CAM needs [T, N, C, h, w]; name another layer, such as a "
            "neuron or a block behind the encoder."
        )
    return output


def _checked(classes: Tensor | Sequence[int] | None, logits: Tensor) -> Tensor:
    """``[N]``, one class for each image; predicted ones where none are given."""
    count, known = logits.shape
    if classes is None:
        return logits.argmax(1)
    classes = torch.as_tensor(classes, device=logits.device)
    if classes.shape != (count,):
        raise ValueError(f"classes has shape {list(classes.shape)} for {count} images; give one class for each.")
    if wrong := [value for value in classes.tolist() if value not in range(known)]:
        raise ValueError(f"classes has {wrong[0]}, and the network knows 0 to {known - 1}; choose one of these.")
    return classes.long()
