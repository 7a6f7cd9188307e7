"""Membrane-shortcut residual networks (MS-ResNet, arXiv 2112.08954) behind an encoder.

A block adds to the membrane: ``x + BN(conv(LIF(BN(conv(LIF(x))))))``; no neuron follows the sum. The CIFAR and the
ImageNet networks differ in neuron, initialisation and stem, as the published codes of GAC and MS-ResNet do. Max-ResNet
(arXiv 2505.18608) is the CIFAR network with a third neuron and max-pooling in place of strides.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain, pairwise
from typing import Any

import torch
from spikingjelly.activation_based import base, layer
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gac_sj.encoding import ENCODERS, create_encoder
from gac_sj.models.spike_bytes import spikes_as_bytes
from gac_sj.neuron import preset, reset_states
from gac_sj.stem import conv_bn

__all__ = ["MSBlock", "MSResNet"]

DOWNSAMPLING = ("stride", "avg_shortcut", "max", "max_branch")


class MSBlock(nn.Module):
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

    Shapes:
        ``[T, N, in_channels, H, W] -> [T, N, channels, H / stride, W / stride]``.

    Raises:
        ValueError: an unknown ``downsample``.
    """

    #: whether the convolutions keep their spikes for the backward pass as bytes; compiled code cannot
    spikes_as_bytes = False

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        neuron: Callable[[], nn.Module],
        downsample: str = "stride",
        spike_driven: bool = False,
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

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.lif1(x)
        y = self.pool(self.bn1(self._convolve(self.conv1, spikes)))
        y = self.bn2(self._convolve(self.conv2, self.lif2(y)))
        return y + (self._convolve(self.shortcut, spikes) if self.spike_shortcut else self.shortcut(x))

    def _convolve(self, layers: nn.Module, spikes: Tensor) -> Tensor:
        # a surrogate that does not spike puts out other numbers than zeros and ones
        as_bytes = self.spikes_as_bytes and self.lif1.surrogate_function.spiking
        with spikes_as_bytes(spikes) if as_bytes else nullcontext():
            return layers(spikes)


class MSResNet(nn.Module, base.MultiStepModule):
    """A membrane-shortcut ResNet with an encoder in front. Step mode "m" only; each call starts from a reset state.

    Args:
        blocks: number of blocks per stage.
        channels: channels per stage.
        strides: stride of the first block of each stage.
        stem: "conv3" (3x3), "conv7" (7x7, stride 2) or "three" (three 3x3 with bias, the first of stride 2).
        stem_channels: channels of the encoder's sequence.
        neuron: name of the neuron preset, for the encoder as well.
        init: "cifar", "gac" or "ms" (:meth:`init_weights`).
        downsample: "stride", "avg_shortcut", "max" or "max_branch" (:class:`MSBlock`).
        spike_driven: every layer behind the encoder receives spikes: the blocks' shortcuts (:class:`MSBlock`) and the
            classifier, which then runs on every pixel and is averaged, the same up to rounding. Not the published
            network: the shortcuts differ (:mod:`gac_sj.analysis.spike_driven`).
        T: number of time steps, at least 1.
        num_classes: logits; 0 gives the pooled features.
        in_chans: channels of the images.
        encoder: a name in :data:`gac_sj.encoding.ENCODERS`.
        recipe: "reference" builds the network of the published code exactly: the published encoder, and neurons that
            fire above the threshold only. Other recipes (:data:`gac_sj.encoding.RECIPES`) belong to the encoder "gac".
        drop_rate: dropout in front of the classifier, one mask for all steps.
        encoder_options: further keywords of the encoder, such as ``gain``, ``output``, ``kernel_size``.

    Shapes:
        images ``[N, in_chans, H, W]`` or a sequence ``[T, N, in_chans, H, W]`` -> logits ``[N, num_classes]``.

    Raises:
        ValueError: an unknown encoder, stem, preset or downsampling; the recipe "reference" with the neuron "sigmoid",
            which fires at the threshold; T below 1; input of another shape (on the call).
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
        T: int = 4,
        num_classes: int = 10,
        in_chans: int = 3,
        encoder: str = "gac",
        recipe: str | None = None,
        drop_rate: float = 0.0,
        **encoder_options: Any,
    ):
        super().__init__()
        self.step_mode = "m"
        self.downsample = downsample
        self.spike_driven = spike_driven
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.T = T
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = channels[-1]
        if encoder == "gac" and recipe is not None:
            encoder_options["recipe"] = recipe
        elif recipe not in (None, "reference"):
            raise ValueError(f"The recipe {recipe!r} is one of the encoder 'gac', not of {encoder!r}; leave it out.")
        make_neuron = partial(preset, neuron, strict=recipe == "reference")
        if encoder == "gac":
            encoder_options["neuron"] = neuron  # the recipe changes it
        elif encoder in ("direct_lif", "direct_matched"):
            encoder_options["neuron"] = make_neuron()
        self.encoder = create_encoder(
            encoder,
            T=T,
            in_channels=in_chans,
            channels=stem_channels,
            stem=_stem(stem, in_chans, stem_channels),
            **encoder_options,
        )
        stages, width = [], stem_channels
        for depth, out, stride in zip(blocks, channels, strides, strict=True):
            firsts = [(width, stride)] + [(out, 1)] * (depth - 1)
            stages.append(
                nn.Sequential(*(MSBlock(i, out, s, make_neuron, downsample, spike_driven) for i, s in firsts))
            )
            width = out
        self.stages = nn.Sequential(*stages)
        self.lif = make_neuron()
        self.dropout = layer.Dropout(drop_rate, step_mode="m") if drop_rate else nn.Identity()
        self.head = _head(width, num_classes)
        self.init_weights(init, preset_threshold=self.lif.v_threshold)

    @torch.no_grad()
    def init_weights(self, init: str, preset_threshold: float) -> None:
        """Initialise as the published codes do.

        "cifar" (GAC's CIFAR code) leaves PyTorch's defaults. "ms" (MS-ResNet) sets each BatchNorm's weight to the
        neuron's threshold, and to 0 at the end of each block. "gac" (GAC's ImageNet code) draws in addition all
        convolutions from Kaiming's normal distribution, fan-out.
        """
        if init not in ("cifar", "ms", "gac"):
            raise ValueError(f"The initialisation {init!r} does not exist; choose cifar, ms or gac.")
        if init == "cifar":
            return
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, preset_threshold)
            elif isinstance(module, nn.Conv2d) and init == "gac":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, MSBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """Spikes of the last neuron, ``[T, N, num_features, h, w]``."""
        reset_states(self)
        x = self.encoder(x)
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return self.lif(self.stages(x))
        for block in chain.from_iterable(self.stages):
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_recompute, block))
        return self.lif(x)

    def set_spikes_as_bytes(self, enable: bool = True) -> None:
        """Keep spikes for the backward pass as one byte each; the results are the same."""
        for module in self.modules():
            if isinstance(module, MSBlock):
                module.spikes_as_bytes = enable

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep the input of each block only, and run the block again in the backward pass (timm's name for it)."""
        self.grad_checkpointing = enable

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[N, num_classes]``, averaged over time; ``pre_logits``: pooled features ``[T, N, num_features]``."""
        return features.mean((-2, -1)) if pre_logits else self._logits(features).mean(0)

    def forward_sequence(self, x: Tensor) -> Tensor:
        """Logits of every step, ``[T, N, num_classes]``."""
        return self._logits(self.forward_features(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _logits(self, features: Tensor) -> Tensor:
        """``[T, N, num_features, h, w]`` -> ``[T, N, num_classes]``."""
        if not self.spike_driven:
            return self.head(self.dropout(features.mean((-2, -1))))
        if self.training and self.drop_rate:  # one mask for all pixels, as behind the mean
            features = features * self.dropout(features.new_ones(features.shape[:3]))[..., None, None]
        return self.head(features.movedim(2, -1)).mean((2, 3))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new, randomly initialised classifier; 0 classes removes it. The pooling is always the mean.

        Raises:
            ValueError: ``global_pool`` asks for anything else than "avg".
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is {global_pool!r}; an MS-ResNet averages over pixels; leave it out.")
        self.num_classes = num_classes
        weight = next(self.parameters())
        self.head = _head(self.num_features, num_classes).to(weight.device, weight.dtype)

    def extra_repr(self) -> str:
        return f"T={self.T}, num_classes={self.num_classes}"


class _Again:
    """Around a block's second run: it starts from the same state, and its BatchNorms count no batch."""

    def __init__(self, block: nn.Module):
        self.block = block

    def __enter__(self) -> None:
        reset_states(self.block)
        self.norms = [module for module in self.block.modules() if isinstance(module, _BatchNorm)]
        self.before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def _recompute(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of a block's first and further runs."""
    return nullcontext(), _Again(block)


def _head(features: int, num_classes: int) -> nn.Module:
    return nn.Linear(features, num_classes) if num_classes > 0 else nn.Identity()


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


_CIFAR18 = dict(blocks=(3, 3, 2), channels=(128, 256, 512))
_MAX18 = _CIFAR18 | dict(neuron="sigmoid", downsample="max")
_CIFAR8 = dict(blocks=(1, 1, 1), channels=(16, 32, 64), stem_channels=16)
_IMAGENET = dict(channels=(64, 128, 256, 512), strides=(2, 2, 2, 2), stem="conv7", neuron="imagenet", num_classes=1000)
_IMAGENET104 = dict(blocks=(3, 8, 32, 8), stem="three", downsample="avg_shortcut", drop_rate=0.2)


def _cfg(**changes: Any) -> dict[str, Any]:
    return {"first_conv": "encoder.stem.0", "classifier": "head", "pool_size": None, **changes}


_CIFAR_CFG = dict(
    num_classes=10,
    input_size=(3, 32, 32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    crop_pct=1.0,
)
default_cfgs = generate_default_cfgs(
    {
        f"{prefix}{name}": _cfg(**cfg)
        for prefix in ("gac_", "")
        for name, cfg in {
            "ms_resnet8_cifar": _CIFAR_CFG,
            "ms_resnet18_cifar": _CIFAR_CFG,
            "max_resnet18_cifar": _CIFAR_CFG,
            "ms_resnet18": {},
            "ms_resnet34": {},
            "ms_resnet104": {},
        }.items()
    }
)


def _create(variant: str, pretrained: bool, defaults: dict[str, Any], kwargs: dict[str, Any]) -> MSResNet:
    kwargs = defaults | {"encoder": "gac" if variant.startswith("gac_") else "direct"} | kwargs
    encoder = ENCODERS.get(kwargs["encoder"])
    if encoder is not None and encoder.needs_unit_range:
        # timm's data pipeline then leaves the pixels in [0, 1]
        overlay = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        kwargs["pretrained_cfg_overlay"] = (kwargs.get("pretrained_cfg_overlay") or {}) | overlay
    return build_model_with_cfg(MSResNet, variant, pretrained, **kwargs)


@register_model
def gac_ms_resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """Small: what a CPU trains in minutes. Blocks 1, 1, 1 of 16, 32, 64 channels (ours)."""
    return _create("gac_ms_resnet8_cifar", pretrained, _CIFAR8, kwargs)


@register_model
def ms_resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``gac_ms_resnet8_cifar`` with direct coding."""
    return _create("ms_resnet8_cifar", pretrained, _CIFAR8, kwargs)


@register_model
def gac_ms_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """The CIFAR network of GAC (arXiv 2308.06582): blocks 3, 3, 2 of 128, 256, 512 channels."""
    return _create("gac_ms_resnet18_cifar", pretrained, _CIFAR18, kwargs)


@register_model
def ms_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``gac_ms_resnet18_cifar`` with direct coding, the baseline of the published code."""
    return _create("ms_resnet18_cifar", pretrained, _CIFAR18, kwargs)


@register_model
def gac_max_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``max_resnet18_cifar`` with GAC in front (ours).

    The first neuron behind the encoder is silent at initialisation, or nearly so: the gate on a spike is about 1, and
    this neuron needs more than 1 to fire. With the default recipe, T = 4 and 20 seeds its rate is 0 to 0.014, and 0 for
    ten of them; with direct coding it is 0.07. Later blocks fire; ``recipe="current"`` starts as direct coding does.
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
    return _create("gac_ms_resnet18", pretrained, _IMAGENET | dict(blocks=(2, 2, 2, 2), init="gac"), kwargs)


@register_model
def ms_resnet18(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-18 (arXiv 2112.08954)."""
    return _create("ms_resnet18", pretrained, _IMAGENET | dict(blocks=(2, 2, 2, 2), init="ms"), kwargs)


@register_model
def gac_ms_resnet34(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-34 for ImageNet with GAC (arXiv 2308.06582)."""
    return _create("gac_ms_resnet34", pretrained, _IMAGENET | dict(blocks=(3, 4, 6, 3), init="gac"), kwargs)


@register_model
def ms_resnet34(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-34 (arXiv 2112.08954)."""
    return _create("ms_resnet34", pretrained, _IMAGENET | dict(blocks=(3, 4, 6, 3), init="ms"), kwargs)


@register_model
def gac_ms_resnet104(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-104 with GAC: the network of arXiv 2112.08954 behind the encoder of arXiv 2308.06582 (ours)."""
    return _create("gac_ms_resnet104", pretrained, _IMAGENET | _IMAGENET104 | dict(init="gac"), kwargs)


@register_model
def ms_resnet104(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """MS-ResNet-104 (arXiv 2112.08954): blocks 3, 8, 32, 8, three 3x3 convolutions as stem, pooled shortcuts."""
    return _create("ms_resnet104", pretrained, _IMAGENET | _IMAGENET104 | dict(init="ms"), kwargs)
