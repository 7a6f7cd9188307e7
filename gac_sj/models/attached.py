"""A SpikingJelly network behind an encoder, with what training and analysis need (:class:`Network`)."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import base, functional
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj.attach import Attached, attach
from gac_sj.encoders import Encoder, encoder_info
from gac_sj.encoders.find_stem import FoundStem, find_stem, has_known_stem
from gac_sj.models.threads import one_at_a_time
from gac_sj.nn.neuron import is_neuron, reset_states

__all__ = ["AttachedNetwork"]


class AttachedNetwork(nn.Module, base.MultiStepModule):
    """A SpikingJelly network whose stem became an encoder. Step mode "m" only; each call starts from a reset state.

    The encoder takes the stem's layers and, if it has a place for one, the stem's neuron (:func:`gac_sj.attach`), so
    that the encoder "direct" leaves the network as it is. A first convolution for three channels gets those of the
    images as timm's pretrained networks do (:func:`timm.models.adapt_input_conv`). Logits are those of every step: an
    average over time that the network ends with is left to the caller. Some networks average before their classifier,
    which is the same, since a linear layer commutes with a mean; dropout in between draws a mask for each step then.

    Args:
        network: one that :func:`gac_sj.attach` takes; it is changed in place and put into step mode "m".
        T: number of time steps.
        in_chans: channels of the images.
        encoder: name of the encoder.
        form: of the encoder; None: its default.
        at: see :func:`gac_sj.attach`; None for known models, and for other networks the first convolution.
        until: see :func:`gac_sj.attach`.
        encoder_options: further keywords of the encoder.

    Shapes:
        images ``[N, in_chans, H, W]`` or a sequence ``[T, N, in_chans, H, W]`` -> logits ``[N, classes]``.

    Raises:
        UsageError: see :func:`gac_sj.attach`; a form for an encoder without forms; a network without neurons, or whose
            stem cannot be given these channels.
    """

    T = fixed()

    def __init__(
        self,
        network: nn.Module,
        T: int,
        in_chans: int,
        encoder: str,
        form: str | None = None,
        at: str | None = None,
        until: str | None = None,
        **encoder_options: Any,
    ):
        super().__init__()
        self.step_mode = "m"
        if not any(map(is_neuron, network.modules())):
            raise UsageError(
                f"{type(network).__name__} has no spiking neurons", "use SpikingJelly's or their subclasses"
            )
        info = encoder_info(encoder)
        if form is not None and not info.forms:
            raise UsageError(
                f"must be None for {encoder!r}, which has no forms, and {type(network).__name__}, got {form!r}",
                argument="form",
            )
        functional.set_step_mode(network, "m")
        at = _first_convolution(network) if at is None and not has_known_stem(network) else at
        _use_channels(network, find_stem(network, at, until), in_chans)
        options = encoder_options | ({} if form is None else {"form": form})
        self.network = attach(network, T, encoder, at, until, **options)
        self.T = self.encoder.T

    @property
    def encoder(self) -> Encoder:
        """The encoder in the place of the stem."""
        attached: Any = self.network.attached
        encoder = self.network.get_submodule(attached.at)
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def attached(self) -> Attached:
        """What :func:`gac_sj.attach` did."""
        attached: Any = self.network.attached
        return attached

    @one_at_a_time
    def forward_sequence(self, x: Tensor) -> Tensor:
        """Logits of every step, ``[T, N, classes]``."""
        reset_states(self)
        with _WithoutMean(self.T):
            return self.network(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_sequence(x).mean(0)

    def extra_repr(self) -> str:
        return f"T={self.T}"


class _WithoutMean(TorchFunctionMode):
    """Inside, ``x.mean(0)`` of ``[T, N, *]``, the average over time at the end of a network, returns its input."""

    def __init__(self, T: int):
        super().__init__()
        self.T = T

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        over_time = function in (torch.Tensor.mean, torch.mean) and (*args[1:], *kwargs.values()) == (0,)
        if over_time and args[0].dim() == 3 and len(args[0]) == self.T:
            return args[0]
        return function(*args, **kwargs)


def _first_convolution(network: nn.Module) -> str:
    names = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    name = next(names, None)
    if name is None:
        raise UsageError(f"{type(network).__name__} has no convolution with which a stem begins", "add one")
    return name


def _use_channels(network: nn.Module, stem: FoundStem, in_chans: int) -> None:
    """Give the first convolution of a stem another number of input channels."""
    convolution = next(module for first in stem.layers for module in first.modules() if isinstance(module, nn.Conv2d))
    if convolution.in_channels == in_chans:
        return
    if convolution.in_channels != 3:
        raise UsageError(
            f"{type(network).__name__} takes images of {convolution.in_channels} channels, got {in_chans}",
            "use other images",
        )
    convolution.weight = nn.Parameter(adapt_input_conv(in_chans, convolution.weight.detach()))
    convolution.in_channels = in_chans
