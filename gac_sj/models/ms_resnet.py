"""Membrane-shortcut residual networks (MS-ResNet, arXiv 2112.08954) behind an encoder.

A block adds to the membrane: ``x + BN(conv(LIF(BN(conv(LIF(x))))))``; no neuron follows the sum. The CIFAR and the
ImageNet networks differ in neuron, initialisation and stem, as the published codes of GAC and MS-ResNet do. Max-ResNet
(arXiv 2505.18608) is the CIFAR network with a third neuron and max-pooling in place of strides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from spikingjelly.activation_based import layer
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from gac_sj._utils.validation import positive, positives
from gac_sj.encoders import DEFAULT_ENCODER
from gac_sj.encoders.stem import conv_bn
from gac_sj.models.network import EncodedNetwork, SpikingBlock, build_encoder, create
from gac_sj.nn import membrane_attention

__all__ = ["MSBlock", "MSResNet"]

DOWNSAMPLING = ("stride", "avg_shortcut", "max", "max_branch")


class MSBlock(SpikingBlock):
    """Twice neuron, convolution, BatchNorm, plus the shortcut of the membrane potential (MS-ResNet, arXiv 2112.08954).

    Args:
        in_channels, channels: channels in and out.
        stride: of the branch and the shortcut.
        neuron: builds a neuron.
        downsample: what takes a stride above 1. "stride": the first convolution and the shortcut's. "avg_shortcut": the
            same branch; the shortcut averages pixels before its convolution, which then has stride 1 (MS-ResNet-104).
            "max": both convolutions have stride 1, and a 3x3 max-pool of that stride follows their BatchNorms (ours).
            "max_branch": so on the branch; the shortcut is strided (Max-ResNet, arXiv 2505.18608, code).
        spike_driven: a convolutional shortcut takes the first neuron's spikes in place of the membrane potential, and
            averages pixels behind its convolution, which is the same (ours).
        attention: what the branch passes before the sum, of the branch's shape; None: nothing.

    Shapes:
        ``[T, N, in_channels, H, W] -> [T, N, channels, H / stride, W / stride]``.

    Raises:
        ValueError: an unknown ``downsample``.
    """

    #: convolutions and the BatchNorms that follow them, for :func:`gac_sj.fold_batch_norm`
    foldable_pairs = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        neuron: Callable[[], nn.Module],
        downsample: str = "stride",
        spike_driven: bool = False,
        attention: nn.Module | None = None,
    ):
        super().__init__()
        if downsample not in DOWNSAMPLING:
            raise ValueError(f"downsample={downsample!r} does not exist; choose one of {', '.join(DOWNSAMPLING)}.")
        if stride == 1:
            downsample = "stride"  # nothing to pool
        pools_branch = downsample in ("max", "max_branch")
        pools_shortcut = downsample in ("max", "avg_shortcut")
        max_pool = partial(layer.MaxPool2d, 3, stride, 1, step_mode="m")
        conv = partial(layer.Conv2d, bias=False, step_mode="m")
        norm = partial(layer.BatchNorm2d, step_mode="m")
        self.lif1 = neuron()
        self.conv1 = conv(in_channels, channels, 3, 1 if pools_branch else stride, 1)
        self.bn1 = norm(channels)
        self.pool = max_pool() if pools_branch else nn.Identity()
        self.lif2 = neuron()
        self.conv2 = conv(channels, channels, 3, 1, 1)
        self.bn2 = norm(channels)
        self.shortcut = nn.Identity()
        self.spike_shortcut = False
        if stride != 1 or in_channels != channels:
            self.spike_shortcut = spike_driven
            averages = [layer.AvgPool2d(stride, step_mode="m")] if downsample == "avg_shortcut" else []
            # means of spikes are no spikes, and a mean commutes with a convolution of one pixel
            before, after = ([], averages) if spike_driven else (averages, [])
            self.shortcut = nn.Sequential(
                *(before or [nn.Identity()]),
                conv(in_channels, channels, 1, 1 if pools_shortcut else stride),
                *after,
                norm(channels),
                max_pool() if downsample == "max" else nn.Identity(),
            )
        self.attention = nn.Identity() if attention is None else attention

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.lif1(x)
        y = self.pool(self.bn1(self._convolve(self.conv1, spikes)))
        y = self.attention(self.bn2(self._convolve(self.conv2, self.lif2(y))))
        return y + (self._convolve(self.shortcut, spikes) if self.spike_shortcut else self.shortcut(x))


class MSResNet(EncodedNetwork):
    """A membrane-shortcut ResNet with an encoder in front. Step mode "m" only; each call starts from a reset state.

    Args:
        blocks: number of blocks per stage.
        channels: channels per stage.
        strides: stride of the first block of each stage.
        stem: "conv3" (3x3), "conv7" (7x7, stride 2) or "three" (three 3x3 with bias, the first of stride 2).
        stem_channels: channels of the encoder's sequence.
        neuron: name of the neuron preset, for the encoder as well.
        init: "cifar", "gac", "ms" or "att" (:meth:`init_weights`).
        downsample: "stride", "avg_shortcut", "max" or "max_branch" (:class:`MSBlock`).
        spike_driven: every layer behind the encoder receives spikes: the blocks' shortcuts (:class:`MSBlock`) and the
            classifier, which then runs on every pixel and is averaged, the same up to rounding. Not the published
            network: the shortcuts differ (:mod:`gac_sj.analysis.spike_driven`).
        block_attention: "TA", "CA", "SA", "TCA", "TSA", "CSA" or "TCSA": temporal, channel and spatial attention on the
            membrane potentials of every block's branch (:class:`gac_sj.nn.membrane_attention.MembraneAttention`); or
            "none".
        block_temporal_reduction, block_channel_reduction: reduction ratios of that attention.
        T: number of time steps, at least 1.
        num_classes: logits; 0 gives the pooled features.
        in_chans: channels of the images.
        encoder: one of :func:`gac_sj.list_encoders`.
        form: "reference" builds the network of the published code exactly: the published encoder, and neurons that
            fire above the threshold only. Other forms belong to encoders that have them.
        drop_rate: dropout in front of the classifier, one mask for all steps.
        encoder_options: further keywords of the encoder, such as ``gain``, ``output``, ``kernel_size``.

    Shapes:
        images ``[N, in_chans, H, W]`` or a sequence ``[T, N, in_chans, H, W]`` -> logits ``[N, num_classes]``.

    Raises:
        ValueError: an unknown encoder, stem, preset, downsampling or attention; the form "reference" with the neuron
            "sigmoid", which fires at the threshold; ``spike_driven`` with attention, which receives no spikes; a number
            out of its range; ``blocks``, ``channels`` and ``strides`` of different lengths; input of another shape (on
            the call).
        TypeError: a keyword that the encoder does not have.
    """

    def __init__(
        self,
        blocks: tuple[int, ...] = (3, 3, 2),
        channels: tuple[int, ...] = (128, 256, 512),
        strides: tuple[int, ...] = (1, 2, 2),
        stem: str = "conv3",
        stem_channels: int = 64,
        neuron: str = "cifar",
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
        **encoder_options: Any,
    ):
        super().__init__(T, num_classes)
        if spike_driven and block_attention != "none":
            raise ValueError(
                f"spike_driven and block_attention={block_attention!r} are given, and attention on membrane potentials "
                "receives no spikes; leave one out."
            )
        blocks = positives("blocks", blocks)
        channels, strides = positives("channels", channels), positives("strides", strides)
        if not len(blocks) == len(channels) == len(strides):
            raise ValueError(
                f"blocks, channels and strides are {blocks}, {channels} and {strides}; make them equally long."
            )
        positive("block_temporal_reduction", block_temporal_reduction)
        positive("block_channel_reduction", block_channel_reduction)
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate is {drop_rate}, a probability; give at least 0 and less than 1.")
        self.downsample = downsample
        self.spike_driven = spike_driven
        self.drop_rate = drop_rate
        self.num_features = self.head_hidden_size = channels[-1]
        self.encoder, make_neuron = build_encoder(
            encoder,
            form,
            neuron,
            encoder_options,
            T=T,
            in_channels=in_chans,
            channels=stem_channels,
            stem=_stem(stem, in_chans, stem_channels),
        )

        def block(channels_in: int, channels_out: int, stride: int) -> MSBlock:
            attention = membrane_attention.block_attention(
                block_attention, T, channels_out, block_temporal_reduction, block_channel_reduction
            )
            return MSBlock(channels_in, channels_out, stride, make_neuron, downsample, spike_driven, attention)

        stages, width = [], stem_channels
        for depth, out, stride in zip(blocks, channels, strides):
            firsts = [(width, stride)] + [(out, 1)] * (depth - 1)
            stages.append(nn.Sequential(*(block(i, out, s) for i, s in firsts)))
            width = out
        self.stages = nn.Sequential(*stages)
        self.lif = make_neuron()
        self.dropout = layer.Dropout(drop_rate, step_mode="m") if drop_rate else nn.Identity()
        self.head = self.new_head(num_classes)
        self.init_weights(init, preset_threshold=self.lif.v_threshold)

    @torch.no_grad()
    def init_weights(self, init: str, preset_threshold: float) -> None:
        """Initialise as the published codes do.

        "cifar" (GAC's CIFAR code) leaves PyTorch's defaults. "ms" (MS-ResNet) sets each BatchNorm's weight to the
        neuron's threshold, and to 0 at the end of each block. "gac" (GAC's ImageNet code) draws in addition all
        convolutions from Kaiming's normal distribution, fan-out. "att" (MA-SNN's ImageNet code) is "ms" with a fifth of
        the threshold at the end of each block: through 0 the ReLU of the attention would pass no gradient.
        """
        if init not in ("cifar", "ms", "gac", "att"):
            raise ValueError(f"The initialisation {init!r} does not exist; choose cifar, ms, gac or att.")
        if init == "cifar":
            return
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, preset_threshold)
            elif isinstance(module, nn.Conv2d) and init == "gac":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, MSBlock):
                nn.init.constant_(module.bn2.weight, 0.2 * preset_threshold if init == "att" else 0.0)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.lif(self.forward_stages(x))

    def pool(self, features: Tensor) -> Tensor:
        return features.mean((-2, -1))

    def _logits(self, features: Tensor) -> Tensor:
        if not self.spike_driven:
            return self.head(self.dropout(self.pool(features)))
        if self.training and self.drop_rate:  # one mask for all pixels, as behind the mean
            features = features * self.dropout(features.new_ones(features.shape[:3]))[..., None, None]
        return self.head(features.movedim(2, -1)).mean((2, 3))

    def new_head(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.head_hidden_size, num_classes) if num_classes > 0 else nn.Identity()


def _stem(name: str, in_channels: int, channels: int) -> nn.Sequential:
    if name == "conv3":
        return conv_bn(in_channels, channels)
    if name == "conv7":
        return conv_bn(in_channels, channels, kernel_size=7, stride=2)
    if name == "three":
        widths = [in_channels, channels, channels, channels]
        convs = [nn.Conv2d(i, o, 3, 1 if at else 2, 1) for at, (i, o) in enumerate(pairwise(widths))]
        return nn.Sequential(*convs, nn.BatchNorm2d(channels))
    raise ValueError(f"The stem {name!r} does not exist; choose conv3, conv7 or three.")


CIFAR18 = dict(blocks=(3, 3, 2), channels=(128, 256, 512))
_MAX18 = CIFAR18 | dict(neuron="sigmoid", downsample="max")
CIFAR8 = dict(blocks=(1, 1, 1), channels=(16, 32, 64), stem_channels=16)
IMAGENET = dict(channels=(64, 128, 256, 512), strides=(2, 2, 2, 2), stem="conv7", neuron="imagenet", num_classes=1000)
IMAGENET104 = dict(blocks=(3, 8, 32, 8), stem="three", downsample="avg_shortcut", drop_rate=0.2)


def cfg(**changes: Any) -> dict[str, Any]:
    return {"first_conv": "encoder.stem.0", "classifier": "head", "pool_size": None, **changes}


CIFAR_CFG = dict(
    num_classes=10,
    input_size=(3, 32, 32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    crop_pct=1.0,
)
default_cfgs = generate_default_cfgs(
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


def _create(variant: str, pretrained: bool, defaults: dict[str, Any], kwargs: dict[str, Any]) -> MSResNet:
    return create(MSResNet, variant, defaults, pretrained, kwargs)


@register_model
def gac_ms_resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """Small: what a CPU trains in minutes. Blocks 1, 1, 1 of 16, 32, 64 channels (ours)."""
    return _create("gac_ms_resnet8_cifar", pretrained, CIFAR8, kwargs)


@register_model
def ms_resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``gac_ms_resnet8_cifar`` with direct coding."""
    return _create("ms_resnet8_cifar", pretrained, CIFAR8, kwargs)


@register_model
def gac_ms_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """The CIFAR network of GAC (arXiv 2308.06582): blocks 3, 3, 2 of 128, 256, 512 channels."""
    return _create("gac_ms_resnet18_cifar", pretrained, CIFAR18, kwargs)


@register_model
def ms_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``gac_ms_resnet18_cifar`` with direct coding, the baseline of the published code."""
    return _create("ms_resnet18_cifar", pretrained, CIFAR18, kwargs)


@register_model
def gac_max_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``max_resnet18_cifar`` with GAC in front (ours).

    The first neuron behind the encoder is silent at initialisation, or nearly so: the gate on a spike is about 1, and
    this neuron needs more than 1 to fire. With the default form, T = 4 and 20 seeds its rate is 0 to 0.014, and 0 for
    ten of them; with direct coding it is 0.07. Later blocks fire; ``form="current"`` starts as direct coding does.
    """
    return _create("gac_max_resnet18_cifar", pretrained, _MAX18, kwargs)


@register_model
def max_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """Max-ResNet-18 (MaxFormer, NeurIPS 2025, arXiv 2505.18608; code bic-L/MaxFormer), with pooled shortcuts as well.

    ``ms_resnet18_cifar`` with max-pooling for strides and the neuron "sigmoid". The published code pools the branches
    only; ``downsample="max_branch"`` is that network.
    """
    return _create("max_resnet18_cifar", pretrained, _MAX18, kwargs)


@register_model
def gac_ms_resnet18(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-18 for ImageNet with GAC (arXiv 2308.06582)."""
    return _create("gac_ms_resnet18", pretrained, IMAGENET | dict(blocks=(2, 2, 2, 2), init="gac"), kwargs)


@register_model
def ms_resnet18(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-18 (arXiv 2112.08954)."""
    return _create("ms_resnet18", pretrained, IMAGENET | dict(blocks=(2, 2, 2, 2), init="ms"), kwargs)


@register_model
def gac_ms_resnet34(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-34 for ImageNet with GAC (arXiv 2308.06582)."""
    return _create("gac_ms_resnet34", pretrained, IMAGENET | dict(blocks=(3, 4, 6, 3), init="gac"), kwargs)


@register_model
def ms_resnet34(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-34 (arXiv 2112.08954)."""
    return _create("ms_resnet34", pretrained, IMAGENET | dict(blocks=(3, 4, 6, 3), init="ms"), kwargs)


@register_model
def gac_ms_resnet104(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-104 with GAC: the network of arXiv 2112.08954 behind the encoder of arXiv 2308.06582 (ours)."""
    return _create("gac_ms_resnet104", pretrained, IMAGENET | IMAGENET104 | dict(init="gac"), kwargs)


@register_model
def ms_resnet104(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-104 (arXiv 2112.08954): blocks 3, 8, 32, 8, three 3x3 convolutions as stem, pooled shortcuts."""
    return _create("ms_resnet104", pretrained, IMAGENET | IMAGENET104 | dict(init="ms"), kwargs)
