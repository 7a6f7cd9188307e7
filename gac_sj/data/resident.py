"""The whole set on the device: crop, flip and cutout as tensor operations. For sets as small as CIFAR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from gac_sj._utils.randomness import derive_seed
from gac_sj.data.augmentation import Augmentation
from gac_sj.data.datasets import DataSet
from gac_sj.data.loaders import EpochSampler

__all__ = ["ResidentLoader", "read_images"]


def read_images(dataset: DataSet, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """All images as bytes ``[n, C, *size]``, the shorter side resized and the centre cut out, and labels ``[n]``.

    Raises:
        CorruptImageError: one that cannot be read.
        ValueError: a set of frames.
    """
    if dataset.is_events:
        raise ValueError("The resident loader holds images, and this data set has frames; use loader=standard.")
    fit = v2.Compose([v2.PILToTensor(), v2.Resize(min(size), antialias=True), v2.CenterCrop(size)])
    mode = "L" if dataset.channels == 1 else "RGB"
    images, labels = zip(*(dataset[item] for item in range(len(dataset))))
    return torch.stack([fit(image.convert(mode)) for image in images]), torch.tensor(labels)


class ResidentLoader:
    """Batches ``[N, C, H, W]``, normalised, and labels ``[N]`` from images that lie on the device.

    It has the interface and the statistics of :class:`gac_sj.data.Loader`: zero padding and a random crop, horizontal
    flip, a square of mean colour inside the image. Every draw is a function of seed, epoch and position.

    Args:
        images: bytes ``[n, C, H, W]``.
        labels: ``[n]``.
        batch_size: of one process.
        mean, std: per channel, of values in [0, 1].
        device: where the images are kept.
        augmentation: crop, crop_padding, hflip, cutout and repeats; None: every image once, in order.
        seed, rank, world_size: as for :class:`gac_sj.data.EpochSampler`.

    Raises:
        ValueError: fewer images than a batch.
    """

    corrupt: set[int] = set()

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.labels, self.size = labels.to(device), images.shape[-2:]
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.mean, self.std = (
            torch.tensor([255 * value for value in values], device=device).view(-1, 1, 1) for values in (mean, std)
        )
        self.augmentation, self.sampler, self.padding = augmentation, None, 0
        if augmentation is not None:
            self.padding = augmentation.crop_padding if augmentation.crop == "pad" else 0
            self.sampler = EpochSampler(labels, batch_size, seed, augmentation.repeats, rank, world_size)
        self.images = F.pad(images.to(device), [self.padding] * 4)

    def __len__(self) -> int:
        if self.sampler is None:
            return -(-len(range(self.rank, len(self.labels), self.world_size)) // self.batch_size)
        return len(self.sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.sampler.set_epoch(epoch, start)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.sampler is None:
            for items in torch.arange(self.rank, len(self.labels), self.world_size).split(self.batch_size):
                yield self._normalise(self.images[items]), self.labels[items]
            return
        draw = _Draws(self, derive_seed(self.seed, "resident", self.sampler.epoch))
        for places in self.sampler:
            items = torch.tensor([place.item for place in places])
            positions = torch.tensor([place.position for place in places])
            images, labels = self.images[items], self.labels[items]
            yield draw.cutout(self._normalise(draw.crop_and_flip(images, positions)), positions), labels

    def _normalise(self, images: Tensor) -> Tensor:
        return images.float().sub_(self.mean).div_(self.std)


class _Draws:
    """The random numbers of one epoch, by position; drawn on the CPU, so that they are the same on every device."""

    def __init__(self, loader: ResidentLoader, seed: int):
        how, self.size, self.device = loader.augmentation, loader.size, loader.images.device
        count = len(loader.labels) * max(1, how.repeats)
        generator = torch.Generator().manual_seed(seed)
        self.shift = torch.randint(0, 2 * loader.padding + 1, (count, 2), generator=generator)
        self.flip = torch.rand(count, generator=generator) < how.hflip
        self.side = how.cutout
        free = torch.tensor([length - self.side + 1 for length in self.size])
        self.corner = (torch.rand(count, 2, generator=generator) * free).long()

    def crop_and_flip(self, padded: Tensor, positions: Tensor) -> Tensor:
        """Gathers every pixel ``[N, C, H, W]`` from where it lies in the padded image, in one step."""
        height, width = self.size
        y, x = self.shift[positions].to(self.device).unbind(1)
        rows = y[:, None] + torch.arange(height, device=self.device)
        columns = torch.arange(width, device=self.device).expand(len(padded), -1)
        columns = x[:, None] + torch.where(self.flip[positions].to(self.device)[:, None], width - 1 - columns, columns)
        pixels = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
        pixels = pixels.flatten(1)[:, None].expand(-1, padded.shape[1], -1)
        return padded.flatten(2).gather(2, pixels).unflatten(2, self.size)

    def cutout(self, images: Tensor, positions: Tensor) -> Tensor:
        if not self.side:
            return images
        inside = []
        for length, corner in zip(self.size, self.corner[positions].to(self.device).unbind(1)):
            offset = torch.arange(length, device=self.device) - corner[:, None]
            inside.append((offset >= 0) & (offset < self.side))
        return images.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
