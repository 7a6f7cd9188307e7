"""Encoders: images (or a sequence) in, a spatio-temporal sequence out.

Every encoder keeps one contract. In step mode "m" it maps images ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]`` to
``[T, N, channels, H, W]`` (H and W as the stem leaves them), and each call is independent of the last one. In step mode
"s" the first call encodes, each call returns the next step, and after T calls it starts again; another image before
``reset()`` is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import base, encoding
from torch import Tensor, nn

from gac_sj.attention import GatedAttentionUnit
from gac_sj.neuron import LIFNode, MemoryDroppedOnCopy, preset, reset_states
from gac_sj.stem import conv_bn, forward_once, forward_sequence, repeats_itself, use_multi_step

__all__ = [
    "DEFAULT_RECIPE",
    "ENCODERS",
    "RECIPES",
    "DirectCoding",
    "Encoder",
    "GatedAttentionCoding",
    "LatencyCoding",
    "PoissonCoding",
    "Recipe",
    "WeightedPhaseCoding",
    "create_encoder",
]


class Encoder(MemoryDroppedOnCopy, base.MemoryModule):
    """Base of all encoders: the contract of this module. A subclass implements :meth:`encode`.

    Args:
        T: number of time steps, at least 1.
        in_channels: channels of the images.
        channels: channels of the sequence; must be what ``stem`` puts out.
        stem: layers from ``in_channels`` to ``channels``; None builds convolution 3x3 and BatchNorm.
        step_mode: "m" or "s".

    Raises:
        ValueError: T is not a positive whole number.
    """

    #: whether pixels must lie in [0, 1]
    needs_unit_range = False

    def __init__(
        self,
        T: int = 4,
        in_channels: int = 3,
        channels: int = 64,
        *,
        stem: nn.Module | None = None,
        step_mode: str = "m",
    ):
        super().__init__()
        if not isinstance(T, int) or T < 1:
            raise ValueError(f"T is {T!r}; an encoder needs a whole number of time steps, at least 1.")
        self.T = T
        self.in_channels = in_channels
        self.channels = channels
        self.stem = conv_bn(in_channels, channels) if stem is None else stem
        self.register_memory("sequence", None)
        self.register_memory("image", None)
        self.register_memory("t", 0)
        self.step_mode = step_mode

    def encode(self, x: Tensor) -> Tensor:
        """The sequence ``[T, N, channels, H, W]`` of checked images or of a checked sequence."""
        raise NotImplementedError(f"{self._get_name()} must implement encode.")

    def features(self, x: Tensor) -> Tensor:
        """The stem's output: ``[N, C, H, W]`` where an image can be encoded once, else ``[T, N, C, H, W]``."""
        if x.dim() == 4:
            if repeats_itself(self.stem):
                return forward_once(self.stem, x, self.T)
            x = x.expand(self.T, *x.shape)
        return forward_sequence(self.stem, x)

    def over_time(self, features: Tensor) -> Tensor:
        """``[T, N, C, H, W]``: features of a static image stand for every step."""
        return features if features.dim() == 5 else features.expand(self.T, *features.shape)

    def multi_step_forward(self, x: Tensor) -> Tensor:
        self._check(x)
        for child in self.children():
            use_multi_step(child)
            reset_states(child)
        return self.encode(x)

    def single_step_forward(self, x: Tensor) -> Tensor:
        if self.sequence is None:
            # contiguous: SpikingJelly's detach_net cannot detach an expanded view in place
            self.sequence = self.multi_step_forward(x).contiguous()
            self.image = x.detach().clone()
        elif x.shape != self.image.shape or not torch.equal(x, self.image):
            raise ValueError(
                f"{self._get_name()} in step mode 's' got another image after {self.t} of {self.T} steps; it still "
                "returns the first one's steps; call spikingjelly.activation_based.functional.reset_net between images."
            )
        step = self.sequence[self.t]
        self.t = (self.t + 1) % self.T
        return step

    def _check(self, x: Tensor) -> None:
        given = f"{self._get_name()} got a tensor of shape {list(x.shape)}"
        needed = f"images [N, {self.in_channels}, H, W] or a sequence [{self.T}, N, {self.in_channels}, H, W]"
        if x.dim() not in (4, 5):
            raise ValueError(f"{given}; it needs {needed}; add or remove dimensions.")
        if x.shape[-3] != self.in_channels:
            raise ValueError(
                f"{given}; it needs {needed}; build it with in_channels={x.shape[-3]} or feed other images."
            )
        if x.dim() == 5 and x.shape[0] != self.T:
            raise ValueError(f"{given}; it needs {needed}; build it with T={x.shape[0]} or feed {self.T} steps.")

    def extra_repr(self) -> str:
        return f"T={self.T}, step_mode={self.step_mode}"


@dataclass(frozen=True)
class Recipe:
    """A form of Gated Attention Coding.

    Args:
        gain: the largest value of the gate.
        threshold_scale: factor on the threshold of the encoder's neuron.
        tau: membrane time constant of the encoder's neuron in steps; None keeps the preset's.
        output: what the gate weighs: "spikes" of the neuron, or the stem's "current" (then there is no neuron).
        strict: whether the neuron fires above the threshold only, as the published code, not at it too.
    """

    gain: float
    threshold_scale: float = 1.0
    output: str = "spikes"
    strict: bool = False
    tau: float | None = None

    def neuron(self, name: str) -> LIFNode:
        """The encoder's neuron: a preset as this recipe changes it."""
        node = preset(name, self.strict, **({} if self.tau is None else {"tau": self.tau}))
        node.v_threshold *= self.threshold_scale
        return node


#: Forms of the encoder: the published one, and ours. README says what each measures.
RECIPES: dict[str, Recipe] = {
    "reference": Recipe(gain=1.0, strict=True),
    "unit_gate": Recipe(gain=2.0),
    "low_threshold": Recipe(gain=2.0, threshold_scale=0.5),
    "slow_leak": Recipe(gain=2.0, tau=10.0),
    "current": Recipe(gain=2.0, output="current"),
}
DEFAULT_RECIPE = "unit_gate"


class GatedAttentionCoding(Encoder):
    """Gated Attention Coding: spikes of a convolutional stem, weighed at every step by a gate in (0, gain).

    ``z = stem(x)``; output ``gate(z) * LIF(z)`` with ``gate = gain * sigmoid(TA(z) * SCA(z))``. Source: GAC (arXiv
    2308.06582), main figure and code; gain, changed neurons and the gate on the current are ours. On a static image
    the stem and the spatial-channel attention run once; a sequence, or a stem that is random or stateful, takes the
    general path. Both agree, running statistics included.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`.
        neuron: the name of a preset ("cifar", "imagenet"), which the recipe may change, or a multi-step neuron module,
            which is used as it is.
        recipe: a name in :data:`RECIPES`; "reference" is the published encoder.
        gain, output: override the recipe's.
        kernel_size, depth: of the spatial-channel branch.
        temporal_reduction, channel_reduction: reduction ratios of the two branches.

    Raises:
        ValueError: an unknown recipe or output, a neuron where the gate is on the current, a number out of its range.
    """

    def __init__(
        self,
        T: int = 4,
        in_channels: int = 3,
        channels: int = 64,
        *,
        stem: nn.Module | None = None,
        neuron: nn.Module | str = "cifar",
        recipe: str = DEFAULT_RECIPE,
        gain: float | None = None,
        output: str | None = None,
        kernel_size: int = 4,
        depth: int = 2,
        temporal_reduction: int = 2,
        channel_reduction: int = 1,
        step_mode: str = "m",
    ):
        super().__init__(T, in_channels, channels, stem=stem, step_mode=step_mode)
        if recipe not in RECIPES:
            raise ValueError(f"The recipe {recipe!r} does not exist; choose one of {', '.join(RECIPES)}.")
        form = RECIPES[recipe]
        gain = form.gain if gain is None else gain
        output = form.output if output is None else output
        if output not in ("spikes", "current"):
            raise ValueError(f"output is {output!r}; the gate weighs 'spikes' or the 'current'; choose one of the two.")
        if output == "current" and isinstance(neuron, nn.Module):
            raise ValueError(
                "output='current' has no neuron, and one was given; leave neuron= out or use output='spikes'."
            )
        self.recipe = recipe
        self.gau = GatedAttentionUnit(T, channels, kernel_size, temporal_reduction, channel_reduction, depth, gain)
        self.neuron = None
        if output == "spikes":
            self.neuron = neuron if isinstance(neuron, nn.Module) else form.neuron(neuron)

    @property
    def is_reference(self) -> bool:
        """Whether this is the published form: gate without gain, on spikes, threshold of the recipe."""
        return self.recipe == "reference" and self.gau.gain == 1.0 and self.neuron is not None

    def encode(self, x: Tensor) -> Tensor:
        z = self.features(x)
        gate = self.gau(z)  # [T, N, C, H, W]
        return gate * (z if self.neuron is None else self.neuron(self.over_time(z)))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, recipe={self.recipe!r}, output={'current' if self.neuron is None else 'spikes'!r}"
        )


class DirectCoding(Encoder):
    """Direct coding: the stem's current is the same at every step; with a neuron, its spikes.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`.
        neuron: None (the current itself, as MS-ResNet does), a multi-step neuron module, or the name of a preset.
    """

    def __init__(
        self,
        T: int = 4,
        in_channels: int = 3,
        channels: int = 64,
        *,
        stem: nn.Module | None = None,
        neuron: nn.Module | str | None = None,
        step_mode: str = "m",
    ):
        super().__init__(T, in_channels, channels, stem=stem, step_mode=step_mode)
        self.neuron = preset(neuron) if isinstance(neuron, str) else neuron

    def encode(self, x: Tensor) -> Tensor:
        z = self.over_time(self.features(x))
        return z if self.neuron is None else self.neuron(z)


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
    T = x_seq.shape[0]
    if scheme == "poisson":
        return encoding.PoissonEncoder(step_mode="m")(x_seq).contiguous()
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
    """Spikes of the pixels, ``[T, N, in_channels, H, W]``, that pass the same stem at every step."""

    needs_unit_range = True
    scheme: str

    def encode(self, x: Tensor) -> Tensor:
        spikes = _encode_pixels(self.over_time(x.detach()), self.scheme)
        return forward_sequence(self.stem, spikes)


class PoissonCoding(_PixelCoding):
    """SpikingJelly's ``PoissonEncoder`` and the stem: a pixel p in [0, 1] spikes with probability p at every step.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`; ``stem=nn.Identity()`` gives bare spikes.

    Raises:
        ValueError: on the call, for pixels outside [0, 1].
    """

    scheme = "poisson"


class LatencyCoding(_PixelCoding):
    """SpikingJelly's ``LatencyEncoder`` (linear) and the stem: a pixel p spikes once, at step round((T - 1) (1 - p)).

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`; ``stem=nn.Identity()`` gives bare spikes.

    Raises:
        ValueError: on the call, for pixels outside [0, 1] or a sequence that changes.
    """

    scheme = "latency"


class WeightedPhaseCoding(_PixelCoding):
    """SpikingJelly's ``WeightedPhaseEncoder`` and the stem: the T bits of a pixel, the highest first.

    K = T phases. SpikingJelly takes pixels up to 1 - 2^-K, so pixels in [0, 1] are scaled by 1 - 2^-K here.

    Args:
        T, in_channels, channels, stem, step_mode: see :class:`Encoder`; ``stem=nn.Identity()`` gives bare spikes.

    Raises:
        ValueError: on the call, for pixels outside [0, 1] or a sequence that changes.
    """

    scheme = "weighted_phase"


#: The names that ``create_encoder`` and the models' ``encoder=`` know.
ENCODERS: dict[str, type[Encoder]] = {
    "gac": GatedAttentionCoding,
    "direct": DirectCoding,
    "direct_lif": DirectCoding,
    "poisson": PoissonCoding,
    "latency": LatencyCoding,
    "weighted_phase": WeightedPhaseCoding,
}


def create_encoder(name: str, *, neuron: nn.Module | str = "cifar", **options: Any) -> Encoder:
    """Build an encoder by name.

    Args:
        name: a key of :data:`ENCODERS`.
        neuron: the neuron of the encoders that have one ("gac", "direct_lif"): a module or the name of a preset.
        options: keywords of the encoder's class.

    Raises:
        ValueError: no encoder of that name.
    """
    if name not in ENCODERS:
        raise ValueError(f"The encoder {name!r} does not exist; choose one of {', '.join(ENCODERS)}.")
    if name in ("gac", "direct_lif"):
        options["neuron"] = neuron
    return ENCODERS[name](**options)
