"""Training: settings, the engine, checkpoints, distributed runs, evaluation, rows of results."""

from gac_sj.training.build import Data, build_model, generate_data, load_data
from gac_sj.training.distributed import World, join_world
from gac_sj.training.engine import InterruptedRunError, NonFiniteLossError, Training
from gac_sj.training.evaluation import Evaluation, evaluate
from gac_sj.training.results import KEY, MEASURED, as_text, read_results, result_rows, run_key, train
from gac_sj.training.settings import Settings, parse

__all__ = [
    "KEY",
    "MEASURED",
    "Data",
    "Evaluation",
    "InterruptedRunError",
    "NonFiniteLossError",
    "Settings",
    "Training",
    "World",
    "as_text",
    "build_model",
    "evaluate",
    "generate_data",
    "join_world",
    "load_data",
    "parse",
    "read_results",
    "result_rows",
    "run_key",
    "train",
]
