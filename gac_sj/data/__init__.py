"""Data sets, augmentation and loaders, in timm's manner and resumable."""

from gac_sj.data.augmentation import Augmentation, BatchAugmentation, train_transform
from gac_sj.data.datasets import DATASETS, CorruptImageError, DataSet, load_datasets
from gac_sj.data.events import EVENT_SETS
from gac_sj.data.loaders import EpochSampler, Loader, evaluation_loader, training_loader
from gac_sj.data.resident import ResidentLoader, read_images

__all__ = [
    "DATASETS",
    "EVENT_SETS",
    "Augmentation",
    "BatchAugmentation",
    "CorruptImageError",
    "DataSet",
    "EpochSampler",
    "Loader",
    "ResidentLoader",
    "evaluation_loader",
    "load_datasets",
    "read_images",
    "train_transform",
    "training_loader",
]
