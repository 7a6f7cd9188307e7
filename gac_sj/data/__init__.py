"""Data sets, augmentation and loaders, in timm's manner and resumable."""

from gac_sj.data.augmentation import Augmentation, BatchAugmentation, train_transform
from gac_sj.data.datasets import CorruptImageError, DataSet
from gac_sj.data.images import generate_images
from gac_sj.data.info import DatasetInfo
from gac_sj.data.loaders import Loader, evaluation_loader, training_loader
from gac_sj.data.protocols import BatchLoader, EpochLoader
from gac_sj.data.registry import DATASETS, DEFAULT_DATASET, dataset_info, load_datasets
from gac_sj.data.resident import ResidentEvaluationLoader, ResidentTrainingLoader, read_images
from gac_sj.data.sampler import EpochSampler, SampleKey

__all__ = [
    "DATASETS",
    "DEFAULT_DATASET",
    "Augmentation",
    "BatchAugmentation",
    "BatchLoader",
    "CorruptImageError",
    "DataSet",
    "DatasetInfo",
    "EpochLoader",
    "EpochSampler",
    "Loader",
    "ResidentEvaluationLoader",
    "ResidentTrainingLoader",
    "SampleKey",
    "dataset_info",
    "evaluation_loader",
    "generate_images",
    "load_datasets",
    "read_images",
    "train_transform",
    "training_loader",
]
