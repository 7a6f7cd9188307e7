"""What training, evaluation, analysis and benchmarks rely on in a network, and the check of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.randomness import seeded
from gac_sj.encoders import Encoder, encoder_info
from gac_sj.nn.neuron import is_neuron, reset_states

__all__ = ["Network", "NetworkModule", "SequenceModel", "check_network", "encoder_of", "last_neuron", "missing_parts"]


class SequenceModel(Protocol):
    """A classifier whose logits can be read after every time step."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def forward_sequence(self, x: Tensor, /) -> Tensor:
        """Images ``[N, C, H, W]`` or frames ``[T, N, C, H, W]`` -> logits ``[T, N, classes]``."""


class Network(SequenceModel, Protocol):
    """All that ``--model`` needs: an ``nn.Module`` with these members. Each call starts from a reset state.

    Among its modules are an encoder of this package (:func:`gac_sj.create_encoder`), through which the input enters
    (:func:`encoder_of` finds it), and at least one of SpikingJelly's neurons or of their subclasses, whose firing rates
    are measured. In a network that :func:`timm.create_model` or a user's function builds, ``pretrained_cfg`` is set by
    who builds it. Some settings need more: ``grad_checkpointing`` the method ``set_grad_checkpointing``, and
    ``spikes_as_bytes`` the method ``set_spikes_as_bytes``.
    """

    #: timm's description: at least ``mean``, ``std``, ``crop_pct`` and ``input_size``
    pretrained_cfg: dict[str, Any]

    def __call__(self, x: Tensor, /) -> Tensor:
        """Logits averaged over time, ``[N, classes]``."""


if TYPE_CHECKING:

    class NetworkModule(nn.Module, Network):
        """A module that is a :class:`Network`."""
else:
    NetworkModule = nn.Module


def encoder_of(model: nn.Module) -> Encoder:
    """The first encoder among the modules of a network.

    Raises:
        UsageError: the network has none.
    """
    encoder = next((module for module in model.modules() if isinstance(module, Encoder)), None)
    if encoder is None:
        raise UsageError(f"{type(model).__name__} has no encoder of gac_sj", "use gac_sj.attach")
    return encoder


def last_neuron(model: nn.Module) -> nn.Module:
    """The neuron of a network that was registered last, behind the encoder in all known networks.

    Raises:
        UsageError: the network has no neurons.
    """
    neurons = [module for module in model.modules() if is_neuron(module)]
    if not neurons:
        raise UsageError(f"{type(model).__name__} has no spiking neurons", "use SpikingJelly's or their subclasses")
    return neurons[-1]


def missing_parts(model: object) -> list[str]:
    """What a network lacks of :class:`Network`, in words; empty if nothing.

    Args:
        model: any object.
    """
    if not isinstance(model, nn.Module):
        return [f"being an nn.Module (it is a {type(model).__name__})"]
    needed = {
        "a method forward_sequence (input -> logits [T, N, classes])": callable(
            getattr(model, "forward_sequence", None)
        ),
        "an encoder of gac_sj among its modules": any(isinstance(module, Encoder) for module in model.modules()),
        "spiking neurons of SpikingJelly": any(map(is_neuron, model.modules())),
    }
    return [part for part, there in needed.items() if not there]


def check_network(model: nn.Module, name: str, encoder: str, T: int, classes: int, shape: tuple[int, ...]) -> None:
    """Refuse a network that lacks something of :class:`Network`, or does not fit a run. It runs one input of zeros.

    Args:
        model: on any device, "meta" included; neither it nor the RNG states are changed.
        name: of the network, for messages.
        encoder: name of the encoder that it must have.
        T: number of time steps.
        classes: number of classes.
        shape: channels, height and width of the images; event frames are fed as images.

    Raises:
        UsageError: the message says what is missing or differs.
    """

    def refuse(problem: str, advice: str = "") -> UsageError:
        return UsageError(f"cannot be {name!r}, which {problem}", advice, argument="model")

    if missing := missing_parts(model):
        raise refuse(f"lacks {', '.join(missing)}", "gac_sj.models.protocols.Network says what a network needs")
    network = cast(NetworkModule, model)
    own = encoder_of(model)
    cls = encoder_info(encoder).cls
    if not isinstance(own, cls):
        raise refuse(f"has the encoder {type(own).__name__}, not {encoder!r} ({cls.__name__})", "use the given one")
    seen: list[Tensor] = []
    hook = own.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    try:
        # random states are tensors of the CPU, also where a caller builds on "meta"
        with torch.no_grad(), torch.device("cpu"), seeded("check"), torch.device(device):
            steps = network.eval().forward_sequence(torch.zeros(1, *shape, device=device))
    except Exception as error:  # another package's network raises whatever it likes
        size = " x ".join(map(str, shape))
        raise refuse(
            f"cannot run on images of {size} ({first_sentence(error)})", "choose another size or other options"
        ) from error
    finally:
        hook.remove()
        for module, before in modes.items():
            module.training = before
        reset_states(model)
    if not seen:
        raise refuse("does not pass the images through its encoder")
    found = list(steps.shape) if isinstance(steps, Tensor) else type(steps).__name__
    if not isinstance(found, list) or len(found) != 3:
        raise refuse(f"must return the logits of every step, [{T}, N, {classes}], got {found} for one image")
    if found[2] != classes:
        raise refuse(f"has {found[2]} classes, and the data set has {classes}")
    if found[:2] != [T, 1]:
        raise refuse(f"must return [{T}, N, {classes}], got {found} for one image")
