"""The contract of every encoder: images or a sequence in, a spatio-temporal sequence out.

In step mode "m" an encoder maps images ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]`` to ``[T, N, channels, H, W]``
(H and W as the stem returns them), and each call is independent of the last one. In step mode "s" the first call
encodes, each call returns the next step, and after T calls it starts again; another image before ``reset()`` is an
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj._utils.validation import positive
from gac_sj.encoders.stem import conv_bn, forward_once, forward_sequence, is_time_invariant, use_multi_step
from gac_sj.nn.neuron import PlainMemories, reset_states
from gac_sj.nn.sync_batchnorm import RefusesTorchSyncBatchNorm

__all__ = ["AttentionMaps", "Encoder", "attention_weights"]


class AttentionMaps(NamedTuple):
    """The gate of an encoder for a batch, and the attentions that it is made of.

    Args:
        gate: ``[T, N, C, H, W]``.
        temporal: ``[T, N, 1, 1, 1]``, or one number for each channel ``[T, 1, C, 1, 1]``, or None.
        spatial_channel: ``[N, C, H, W]`` or ``[T, N, C, H, W]``, or None.
    """

    gate: Tensor
    temporal: Tensor | None
    spatial_channel: Tensor | None


class Encoder(RefusesTorchSyncBatchNorm, PlainMemories, base.MemoryModule):
    """Base class of all encoders, with the contract of this module. A subclass implements :meth:`encode`.

    Args:
        T: number of time steps, at least 1.
        in_channels: channels of the images.
        channels: channels of the sequence, which are those of the stem's output.
        stem: layers from ``in_channels`` to ``channels``; None builds a 3x3 convolution and BatchNorm.
        step_mode: "m" or "s".

    Raises:
        UsageError: a number is not a positive integer; on the call, the input has another shape.
    """

    T, in_channels, channels = fixed(), fixed(), fixed()
    #: whether pixels must lie in [0, 1]; :func:`gac_sj.register_encoder` sets it
    needs_unit_range = False
    #: which of its class's forms it has; None for encoders without forms
    form: str | None = None
    #: its neuron; None if it has none
    neuron: nn.Module | None
    # memories
    sequence: Tensor | None
    image: Tensor | None
    t: int

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
        self.T = positive("T", T)
        self.in_channels = positive("in_channels", in_channels)
        self.channels = positive("channels", channels)
        self.stem = conv_bn(in_channels, channels) if stem is None else stem
        self.neuron = None
        self.register_memory("sequence", None)
        self.register_memory("image", None)
        self.register_memory("t", 0)
        self.step_mode = step_mode

    def encode(self, x: Tensor) -> Tensor:
        """Encode images or a sequence, whose shape has been checked, as ``[T, N, channels, H, W]``."""
        raise NotImplementedError(f"{self._get_name()} must implement encode.")

    #: names of its child modules that are attention: their energy is reported separately, weight decay may spare them
    attention_names: ClassVar[tuple[str, ...]] = ()

    #: keywords with which an encoder that can do without a neuron is built without one
    without_neuron: ClassVar[Mapping[str, Any]] = MappingProxyType({"neuron": None})

    @classmethod
    def takes_neuron(cls, **options: Any) -> bool:
        """Whether an encoder that is built with these keywords accepts ``neuron`` too."""
        return "neuron" in signature(cls).parameters

    @property
    def is_reference(self) -> bool:
        """Whether it equals the published encoder; encoders without forms do not."""
        return False

    def attention_maps(self, x: Tensor) -> AttentionMaps | None:
        """The gate for images ``[N, C, H, W]`` or a sequence, and its parts; None for encoders without a gate."""
        return None

    def features(self, x: Tensor) -> Tensor:
        """The stem's output: ``[N, C, H, W]`` if an image can be encoded once, otherwise ``[T, N, C, H, W]``."""
        if x.dim() == 4:
            if is_time_invariant(self.stem):
                return forward_once(self.stem, x, self.T)
            x = self.over_time(x)
        return forward_sequence(self.stem, x)

    def over_time(self, features: Tensor) -> Tensor:
        """Features as ``[T, N, C, H, W]``: those of a static image are repeated, without a copy."""
        return features if features.dim() == 5 else features.expand(self.T, *features.shape)

    def multi_step_forward(self, x: Tensor) -> Tensor:
        self._check(x)
        self.reset()
        for child in self.children():
            use_multi_step(child)
            reset_states(child)
        return self.encode(x)

    def single_step_forward(self, x: Tensor) -> Tensor:
        sequence, image = self.sequence, self.image
        if sequence is None or image is None:
            # a copy: SpikingJelly's detach_net detaches in place, which a view refuses
            self.sequence = sequence = self.multi_step_forward(x).clone()
            self.image = x.detach().clone()
        elif x.shape != image.shape or not torch.equal(x, image):
            raise UsageError(
                f"{self._get_name()} in step mode 's' got another image after {self.t} of {self.T} steps, and it still "
                "returns the first one's steps",
                "call spikingjelly.activation_based.functional.reset_net between images",
            )
        step = sequence[self.t]
        self.t = (self.t + 1) % self.T
        return step

    def _check(self, x: Tensor) -> None:
        problem = (
            f"{self._get_name()} needs images [N, {self.in_channels}, H, W] or a sequence "
            f"[{self.T}, N, {self.in_channels}, H, W], got {list(x.shape)}"
        )
        if x.dim() not in (4, 5):
            raise UsageError(problem, "add or remove dimensions")
        if x.shape[-3] != self.in_channels:
            raise UsageError(problem, f"build it with in_channels={x.shape[-3]} or feed other images")
        if x.dim() == 5 and x.shape[0] != self.T:
            raise UsageError(problem, f"build it with T={x.shape[0]} or feed {self.T} steps")

    def extra_repr(self) -> str:
        return f"T={self.T}, step_mode={self.step_mode}"


def attention_weights(network: nn.Module) -> set[str]:
    """Names of the weights of the attention (the gate) in all encoders of a network.

    Args:
        network: an encoder, or a network with any number of them.
    """
    return {
        name
        for prefix, encoder in network.named_modules()
        if isinstance(encoder, Encoder)
        for part in encoder.attention_names
        for name, _ in getattr(encoder, part).named_parameters(".".join(filter(None, (prefix, part))))
    }
