"""MA-SNN (arXiv 2209.13929): a convolutional network for event frames with attention in front of every neuron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from spikingjelly.activation_based import layer
from timm.layers import to_2tuple
from timm.models import register_model
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.validation import positive, positives
from gac_sj.encoders import BASELINE_ENCODER, Encoder
from gac_sj.models.builder import build_encoder, create
from gac_sj.models.network import EncodedNetwork
from gac_sj.models.resizing import resize_linear
from gac_sj.models.shipped import generate_cfgs
from gac_sj.models.spiking_block import SpikingBlock
from gac_sj.nn import membrane_attention
from gac_sj.nn.neuron import LIFNode

__all__ = ["MASNN"]


class MASNN(EncodedNetwork):
    """The convolutional network of MA-SNN. Step mode "m" only; each call starts from a reset state.

    3x3 convolutions with bias, BatchNorm, mean over 2x2 pixels (not behind the first), attention, neuron; then two
    linear layers with BatchNorm, temporal attention, neuron. The logits of a step are the spikes of the last neuron.
    The first convolution and its BatchNorm are the encoder's stem, behind a sum over ``input_pool`` x ``input_pool``
    pixels, as the published code counts events on 32 x 32 pixels. Source: MA-SNN (arXiv 2209.13929), code; SpikingJelly
    2.0.0's ``masnn.MASNN``, whose ``input_size`` is the size after the sum.

    Use an encoder that outputs a current: direct coding, or GAC with the form "current". Behind spikes, the first
    neuron passes no gradient without attention (0 and 1 lie outside its surrogate, 0.05 to 0.55), and with all three
    attentions it is silent at initialisation, since they scale a spike by 1/8.

    Args:
        channels: of the convolutions.
        hidden: units of the first linear layer.
        img_size: height and width of the frames, or the side of square ones: a multiple of
            ``input_pool * 2 ** (len(channels) - 1)``.
        input_pool: side of the window of the sum; 1 takes frames as they are.
        neuron: name of the neuron preset (:func:`gac_sj.lif_preset`), for the encoder as well, such as "plif" with a
            learnable time constant; or a function that builds a neuron, which the encoder uses as it is.
        block_attention: a name in :data:`gac_sj.nn.membrane_attention.ATTENTIONS`, or "none"; the linear layers have
            temporal attention if it contains one.
        block_temporal_reduction: reduction ratio of the temporal attention.
        block_channel_reduction: reduction ratio of the channel attention.
        T: number of time steps, at least 1.
        num_classes: number of logits; 0 returns the spikes of the first linear layer.
        in_chans: channels of the frames.
        encoder: as in :class:`gac_sj.models.MSResNet`.
        form: as in :class:`gac_sj.models.MSResNet`.
        drop_rate: dropout before the classifier, with one mask for all steps.
        drop_path_rate: must be 0, since nothing leads around a block; timm's scripts pass it to every network.
        global_pool: "avg": flatten and the first linear layer; "" (with ``num_classes=0``) returns feature maps.
        encoder_options: as in :class:`gac_sj.models.MSResNet`.

    Shapes:
        frames ``[T, N, in_chans, H, W]`` or images ``[N, in_chans, H, W]`` -> rates ``[N, num_classes]`` in [0, 1].

    Raises:
        UsageError: an unknown encoder, preset or attention; a number that is not a positive integer; a size that
            cannot be divided; a rate out of its range; a keyword that neither the network nor its encoder has; on the
            call, an input of another shape.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (64, 128, 128),
        hidden: int = 256,
        img_size: int | tuple[int, int] = 128,
        input_pool: int = 4,
        neuron: str | Callable[[], nn.Module] = "ma_snn",
        block_attention: str = "TCSA",
        block_temporal_reduction: int = 5,
        block_channel_reduction: int = 8,
        T: int = 60,
        num_classes: int = 11,
        in_chans: int = 2,
        encoder: str = BASELINE_ENCODER,
        form: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        **encoder_options: Any,
    ):
        super().__init__(T, num_classes, global_pool, drop_rate)
        if drop_path_rate:
            raise UsageError(
                f"must be 0 for MASNN, which has no shortcuts, got {drop_path_rate!r}",
                "leave it out",
                argument="drop_path_rate",
            )
        channels = positives("channels", channels)
        self.input_pool = positive("input_pool", input_pool)
        self.feature_info = [
            dict(num_chs=width, reduction=input_pool * 2**at, module=f"stages.{at - 1}" if at else "encoder")
            for at, width in enumerate(channels)
        ]
        self.img_size = self._divisible(img_size)
        positive("block_temporal_reduction", block_temporal_reduction)
        positive("block_channel_reduction", block_channel_reduction)
        self.units = positive("hidden", hidden)
        self.encoder, make_neuron = build_encoder(
            type(self),
            encoder,
            form,
            neuron,
            encoder_options,
            T=T,
            in_channels=in_chans,
            channels=channels[0],
            stem=nn.Sequential(
                nn.AvgPool2d(input_pool, divisor_override=1) if input_pool > 1 else nn.Identity(),
                nn.Conv2d(in_chans, channels[0], 3, padding=1),
                nn.BatchNorm2d(channels[0]),
            ),
        )

        def attention(width: int) -> nn.Module:
            return membrane_attention.block_attention(
                block_attention, T, width, block_temporal_reduction, block_channel_reduction
            )

        blocks = [MABlock(i, out, attention(i), make_neuron()) for i, out in pairwise(channels)]
        self.stages = nn.Sequential(*(nn.Sequential(block) for block in blocks))
        self.attention = attention(channels[-1])
        self.lif = make_neuron()

        self._make_neuron = make_neuron
        self._temporal = "TA" if "T" in block_attention else "none", block_temporal_reduction
        self.hidden = self._hidden()
        self.dropout = self.new_dropout()
        self.head = self.new_head(num_classes)

    def _linear(self, features: int, units: int) -> nn.Module:
        name, reduction = self._temporal
        attention = membrane_attention.block_attention(name, self.T, 1, reduction)
        return MALinear(features, units, attention, self._make_neuron())

    def _hidden(self) -> nn.Module:
        height, width = self.map_size(self.img_size)
        return self._linear(self.num_features * height * width, self.units) if self.global_pool else nn.Identity()

    def new_head(self, num_classes: int) -> nn.Module:
        return self._linear(self.head_hidden_size, num_classes) if num_classes > 0 else nn.Identity()

    def _divisible(self, img_size: int | Sequence[int]) -> tuple[int, int]:
        size = positives("img_size", to_2tuple(img_size))
        divisor = self.feature_info[-1]["reduction"]
        if len(size) != 2 or any(side % divisor for side in size):
            raise UsageError(
                f"must be a multiple of {divisor}, since {self.input_pool} x {self.input_pool} pixels are summed and "
                f"2 x 2 averaged {len(self.feature_info) - 1} times, got {img_size}",
                "change it or input_pool",
                argument="img_size",
            )
        return size[0], size[1]

    def map_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the last feature maps."""
        return img_size[0] // self.feature_info[-1]["reduction"], img_size[1] // self.feature_info[-1]["reduction"]

    @property
    def head_hidden_size(self) -> int:
        return self.units if self.global_pool else self.num_features

    def encode(self, x: Tensor) -> Tensor:
        # without its encoder it accepts sequences of other sizes
        if isinstance(self.encoder, Encoder) and tuple(x.shape[-2:]) != self.img_size:
            raise UsageError(
                f"MASNN needs frames of {' x '.join(map(str, self.img_size))} pixels, got "
                f"{' x '.join(map(str, x.shape[-2:]))}",
                f"build it with img_size={tuple(x.shape[-2:])} or resize them",
            )
        return super().encode(x)

    def fire(self, x: Tensor) -> Tensor:
        return super().fire(self.attention(x))

    def pool(self, features: Tensor) -> Tensor:
        return self.hidden(features.flatten(2)) if self.global_pool else features

    def _logits(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(self.pool(features)))

    def remove_last_neuron(self) -> None:
        super().remove_last_neuron()
        self.attention = nn.Identity()

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        name = "head.linear" if self.num_classes else "head"
        return name if name_only else self.get_submodule(name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """As in :class:`EncodedNetwork`; without pooling the first linear layer goes too, with it a new one comes."""
        before = self.global_pool
        super().reset_classifier(num_classes, global_pool)
        if self.global_pool != before:
            self.hidden = self.placed(self._hidden())

    def set_input_size(self, img_size: int | Sequence[int]) -> None:
        """Set the size of the frames. The first linear layer's weights are resized as images, bilinearly, and scaled,
        so that frames which are the same at every pixel keep their output.

        Args:
            img_size: height and width of the frames, or the side of square ones. Set it before an optimiser is built.

        Raises:
            UsageError: it is not a multiple of what the constructor asks for.
        """
        before, size = self.map_size(self.img_size), self._divisible(img_size)
        if isinstance(self.hidden, MALinear) and size != self.img_size:
            linear = self.hidden.linear
            weight = resize_linear(linear.weight.detach(), before, self.map_size(size))
            linear.weight, linear.in_features = nn.Parameter(weight), weight.shape[1]
        super().set_input_size(size)


class MABlock(SpikingBlock):
    """Attention, neuron, convolution 3x3 with bias, BatchNorm, mean over 2x2 pixels.

    Shapes:
        ``[T, N, in_channels, H, W] -> [T, N, channels, H / 2, W / 2]``.
    """

    def __init__(self, in_channels: int, channels: int, attention: nn.Module, neuron: LIFNode):
        super().__init__()
        self.attention = attention
        self.lif1 = neuron
        self.layers = nn.Sequential(
            layer.Conv2d(in_channels, channels, 3, padding=1, step_mode="m"),
            layer.BatchNorm2d(channels, step_mode="m"),
            layer.AvgPool2d(2, step_mode="m"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(self.layers, self.lif1(self.attention(x)), self.lif1)


class MALinear(nn.Module):
    """Linear layer, BatchNorm, temporal attention, neuron: ``[T, N, features] -> [T, N, units]``."""

    def __init__(self, features: int, units: int, attention: nn.Module, neuron: LIFNode):
        super().__init__()
        self.linear = nn.Linear(features, units)
        self.norm = layer.BatchNorm2d(units, step_mode="m")  # of one pixel: what may be synchronised
        self.attention = attention
        self.lif = neuron

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.linear(x)[..., None, None])
        return self.lif(self.attention(y).flatten(2))


default_cfgs = generate_cfgs(
    {
        "ma_snn": dict(
            num_classes=11,
            input_size=(2, 128, 128),
            fixed_input_size=True,
            pool_size=(8, 8),
            mean=(0.0, 0.0),
            std=(1.0, 1.0),
            crop_pct=1.0,
            first_conv="encoder.stem.1",
            classifier="head.linear",
        )
    }
)


@register_model
def ma_snn(pretrained: bool = False, **kwargs: Any) -> MASNN:
    """The MA-SNN convolutional network for DVS128 Gesture (arXiv 2209.13929): 60 frames of 128 x 128 pixels."""
    return create(MASNN, "ma_snn", {"pretrained_filter_fn": _for_task}, pretrained, kwargs)


def _for_task(weights: dict[str, Tensor], model: MASNN) -> dict[str, Tensor]:
    """Drop the head's BatchNorm if it has other classes, as timm drops ``head.linear``; fit the first linear layer."""
    own, first = model.state_dict(), "hidden.linear.weight"
    kept = {
        name: value
        for name, value in weights.items()
        if not (name.startswith("head.norm.") and name in own and value.shape != own[name].shape)
    }
    if first in own and first in kept:  # pretrained_cfg knows the frames that it was made for
        before = model.map_size(model.pretrained_cfg["input_size"][1:])
        kept[first] = resize_linear(kept[first], before, model.map_size(model.img_size))
    return kept
