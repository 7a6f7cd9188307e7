"""The definition of BatchNorm with the multi-step LIF neuron behind it, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gac_sj.ops.lif import reference
from gac_sj.ops.neuron import LIFDynamics

__all__ = ["norm_lif"]


def norm_lif(
    x_seq: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None,
    eps: float,
    dynamics: LIFDynamics,
    surrogate: Callable[[Tensor], Tensor],
    v: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The LIF neuron of :func:`gac_sj.ops.lif.reference.lif` behind BatchNorm over steps, images and pixels.

    For float16 and bfloat16 input, normalised values are float32, as potentials are.

    Args:
        x_seq: input ``[T, N, C, H, W]``.
        weight: scale of each channel ``[C]``; None: 1.
        bias: shift of each channel ``[C]``; None: 0.
        statistics: mean and variance of each channel ``[C]``, constants; None: those of ``x_seq``, with gradients.
        eps: added to variances.
        dynamics: of the neuron.
        surrogate: its surrogate function.
        v: membrane potential before the first step, ``[N, C, H, W]``; None: the resting potential.

    Returns:
        Spikes ``[T, N, C, H, W]`` in the dtype of ``x_seq``, the last potential in the dtype of the state, and the mean
        and the biased variance of each channel.
    """
    frames = x_seq.flatten(0, 1).to(reference.state_type(x_seq.dtype))
    mean, var = statistics or (None, None)
    normalised = F.batch_norm(frames, mean, var, weight, bias, training=statistics is None, momentum=0.0, eps=eps)
    spikes, v, _ = reference.lif(normalised.unflatten(0, x_seq.shape[:2]), dynamics, surrogate, v)
    if statistics is None:
        var, mean = torch.var_mean(frames.detach().double(), (0, 2, 3), correction=0)
        statistics = mean, var
    return spikes.to(x_seq.dtype), v, statistics
