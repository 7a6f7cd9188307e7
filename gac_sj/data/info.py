"""What a data set is: one record with everything that the rest of the package asks about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gac_sj._utils.errors import UsageError
from gac_sj.data.statistics import AUTO, as_numbers
from gac_sj.models.kinds import defaults_of

if TYPE_CHECKING:
    from gac_sj.data.datasets import DataSet

__all__ = ["DatasetInfo", "ReadDataset"]


class ReadDataset(Protocol):
    """A function that reads a data set."""

    def __call__(self, info: DatasetInfo, folder: Path | None, T: int, download: bool) -> tuple[DataSet, DataSet]:
        """Training and test set.

        Args:
            info: the record of the data set.
            folder: its folder; None where it needs none.
            T: frames per recording of an event data set.
            download: whether missing files may be downloaded, and recordings be cut into frames.
        """


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is.

    Args:
        name: in settings and on the command line.
        mean: per channel, of values in [0, 1].
        std: standard deviation per channel, of values in [0, 1].
        kind: "images" (PIL images), or "frames" (event counts ``[T, C, H, W]``).
        classes: number of classes; None where its folder or the network decides.
        size: height and width that a network receives; None: images are resized to what the network expects.
        folder: what its folder holds; None for a data set that needs no folder.
        default_folder: the folder where none is given; None: it must be given.
        source: "FILE:DIGEST" of the file of a user whose function returns it (:mod:`gac_sj.data.own`) and alone knows
            classes, kind and shape; None for the data sets of this package.
        read: the function that reads it; None for a data set that is not loaded by name.
        natural_size: height and width of its images as they are; None: they differ, or it is ``size``.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Literal["images", "frames"] = "images"
    classes: int | None = None
    size: tuple[int, int] | None = None
    folder: str | None = None
    default_folder: str | None = None
    source: str | None = None
    read: ReadDataset | None = field(default=None, repr=False, compare=False)
    natural_size: tuple[int, int] | None = None

    @property
    def channels(self) -> int:
        """Channels of an image or frame."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width that a network receives.

        Raises:
            LookupError: the network decides about the size (:meth:`for_network`).
        """
        if self.size is None:
            raise LookupError(f"The size of the images of {self.name} depends on the network.")
        return (self.channels, *self.size)

    @property
    def is_events(self) -> bool:
        """Whether items are sequences of event frames, not images."""
        return self.kind == "frames"

    def normalised(self, mean: str | None, std: str | None) -> DatasetInfo:
        """The record with other statistics (:mod:`gac_sj.data.statistics`).

        Args:
            mean: numbers as text; None and "auto" leave the record's.
            std: the same.

        Raises:
            UsageError: there is not one number for each channel.
        """
        texts = {"mean": mean, "std": std}
        given: dict[str, Any] = {
            name: as_numbers(text) for name, text in texts.items() if text is not None and text != AUTO
        }
        for name, values in given.items():
            if self.channels and len(values) != self.channels:
                raise UsageError(
                    f"must have {self.channels} numbers, one for each channel of {self.name!r}, got {len(values)}",
                    argument=name,
                )
        return replace(self, **given)

    def for_network(self, model: str, classes: int | None = None, size: tuple[int, int] | None = None) -> DatasetInfo:
        """The record with the size and the number of classes that a network trained on this data set has.

        Args:
            model: name of the network; its defaults replace what is None in the record. A network for images of any
                size gets the natural size, or 224 x 224 pixels.
            classes: number of classes, where it is known; None: the data set's, or the network's default.
            size: height and width that go over the record's and the network's.

        Returns:
            A record whose ``size`` and ``classes`` are not None.
        """
        default = defaults_of(model)
        if classes is None:
            classes = default.classes if self.classes is None else self.classes
        size = size or self.size or default.size or self.natural_size or (224, 224)
        return replace(self, classes=classes, size=size)
