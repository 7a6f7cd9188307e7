"""The data sets by name. Everything that the rest of the package asks about a data set is recorded here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gac_sj._utils.errors import UsageError
from gac_sj._utils.user_code import is_place
from gac_sj.data.datasets import DataSet
from gac_sj.data.events import read_cifar10_dvs, read_gesture
from gac_sj.data.images import IMAGE_FOLDER, read_cifar, read_digits, read_image_folder, read_synthetic
from gac_sj.data.info import DatasetInfo
from gac_sj.data.moving_shapes import read_moving_shapes
from gac_sj.data.own import own_info

__all__ = ["DATASETS", "DEFAULT_DATASET", "dataset_info", "load_datasets"]

#: The data set of a run where none is named.
DEFAULT_DATASET = "cifar10"

_FOLDER = DatasetInfo(
    "folder",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    folder=f"an image folder, {IMAGE_FOLDER}",
    read=read_image_folder,
)
_CIFAR10 = DatasetInfo(
    "cifar10",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    classes=10,
    folder=f"torchvision's folder of it, {IMAGE_FOLDER}, or a folder of archives of either",
    default_folder="data",
    read=read_cifar,
    natural_size=(32, 32),
)
_GESTURE = DatasetInfo(
    "dvs128_gesture",
    mean=(0.0, 0.0),
    std=(1.0, 1.0),
    kind="frames",
    classes=11,
    size=(128, 128),
    folder="SpikingJelly's folder of it, with download or events_np",
    read=read_gesture,
)

#: The record of each data set. Statistics of the digits are measured, those of CIFAR come from the published code of
#: GAC, and those of image folders are ImageNet's. Event counts are not normalised.
DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo("digits", mean=(0.3053,), std=(0.3760,), classes=10, size=(8, 8), read=read_digits),
        _CIFAR10,
        replace(_CIFAR10, name="cifar100", mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761), classes=100),
        replace(_FOLDER, name="imagenet"),
        _FOLDER,
        DatasetInfo("synthetic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), read=read_synthetic),
        _GESTURE,
        replace(_GESTURE, name="cifar10_dvs", classes=10, read=read_cifar10_dvs),
        replace(_GESTURE, name="moving_shapes", classes=8, size=(32, 32), folder=None, read=read_moving_shapes),
    )
}


def dataset_info(name: str, source: str | None = None) -> DatasetInfo:
    """The record of a data set.

    Args:
        name: a key of :data:`DATASETS`, or ``FILE.py:FUNCTION`` for a user's (:mod:`gac_sj.data.own`).
        source: the recorded name and digest of a user's file that was run before; None: it is run now.

    Raises:
        UsageError: there is no such data set; the message lists the names. Or see :func:`gac_sj.data.own.own_info`.
    """
    if is_place(name):
        return own_info(name, source)
    if name not in DATASETS:
        options = [*DATASETS, "FILE.py:FUNCTION"]
        raise UsageError(f"must be a data set, got {name!r}", argument="dataset", options=options, given=name)
    return DATASETS[name]


def load_datasets(
    dataset: str | DatasetInfo, data_dir: str | Path | None = None, T: int = 4, download: bool = True
) -> tuple[DataSet, DataSet]:
    """Training and test set.

    Args:
        dataset: a name (:func:`dataset_info`), or a record.
        data_dir: its folder (:attr:`DatasetInfo.folder`); None for data sets that need none or have a default.
        T: frames per recording of an event data set.
        download: whether CIFAR may be downloaded, and recordings be cut into frames.

    Raises:
        UsageError: an unknown name, a folder that is incomplete, not given, or not needed.
        OSError: a folder that cannot be read, a download that fails.
    """
    info = dataset_info(dataset) if isinstance(dataset, str) else dataset
    if info.read is None:
        raise UsageError(f"must be a data set that can be read, got {info.name!r}", argument="dataset")
    if info.folder is None and data_dir is not None:
        raise UsageError(f"must not be given for {info.name!r}, got {data_dir}", "leave it out", argument="data_dir")
    folder = info.default_folder if data_dir is None else data_dir
    if info.folder is not None and folder is None and info.source is None:
        raise UsageError(f"must be given for {info.name!r}: {info.folder}", argument="data_dir")
    return info.read(info, None if folder is None else Path(folder), T, download)
