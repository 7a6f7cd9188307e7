"""How the kernels divide a sequence of feature maps into segments, each with the sums of its channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gac_sj.ops.launching import Launch
from gac_sj.ops.source import Macros

__all__ = ["Layout", "dense", "pays"]

# pixels of a segment of channels_last memory: on a CPU it stays in a cache while a kernel runs over it twice, and is
# long enough for its sums to be few; a GPU needs many threads
_PIXELS, _ELEMENTS, _PIXELS_OF_GPU = 64, 4096, 16
_STRANDS, _STRANDS_OF_CPU = 32, 1  # threads that share a segment of contiguous memory
_MOST_CHANNELS = 256  # of channels_last memory; see :func:`pays`


def dense(x_seq: Tensor) -> Tensor:
    """A sequence ``[T, N, C, H, W]`` whose steps follow one another, each contiguous or channels_last; or its copy.

    Args:
        x_seq: a sequence.
    """
    memory = torch.channels_last if _is_channels_last(x_seq) else torch.contiguous_format
    return x_seq.flatten(0, 1).contiguous(memory_format=memory).unflatten(0, x_seq.shape[:2])


def _is_channels_last(x_seq: Tensor) -> bool:
    step = x_seq[0]
    return not step.is_contiguous() and step.is_contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Layout:
    """The division of a sequence (``channels.cuh`` explains it).

    Args:
        channels: number of channels.
        channels_last: whether the channels of a pixel are neighbours in memory; those of a single pixel always are.
        segment: number of elements of a segment.
        strands: maximum number of threads that share a segment of contiguous memory.
    """

    channels: int
    channels_last: bool
    segment: int
    strands: int

    @classmethod
    def of(cls, sequence: Tensor) -> Layout:
        """The division of what :func:`dense` makes of ``[T, N, C, H, W]``."""
        channels, pixels = sequence.shape[2], sequence.shape[3:].numel()
        strands = _STRANDS if sequence.is_cuda else _STRANDS_OF_CPU
        if pixels > 1 and not _is_channels_last(sequence):
            return cls(channels, False, pixels, strands)
        neighbours = _PIXELS_OF_GPU if sequence.is_cuda else max(_PIXELS, _ELEMENTS // channels)
        return cls(channels, True, neighbours * channels, strands)

    @property
    def unit(self) -> int:
        """Number of neighbours of which each pack has a part."""
        return self.channels if self.channels_last else self.segment

    @property
    def macros(self) -> Macros:
        """Those of ``channels.cuh``."""
        return ("CHANNELS_LAST", int(self.channels_last)), ("STRANDS", self.strands)

    def launch(self, sequence: Tensor, held: int = 1) -> Launch:
        """The launch configuration.

        Args:
            sequence: one of the tensors.
            held: number of values that a thread keeps in registers for each step.
        """
        neurons = sequence[0].numel()
        items = -(-sequence.numel() // self.segment) * (self.channels if self.channels_last else self.strands)
        # long runs of neighbours, because the next pixel is far away, as long as all steps fit into a cache
        lanes = 128 if self.channels_last and len(sequence) <= 16 else 16
        return Launch(sequence, neurons, max_threads=max(1, items), held=held, unit=self.unit, cpu_lanes=lanes)

    def sums(self, size: int, count: int, like: Tensor) -> Tensor:
        """Memory for numbers of every segment and channel, ``[count, segments, *]``.

        Args:
            size: number of elements that the kernel divides: those of the sequence, or of one step.
            count: number of numbers.
            like: a tensor on the same device.
        """
        shape = count, -(-size // self.segment), self.channels if self.channels_last else self.strands
        return like.new_zeros(shape, dtype=torch.float32)

    def by_channel(self, sums: Tensor) -> Tensor:
        """The numbers of :meth:`sums` in float64, ``[count, items of a channel, C]``."""
        if not self.channels_last:
            count = len(sums)
            sums = sums.view(count, -1, self.channels, self.strands).movedim(2, -1).reshape(count, -1, self.channels)
        return sums.double()


def pays(x_seq: Tensor) -> bool:
    """Whether the kernels have measured faster than BatchNorm and the neuron one after the other, on a CPU.

    They do not where few neighbours in memory share their channels: fewer than 8 pixels or channels that a vector takes
    (7 x 7 pixels are an odd number), or many channels of channels_last memory, whose pixels are far apart.

    Args:
        x_seq: ``[T, N, C, H, W]``.
    """
    if not x_seq.numel():
        return False
    layout = Layout.of(x_seq)
    return layout.unit % 8 == 0 and not (layout.channels_last and layout.channels > _MOST_CHANNELS)
