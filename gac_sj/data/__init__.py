"""Data sets."""

from gac_sj.data.image_sets import DATASETS, ImageSet, load_image_sets

__all__ = ["DATASETS", "ImageSet", "load_image_sets"]
