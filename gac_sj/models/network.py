"""What the networks of this package share: a trunk, a head, timm's and our methods."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from spikingjelly.activation_based import layer
from timm.layers import to_2tuple
from timm.models._input import update_model_input_size
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj._utils.validation import positives, rate
from gac_sj.encoders import REFERENCE_FORM
from gac_sj.encoders.base import attention_weights
from gac_sj.models.threads import one_at_a_time
from gac_sj.models.trunk import Trunk

__all__ = ["EncodedNetwork", "image_size"]


class EncodedNetwork(Trunk):
    """Base class of the networks: trunk and head. Step mode "m" only; each call starts from a reset state.

    A subclass sets ``head`` and ``img_size``, and what :class:`gac_sj.models.trunk.Trunk` asks for. It implements
    :meth:`pool`, :meth:`_logits` and :meth:`new_head`.

    Args:
        T: number of time steps, at least 1.
        num_classes: number of logits; 0 removes the classifier.
        global_pool: "avg", or "" (without a classifier) for feature maps.
        drop_rate: dropout before the classifier, with one mask for all steps.

    Raises:
        UsageError: ``num_classes`` is not an integer of at least 0, ``global_pool`` is another one, or "" with classes;
            a rate that is not in [0, 1).
    """

    T, img_size, drop_rate = fixed(), fixed(), fixed()
    head: nn.Module
    in_chans: int
    #: what timm knows about the network: input size, statistics of pixels, name of the classifier
    pretrained_cfg: dict[str, Any]
    _model_args: dict[str, Any]

    def __init__(self, T: int, num_classes: int, global_pool: str = "avg", drop_rate: float = 0.0):
        super().__init__()
        self.step_mode = "m"
        self.T = T
        self.num_classes, self.global_pool = _head(num_classes, global_pool)
        self.drop_rate = rate("drop_rate", drop_rate)

    @property
    def head_hidden_size(self) -> int:
        """Features of :meth:`pool`."""
        return self.num_features

    def pool(self, features: Tensor) -> Tensor:
        """The input of the classifier, ``[T, N, head_hidden_size]``; with ``global_pool=""``, the features."""
        raise NotImplementedError(f"{self._get_name()} must implement pool.")

    def _logits(self, features: Tensor) -> Tensor:
        """``[T, N, num_features, h, w]`` -> ``[T, N, num_classes]``."""
        raise NotImplementedError(f"{self._get_name()} must implement _logits.")

    def new_head(self, num_classes: int) -> nn.Module:
        """Build a classifier; with 0 classes, the identity."""
        raise NotImplementedError(f"{self._get_name()} must implement new_head.")

    def new_dropout(self) -> nn.Module:
        """Build the dropout before the classifier."""
        return layer.Dropout(self.drop_rate, step_mode="m") if self.drop_rate else nn.Identity()

    @one_at_a_time
    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[N, num_classes]``, averaged over time; with ``pre_logits`` the output of :meth:`pool`."""
        return self.pool(features) if pre_logits else self._logits(features).mean(0)

    @one_at_a_time
    def forward_sequence(self, x: Tensor) -> Tensor:
        """Logits of every step, ``[T, N, num_classes]``."""
        return self._logits(self.forward_features(x))

    @one_at_a_time
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of chosen levels do not need (timm's method).

        Args:
            indices: as in :meth:`forward_intermediates`.
            prune_norm: remove the last neuron. It goes with the last stage in any case.
            prune_head: remove pooling and classifier. They go with the last stage in any case.

        Returns:
            The levels, counted from 0.

        Raises:
            UsageError: a level that the network does not have.
        """
        chosen, deepest = self.levels(indices)
        prune_head = prune_head or deepest < len(self.stages)
        self.prune_stages(deepest, neuron=prune_norm)
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names from the first layer to the last, for timm's layer-wise learning rates.

        Args:
            coarse: one group for each stage, not for each block.
        """
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        # what lies between the last block and the head belongs to the last block
        return {"stem": r"^encoder", "blocks": [(blocks, None), (r"^(?:attention|lif)", (99999,))]}

    def no_weight_decay(self) -> set[str]:
        """Weights that timm's optimisers do not decay: those of the encoder's gate, unless it is the published one.

        Under weight decay both layers of its temporal attention shrink together, until it is silent.
        """
        return set() if getattr(self.encoder, "form", None) == REFERENCE_FORM else attention_weights(self)

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The classifier, or its name."""
        return "head" if name_only else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new, randomly initialised one.

        Args:
            num_classes: number of logits; 0 removes the classifier.
            global_pool: "avg", or "" (without a classifier) for feature maps; None: as it is.

        Raises:
            UsageError: see :class:`EncodedNetwork`.
        """
        global_pool = self.global_pool if global_pool is None else global_pool
        self.num_classes, self.global_pool = _head(num_classes, global_pool)
        self.head = self.placed(self.new_head(num_classes))

    def placed(self, module: nn.Module) -> nn.Module:
        """A new module with the device, the type and the mode of this network."""
        weight = next(self.parameters())
        return module.to(weight.device, weight.dtype).train(self.training)

    def set_input_size(self, img_size: int | Sequence[int]) -> None:
        """Set the height and width of the images, or the side of square ones (timm's method); weights are kept.

        Args:
            img_size: what timm's data pipeline will deliver; networks that take any size only record it.

        Raises:
            UsageError: it is not one or two positive integers.
        """
        size = image_size(img_size)
        self.__dict__["img_size"] = size  # fixed for everyone else
        update_model_input_size(self, size)
        self.describe_size(getattr(self, "pretrained_cfg", {}))

    def describe_size(self, config: dict[str, Any]) -> None:
        """Write the size of images and of the last feature maps into what timm knows about the network.

        Args:
            config: changed in place, unless it is empty.
        """
        if config:
            channels, *size = config["input_size"]
            size = self.img_size or size
            config["input_size"] = (channels, *size)
            config["pool_size"] = tuple(-(-side // self.feature_info[-1]["reduction"]) for side in size)

    def extra_repr(self) -> str:
        return f"T={self.T}, num_classes={self.num_classes}"


def image_size(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width.

    Args:
        img_size: both, or the side of a square.

    Raises:
        UsageError: it is not one or two positive integers.
    """
    size = positives("img_size", to_2tuple(img_size))
    if len(size) != 2:
        raise UsageError(f"must be a side, or a height and a width, got {img_size!r}", argument="img_size")
    return size[0], size[1]


def _head(num_classes: int, global_pool: str) -> tuple[int, str]:
    if not isinstance(num_classes, Integral) or isinstance(num_classes, bool) or num_classes < 0:
        raise UsageError(
            f"must be the number of classes, an integer, or 0 for no classifier, got {num_classes!r}",
            argument="num_classes",
        )
    if global_pool not in ("avg", ""):
        raise UsageError(f"must be 'avg', or '' for feature maps, got {global_pool!r}", argument="global_pool")
    if num_classes and not global_pool:
        raise UsageError(
            f"must be 'avg' in front of a classifier, got '' with num_classes={num_classes}",
            "pass num_classes=0 for feature maps",
            argument="global_pool",
        )
    return int(num_classes), global_pool
