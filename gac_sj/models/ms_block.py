"""The residual block of MS-ResNet (arXiv 2112.08954) and Max-ResNet (arXiv 2505.18608)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj.models.drop_path import DropPath
from gac_sj.models.spiking_block import SpikingBlock
from gac_sj.nn.neuron import LIFNode
from gac_sj.nn.norm_add import norm_then_add
from gac_sj.nn.norm_lif import norm_then_fire
from gac_sj.ops.shortcuts import does_only

__all__ = ["MSBlock"]

DOWNSAMPLING = ("stride", "avg_shortcut", "max", "max_branch")


class MSBlock(SpikingBlock):
    """Twice neuron, convolution, BatchNorm, plus the shortcut of the membrane potential (MS-ResNet, arXiv 2112.08954).

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the branch and the shortcut.
        neuron: builds a neuron.
        downsample: how a stride above 1 is realised. "stride": by the first convolution and the shortcut's.
            "avg_shortcut": the same branch; the shortcut averages pixels before its convolution, which has stride 1
            (MS-ResNet-104). "max": both convolutions have stride 1, and a 3x3 max-pool with that stride follows their
            BatchNorms (ours). "max_branch": the same branch with a strided shortcut (Max-ResNet, arXiv 2505.18608,
            code).
        spike_driven: a convolutional shortcut receives the first neuron's spikes, not the membrane potential, and
            averages pixels behind its convolution, which gives the same result (ours).
        attention: applied to the branch before the sum, shape kept; None: none.
        drop_path: probability with which a sample loses the branch in training, at all steps.

    Shapes:
        ``[T, N, in_channels, H, W] -> [T, N, channels, H / stride, W / stride]``.

    Raises:
        UsageError: an unknown ``downsample``.
    """

    #: convolutions and the BatchNorms that follow them, for :func:`gac_sj.fold_batch_norm`
    foldable_pairs = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        neuron: Callable[[], LIFNode],
        downsample: str = "stride",
        spike_driven: bool = False,
        attention: nn.Module | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if downsample not in DOWNSAMPLING:
            raise UsageError(
                f"must be a way to downsample, got {downsample!r}", argument="downsample", options=DOWNSAMPLING
            )
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
        self.shortcut: nn.Module = nn.Identity()
        self.spike_shortcut = False
        if stride != 1 or in_channels != channels:
            self.spike_shortcut = spike_driven
            averages = [layer.AvgPool2d(stride, step_mode="m")] if downsample == "avg_shortcut" else []
            # means of spikes are not spikes, and a mean commutes with a convolution of one pixel
            before, after = ([], averages) if spike_driven else (averages, [])
            self.shortcut = nn.Sequential(
                *(before or [nn.Identity()]),
                conv(in_channels, channels, 1, 1 if pools_shortcut else stride),
                *after,
                norm(channels),
                max_pool() if downsample == "max" else nn.Identity(),
            )
        self.attention = nn.Identity() if attention is None else attention
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    @property
    def norm_lif_pairs(self) -> tuple[tuple[str, str], ...]:
        """BatchNorms and the neurons that directly follow them, one operator for each pair."""
        return (("bn1", "lif2"),) if does_only(self.pool, nn.Identity) else ()

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.lif1(x)
        y = self._convolve(self.conv1, spikes, self.lif1)
        inner = norm_then_fire(self.bn1, self.lif2, y) if self.norm_lif_pairs else self.lif2(self.pool(self.bn1(y)))
        y = self._convolve(self.conv2, inner, self.lif2)
        shortcut = self._convolve(self.shortcut, spikes, self.lif1) if self.spike_shortcut else self.shortcut(x)
        if does_only(self.attention, nn.Identity) and does_only(self.drop_path, nn.Identity):
            return norm_then_add(self.bn2, y, shortcut)
        return self.drop_path(self.attention(self.bn2(y))) + shortcut
