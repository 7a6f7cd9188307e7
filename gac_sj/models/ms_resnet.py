"""Membrane-shortcut residual networks (MS-ResNet, arXiv 2112.08954) behind an encoder.

A block adds to the membrane: ``x + BN(conv(LIF(BN(conv(LIF(x))))))``; no neuron follows the sum. The CIFAR and the
ImageNet networks differ in neuron, initialisation and stem, as the published codes of GAC and MS-ResNet do. Max-ResNet
(arXiv 2505.18608) is the CIFAR network with a third neuron and max-pooling in place of strides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj._utils.validation import positive, positives
from gac_sj.encoders import DEFAULT_ENCODER
from gac_sj.models.builder import build_encoder, create
from gac_sj.models.drop_path import drop_path_rates
from gac_sj.models.init import init_weights
from gac_sj.models.ms_block import MSBlock
from gac_sj.models.network import EncodedNetwork, image_size
from gac_sj.models.shipped import generate_cfgs
from gac_sj.models.stems import REDUCTION, build_stem
from gac_sj.nn import membrane_attention

__all__ = ["MSResNet"]


class MSResNet(EncodedNetwork):
    """A membrane-shortcut ResNet with an encoder in front. Step mode "m" only; each call starts from a reset state.

    Args:
        blocks: number of blocks per stage.
        channels: channels per stage.
        strides: stride of the first block of each stage.
        stem: "conv3", "conv7" or "three" (:func:`gac_sj.models.stems.build_stem`).
        stem_channels: channels of the encoder's sequence.
        neuron: name of the neuron preset (:func:`gac_sj.lif_preset`), for the encoder as well, such as "plif" with a
            learnable time constant; or a function that builds a neuron, which the encoder uses as it is.
        init: "cifar", "kaiming", "ms" or "att" (:func:`gac_sj.models.init.init_weights`).
        downsample: "stride", "avg_shortcut", "max" or "max_branch" (:class:`gac_sj.models.MSBlock`).
        spike_driven: every layer behind the encoder receives spikes: the blocks' shortcuts and the classifier, which
            then runs on every pixel and is averaged, the same up to rounding. It is not the published network, whose
            shortcuts differ (:mod:`gac_sj.analysis.spike_driven`).
        block_attention: "TA", "CA", "SA", "TCA", "TSA", "CSA" or "TCSA": temporal, channel and spatial attention on the
            membrane potentials of every block's branch (:class:`gac_sj.nn.membrane_attention.MembraneAttention`), or
            "none".
        block_temporal_reduction: reduction ratio of its temporal attention.
        block_channel_reduction: reduction ratio of its channel attention.
        T: number of time steps, at least 1.
        num_classes: number of logits; 0 returns the pooled features.
        in_chans: channels of the images.
        encoder: one of :func:`gac_sj.list_encoders`.
        form: "reference" builds the network of the published code exactly: the published encoder, and neurons that
            fire only above the threshold. Other forms belong to encoders that have them; None: the encoder's default.
        drop_rate: dropout before the classifier, with one mask for all steps.
        drop_path_rate: stochastic depth: probability with which a sample loses the branch of the last block in
            training, at all steps; that of the other blocks falls linearly to 0 at the first.
        global_pool: "avg"; "" (with ``num_classes=0``) returns feature maps.
        img_size: height and width of the images, or the side of square ones, which timm's data pipeline will deliver;
            the network takes any.
        encoder_options: further keywords of the encoder, such as ``gain``, ``output``, ``kernel_size``.

    Shapes:
        images ``[N, in_chans, H, W]`` or a sequence ``[T, N, in_chans, H, W]`` -> logits ``[N, num_classes]``.

    Raises:
        UsageError: an unknown encoder, stem, preset, downsampling or attention; the form "reference" with the neuron
            "sigmoid", which fires at the threshold; ``spike_driven`` with attention, which does not receive spikes; a
            number out of its range; ``blocks``, ``channels`` and ``strides`` of different lengths; on the call, an
            input of another shape; a keyword that neither the network nor its encoder has.
    """

    downsample, spike_driven, drop_path_rate = fixed(), fixed(), fixed()

    def __init__(
        self,
        blocks: tuple[int, ...] = (3, 3, 2),
        channels: tuple[int, ...] = (128, 256, 512),
        strides: tuple[int, ...] = (1, 2, 2),
        stem: str = "conv3",
        stem_channels: int = 64,
        neuron: str | Callable[[], nn.Module] = "cifar",
        init: str = "cifar",
        downsample: str = "stride",
        spike_driven: bool = False,
        block_attention: str = "none",
        block_temporal_reduction: int = 1,
        block_channel_reduction: int = 8,
        T: int = 4,
        num_classes: int = 10,
        in_chans: int = 3,
        encoder: str = DEFAULT_ENCODER,
        form: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] | None = None,
        **encoder_options: Any,
    ):
        super().__init__(T, num_classes, global_pool, drop_rate)
        if spike_driven and block_attention != "none":
            raise UsageError(
                f"excludes block_attention={block_attention!r}, which receives membrane potentials, not spikes",
                "leave one out",
                argument="spike_driven",
            )
        blocks = positives("blocks", blocks)
        channels, strides = positives("channels", channels), positives("strides", strides)
        if not len(blocks) == len(channels) == len(strides):
            raise UsageError(
                f"blocks, channels and strides must have equal lengths, got {blocks}, {channels} and {strides}"
            )
        positive("block_temporal_reduction", block_temporal_reduction)
        positive("block_channel_reduction", block_channel_reduction)
        rates = iter(drop_path_rates(drop_path_rate, sum(blocks)))
        self.downsample = downsample
        self.spike_driven = spike_driven
        self.drop_path_rate = drop_path_rate
        self.img_size = None if img_size is None else image_size(img_size)
        self.encoder, make_neuron = build_encoder(
            type(self),
            encoder,
            form,
            neuron,
            encoder_options,
            T=T,
            in_channels=in_chans,
            channels=stem_channels,
            stem=build_stem(stem, in_chans, stem_channels),
        )
        reduction = REDUCTION[stem]
        self.feature_info = [dict(num_chs=stem_channels, reduction=reduction, module="encoder")]

        def block(channels_in: int, channels_out: int, stride: int) -> MSBlock:
            attention = membrane_attention.block_attention(
                block_attention, T, channels_out, block_temporal_reduction, block_channel_reduction
            )
            return MSBlock(
                channels_in, channels_out, stride, make_neuron, downsample, spike_driven, attention, next(rates)
            )

        stages, width = [], stem_channels
        for depth, out, stride in zip(blocks, channels, strides):
            firsts = [(width, stride)] + [(out, 1)] * (depth - 1)
            stages.append(nn.Sequential(*(block(i, out, s) for i, s in firsts)))
            width, reduction = out, reduction * stride
            self.feature_info.append(dict(num_chs=out, reduction=reduction, module=f"stages.{len(stages) - 1}"))
        self.stages = nn.Sequential(*stages)
        self.lif = make_neuron()
        self.dropout = self.new_dropout()
        self.head = self.new_head(num_classes)
        init_weights(self, init, getattr(self.lif, "v_threshold", 1.0))

    def pool(self, features: Tensor) -> Tensor:
        return features.mean((-2, -1)) if self.global_pool else features

    def _logits(self, features: Tensor) -> Tensor:
        if not (self.spike_driven and self.global_pool):
            return self.head(self.dropout(self.pool(features)))
        if self.training and self.drop_rate:  # one mask for all pixels, as behind the mean
            features = features * self.dropout(features.new_ones(features.shape[:3]))[..., None, None]
        return self.head(features.movedim(2, -1)).mean((2, 3))

    def new_head(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.head_hidden_size, num_classes) if num_classes > 0 else nn.Identity()


CIFAR18 = dict(blocks=(3, 3, 2), channels=(128, 256, 512))
_MAX18 = CIFAR18 | dict(neuron="sigmoid", downsample="max")
CIFAR8 = dict(blocks=(1, 1, 1), channels=(16, 32, 64), stem_channels=16)
IMAGENET = dict(channels=(64, 128, 256, 512), strides=(2, 2, 2, 2), stem="conv7", neuron="imagenet", num_classes=1000)
IMAGENET104 = dict(blocks=(3, 8, 32, 8), stem="three", downsample="avg_shortcut", drop_rate=0.2)


def cfg(**changes: Any) -> dict[str, Any]:
    return {"first_conv": "encoder.stem.0", "classifier": "head", "pool_size": (7, 7), **changes}


CIFAR_CFG = dict(
    num_classes=10,
    input_size=(3, 32, 32),
    pool_size=(8, 8),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    crop_pct=1.0,
)
default_cfgs = generate_cfgs(
    {
        f"{prefix}{name}": cfg(**changes)
        for prefix in ("gac_", "")
        for name, changes in {
            "ms_resnet8_cifar": CIFAR_CFG,
            "ms_resnet18_cifar": CIFAR_CFG,
            "max_resnet18_cifar": CIFAR_CFG,
            "ms_resnet18": {},
            "ms_resnet34": {},
            "ms_resnet104": {},
        }.items()
    }
)


@register_model
def gac_ms_resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """Small: what a CPU trains in minutes. Blocks 1, 1, 1 of 16, 32, 64 channels (ours)."""
    return create(MSResNet, "gac_ms_resnet8_cifar", CIFAR8, pretrained, kwargs)


@register_model
def ms_resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``gac_ms_resnet8_cifar`` with direct coding."""
    return create(MSResNet, "ms_resnet8_cifar", CIFAR8, pretrained, kwargs)


@register_model
def gac_ms_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """The CIFAR network of GAC (arXiv 2308.06582): blocks 3, 3, 2 of 128, 256, 512 channels."""
    return create(MSResNet, "gac_ms_resnet18_cifar", CIFAR18, pretrained, kwargs)


@register_model
def ms_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``gac_ms_resnet18_cifar`` with direct coding, the baseline of the published code."""
    return create(MSResNet, "ms_resnet18_cifar", CIFAR18, pretrained, kwargs)


@register_model
def gac_max_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``max_resnet18_cifar`` with GAC in front (ours).

    The first neuron behind the encoder is silent at initialisation, or nearly so: the gate on a spike is about 1, and
    this neuron needs more than 1 to fire. With the default form, T = 4 and 20 seeds its rate is 0 to 0.014, and 0 for
    ten of them; with direct coding it is 0.07. Later blocks fire; ``form="current"`` starts like direct coding.
    """
    return create(MSResNet, "gac_max_resnet18_cifar", _MAX18, pretrained, kwargs)


@register_model
def max_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """Max-ResNet-18 (MaxFormer, NeurIPS 2025, arXiv 2505.18608; code bic-L/MaxFormer), with pooled shortcuts as well.

    ``ms_resnet18_cifar`` with max-pooling for strides and the neuron "sigmoid". The published code pools the branches
    only; ``downsample="max_branch"`` is that network.
    """
    return create(MSResNet, "max_resnet18_cifar", _MAX18, pretrained, kwargs)


@register_model
def gac_ms_resnet18(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-18 for ImageNet with GAC (arXiv 2308.06582)."""
    return create(MSResNet, "gac_ms_resnet18", IMAGENET | dict(blocks=(2, 2, 2, 2), init="kaiming"), pretrained, kwargs)


@register_model
def ms_resnet18(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-18 (arXiv 2112.08954)."""
    return create(MSResNet, "ms_resnet18", IMAGENET | dict(blocks=(2, 2, 2, 2), init="ms"), pretrained, kwargs)


@register_model
def gac_ms_resnet34(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-34 for ImageNet with GAC (arXiv 2308.06582)."""
    return create(MSResNet, "gac_ms_resnet34", IMAGENET | dict(blocks=(3, 4, 6, 3), init="kaiming"), pretrained, kwargs)


@register_model
def ms_resnet34(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-34 (arXiv 2112.08954)."""
    return create(MSResNet, "ms_resnet34", IMAGENET | dict(blocks=(3, 4, 6, 3), init="ms"), pretrained, kwargs)


@register_model
def gac_ms_resnet104(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-104 with GAC: the network of arXiv 2112.08954 behind the encoder of arXiv 2308.06582 (ours)."""
    return create(MSResNet, "gac_ms_resnet104", IMAGENET | IMAGENET104 | dict(init="kaiming"), pretrained, kwargs)


@register_model
def ms_resnet104(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-104 (arXiv 2112.08954): blocks 3, 8, 32, 8, three 3x3 convolutions as stem, pooled shortcuts."""
    return create(MSResNet, "ms_resnet104", IMAGENET | IMAGENET104 | dict(init="ms"), pretrained, kwargs)
