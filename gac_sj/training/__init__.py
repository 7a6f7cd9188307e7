"""Training: one epoch, and evaluation."""

from gac_sj.training.engine import evaluate, train_one_epoch

__all__ = ["evaluate", "train_one_epoch"]
