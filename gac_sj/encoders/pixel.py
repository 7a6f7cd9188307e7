"""SpikingJelly's Poisson, latency and weighted-phase encoders as encoders of this package."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import encoding
from torch import Tensor

from gac_sj.encoders.base import Encoder
from gac_sj.encoders.registry import register_encoder

__all__ = ["LatencyCoding", "PoissonCoding", "WeightedPhaseCoding"]


@torch.library.custom_op("gac_sj::encode_pixels", mutates_args=())
def _encode_pixels(x_seq: Tensor, scheme: str) -> Tensor:
    """Spikes of ``x_seq`` ``[T, N, C, H, W]`` by one of SpikingJelly's encoders, a new one at every call.

    An operator, because the encoders look at the values (range, one-hot), which torch.compile cannot trace.
    """
    if not ((x_seq >= 0) & (x_seq <= 1)).all():
        low, high = x_seq.min().item(), x_seq.max().item()
        raise ValueError(
            f"The {scheme} encoder got pixels from {low:.3g} to {high:.3g}; it needs finite pixels in [0, 1]; leave "
            "out the normalisation (mean 0, std 1), as the model's pretrained_cfg says."
        )
    x_seq = x_seq.contiguous()  # the order in which Poisson draws must not depend on the memory format
    T = x_seq.shape[0]
    if scheme == "poisson":
        return encoding.PoissonEncoder(step_mode="m")(x_seq)
    if not (x_seq == x_seq[:1]).all():
        raise ValueError(
            f"The {scheme} encoder got a sequence that changes over time; it spreads one image over the steps; "
            "feed images [N, C, H, W], or use the gac, direct or poisson encoder."
        )
    if scheme == "latency":
        return encoding.LatencyEncoder(T, step_mode="m")(x_seq).contiguous()
    # float16 cannot hold 1 - 2^-K for a large K
    scaled = x_seq.to(torch.promote_types(x_seq.dtype, torch.float32)) * (1.0 - 2.0**-T)
    return encoding.WeightedPhaseEncoder(T, step_mode="m")(scaled).to(x_seq.dtype).contiguous()


@_encode_pixels.register_fake
def _(x_seq: Tensor, scheme: str) -> Tensor:
    return torch.empty_like(x_seq, memory_format=torch.contiguous_format)


class _PixelCoding(Encoder):
    """Spikes of the pixels, ``[T, N, in_channels, H, W]``, through the stem at every step; pixels get no gradient."""

    needs_unit_range = True
    #: whether pixels get a gradient after all: each step's spike has the gradient 1 with regard to that step's pixel
    #: (straight-through estimate, arXiv 1308.3432); the spikes stay the same
    straight_through = False
    scheme: str

    def encode(self, x: Tensor) -> Tensor:
        x_seq = self.over_time(x)
        spikes = _encode_pixels(x_seq.detach(), self.scheme)
        if self.straight_through:
            spikes = spikes + (x_seq - x_seq.detach())  # adds 0, exactly
        return self.features(spikes)


@register_encoder(
    "poisson",
    needs_unit_range=True,
    help="SpikingJelly's Poisson spikes of pixels in [0, 1], through the stem at every step",
)
class PoissonCoding(_PixelCoding):
    """SpikingJelly's ``PoissonEncoder`` and the stem: a pixel p in [0, 1] spikes with probability p at every step.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`; ``stem=nn.Identity()`` gives bare spikes.

    Raises:
        ValueError: on the call, for pixels outside [0, 1].
    """

    scheme = "poisson"


@register_encoder(
    "latency",
    needs_unit_range=True,
    help="SpikingJelly's latency spikes of pixels in [0, 1], through the stem at every step",
)
class LatencyCoding(_PixelCoding):
    """SpikingJelly's ``LatencyEncoder`` (linear) and the stem: a pixel p spikes once, at step round((T - 1) (1 - p)).

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`; ``stem=nn.Identity()`` gives bare spikes.

    Raises:
        ValueError: on the call, for pixels outside [0, 1] or a sequence that changes.
    """

    scheme = "latency"


@register_encoder(
    "weighted_phase",
    needs_unit_range=True,
    help="SpikingJelly's weighted-phase spikes of pixels in [0, 1], through the stem at every step",
)
class WeightedPhaseCoding(_PixelCoding):
    """SpikingJelly's ``WeightedPhaseEncoder`` and the stem: the T bits of a pixel, the highest first.

    K = T phases. SpikingJelly takes pixels up to 1 - 2^-K, so pixels in [0, 1] are scaled by 1 - 2^-K here.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`; ``stem=nn.Identity()`` gives bare spikes.

    Raises:
        ValueError: on the call, for pixels outside [0, 1] or a sequence that changes.
    """

    scheme = "weighted_phase"
