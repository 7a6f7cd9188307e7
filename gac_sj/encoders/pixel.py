"""SpikingJelly's Poisson, latency and weighted-phase encoders as encoders of this package."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import encoding
from torch import Tensor

from gac_sj._utils.errors import UsageError
from gac_sj.encoders.base import Encoder
from gac_sj.encoders.registry import register_encoder

__all__ = ["LatencyCoding", "PoissonCoding", "WeightedPhaseCoding"]


@torch.library.custom_op("gac_sj::encode_pixels", mutates_args=())
def _encode_pixels(x_seq: Tensor, scheme: str) -> Tensor:
    """Spikes of ``x_seq`` ``[T, N, C, H, W]`` from one of SpikingJelly's encoders, built anew at every call.

    It is an operator because the encoders depend on values (range, one-hot), which torch.compile cannot trace.
    """
    if not ((x_seq >= 0) & (x_seq <= 1)).all():
        low, high = x_seq.min().item(), x_seq.max().item()
        raise UsageError(
            f"The {scheme} encoder needs finite pixels in [0, 1], got {low:.3g} to {high:.3g}",
            "leave out the normalisation (mean 0, std 1), as the model's pretrained_cfg says",
        )
    x_seq = x_seq.contiguous()  # the order in which Poisson draws must not depend on the memory format
    T = x_seq.shape[0]
    if scheme == "poisson":
        return encoding.PoissonEncoder(step_mode="m")(x_seq)
    if not (x_seq == x_seq[:1]).all():
        raise UsageError(
            f"The {scheme} encoder spreads one image over the steps, got a sequence that changes over time",
            "feed images [N, C, H, W], or use the gac, direct or poisson encoder",
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
    """Spikes of the pixels, ``[T, N, in_channels, H, W]``, through the stem at every step, without a pixel gradient."""

    #: whether pixels get a straight-through gradient (arXiv 1308.3432): that of each step's spike with respect to that
    #: step's pixel is 1; the spikes stay the same
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
        T: see :class:`Encoder`.
        in_channels: see :class:`Encoder`.
        channels: see :class:`Encoder`.
        stem: see :class:`Encoder`; ``nn.Identity()`` returns the bare spikes.
        step_mode: see :class:`Encoder`.

    Raises:
        UsageError: on the call, for pixels outside [0, 1].
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
        T: see :class:`Encoder`.
        in_channels: see :class:`Encoder`.
        channels: see :class:`Encoder`.
        stem: see :class:`Encoder`; ``nn.Identity()`` returns the bare spikes.
        step_mode: see :class:`Encoder`.

    Raises:
        UsageError: on the call, for pixels outside [0, 1] or a sequence that changes.
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
        T: see :class:`Encoder`.
        in_channels: see :class:`Encoder`.
        channels: see :class:`Encoder`.
        stem: see :class:`Encoder`; ``nn.Identity()`` returns the bare spikes.
        step_mode: see :class:`Encoder`.

    Raises:
        UsageError: on the call, for pixels outside [0, 1] or a sequence that changes.
    """

    scheme = "weighted_phase"
