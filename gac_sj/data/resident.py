"""The whole data set on the device: crop, flip and cutout as tensor operations. For data sets as small as CIFAR."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from gac_sj._utils.errors import UsageError
from gac_sj._utils.randomness import derive_seed
from gac_sj.data.augmentation import Augmentation
from gac_sj.data.datasets import DataSet
from gac_sj.data.image_files import convert
from gac_sj.data.sampler import EpochSampler

__all__ = ["ResidentEvaluationLoader", "ResidentTrainingLoader", "read_images"]


def read_images(dataset: DataSet, size: tuple[int, int], of_one_size: bool = False) -> tuple[Tensor, Tensor]:
    """All images, the shorter side resized and the centre cut out.

    Args:
        dataset: a data set of images.
        size: height and width of the result.
        of_one_size: refuse images of several sizes.

    Returns:
        Images as bytes ``[n, C, *size]`` and labels ``[n]``.

    Raises:
        CorruptImageError: an image cannot be read.
        UsageError: the data set has frames, or images of several sizes.
    """
    if dataset.is_events:
        raise UsageError(
            f"must not be 'resident' for {dataset.info.name!r}, whose items are event frames, not images",
            "use loader=standard",
            argument="loader",
        )
    resize = v2.Compose([v2.Resize(min(size), antialias=True), v2.CenterCrop(size)])
    images, labels = zip(*(dataset[item] for item in range(len(dataset))))
    other = next((item for item, image in enumerate(images) if image.size != images[0].size), None)
    if of_one_size and other is not None:
        (width, height), (first_width, first_height) = images[other].size, images[0].size
        raise UsageError(
            f"must not be 'resident' for images of several sizes, such as {first_width} x {first_height} pixels "
            f"(number 0 of {dataset.info.name!r}) and {width} x {height} (number {other})",
            "use loader=standard, which resizes each of them, or give img_size, the size that all get",
            argument="loader",
        )
    pixels = (v2.functional.pil_to_tensor(convert(image, dataset.mode)) for image in images)
    # neither changes an image of the size, and of many images both take longer than reading them
    return torch.stack([each if each.shape[1:] == size else resize(each) for each in pixels]), torch.tensor(labels)


class _ResidentImages:
    """Images and labels on the device.

    Args:
        images: bytes ``[n, C, H, W]``.
        labels: ``[n]``.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        device: where the images are kept.
    """

    #: No image is corrupt: all have been read before.
    corrupt: set[int] = set()

    def __init__(
        self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ):
        self.images, self.labels = images.to(device), labels.to(device)
        self.mean, self.std = (
            torch.tensor([255 * value for value in values], device=device).view(-1, 1, 1) for values in (mean, std)
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Bytes ``[N, C, H, W]`` -> normalised float32."""
        return images.float().sub_(self.mean).div_(self.std)


class ResidentEvaluationLoader(_ResidentImages):
    """Every image once, in order; the processes share them.

    Args:
        images: bytes ``[n, C, H, W]``.
        labels: ``[n]``.
        batch_size: images in a batch of one process.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        device: where the images are kept.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(images, labels, mean, std, device)
        self.items = torch.arange(rank, len(labels), world_size).split(batch_size)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for items in self.items:
            yield self.normalise(self.images[items]), self.labels[items]


class ResidentTrainingLoader(_ResidentImages):
    """Batches ``[N, C, H, W]``, normalised, and labels ``[N]``, in the order of the standard loader.

    It has the interface and the statistics of :func:`gac_sj.data.training_loader`: zero padding and a random crop,
    horizontal flip, a square of mean colour inside the image. Every draw is a function of seed, epoch and position.

    Args:
        images: bytes ``[n, C, H, W]``.
        labels: ``[n]``.
        batch_size: images in a batch of one process.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        device: where the images are kept.
        augmentation: its crop, crop_padding, hflip, cutout and repeats are used.
        seed: seed of order and augmentation.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        UsageError: there are fewer images than a batch has.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        augmentation: Augmentation,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.augmentation, self.seed, self.size = augmentation, seed, (int(images.shape[-2]), int(images.shape[-1]))
        self.padding = augmentation.crop_padding if augmentation.crop == "pad" else 0
        self.sampler = EpochSampler(labels, batch_size, seed, augmentation.repeats, rank, world_size)
        super().__init__(F.pad(images.to(device), [self.padding] * 4), labels, mean, std, device)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next pass yields.

        Args:
            epoch: counted from 0.
            start: the first batch of the pass.
        """
        self.sampler.set_epoch(epoch, start)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draws = _Draws(self, derive_seed(self.seed, "resident", self.sampler.epoch))
        # on the device at once: each copy of a batch would wait for the GPU
        keys = [[(key.item, key.position) for key in batch] for batch in self.sampler]
        places = torch.tensor(keys, dtype=torch.long, device=self.images.device)
        for batch in places:
            items, positions = batch.unbind(1)
            images, labels = self.images[items], self.labels[items]
            yield draws.cutout(self.normalise(draws.crop_and_flip(images, positions)), positions), labels


class _Draws:
    """The random numbers of one epoch, by position; drawn on the CPU, so that they are the same on every device.

    They then lie on the device, where a batch takes its own without waiting.
    """

    def __init__(self, loader: ResidentTrainingLoader, seed: int):
        augmentation, self.size, self.device = loader.augmentation, loader.size, loader.images.device
        count = len(loader.labels) * max(1, augmentation.repeats)
        generator = torch.Generator().manual_seed(seed)
        self.shift = torch.randint(0, 2 * loader.padding + 1, (count, 2), generator=generator).to(self.device)
        self.flip = (torch.rand(count, generator=generator) < augmentation.hflip).to(self.device)
        self.side = augmentation.cutout
        free = torch.tensor([length - self.side + 1 for length in self.size])
        self.corner = (torch.rand(count, 2, generator=generator) * free).long().to(self.device)

    def crop_and_flip(self, padded: Tensor, positions: Tensor) -> Tensor:
        """Gather every pixel ``[N, C, H, W]`` from its place in the padded image, in one step."""
        height, width = self.size
        y, x = self.shift[positions].unbind(1)
        rows = y[:, None] + torch.arange(height, device=self.device)
        columns = torch.arange(width, device=self.device).expand(len(padded), -1)
        columns = x[:, None] + torch.where(self.flip[positions][:, None], width - 1 - columns, columns)
        pixels = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
        pixels = pixels.flatten(1)[:, None].expand(-1, padded.shape[1], -1)
        return padded.flatten(2).gather(2, pixels).unflatten(2, self.size)

    def cutout(self, images: Tensor, positions: Tensor) -> Tensor:
        """Replace a square of each image by the mean colour, which is 0 here; in place."""
        if not self.side:
            return images
        inside = []
        for length, corner in zip(self.size, self.corner[positions].unbind(1)):
            offset = torch.arange(length, device=self.device) - corner[:, None]
            inside.append((offset >= 0) & (offset < self.side))
        return images.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
