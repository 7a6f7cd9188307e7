"""Training: settings, the engine, checkpoints, distributed runs, evaluation, rows of results."""

from gac_sj.training.analysis import analyse
from gac_sj.training.build import Data, build_model, generate_data, load_data
from gac_sj.training.distributed import World, join_world
from gac_sj.training.engine import InterruptedRunError, NonFiniteLossError, Training
from gac_sj.training.evaluation import Evaluation, evaluate
from gac_sj.training.results import (
    ANALYSED,
    KEY,
    MEASURED,
    PASSING,
    as_text,
    read_results,
    result_rows,
    run_key,
    train,
)
from gac_sj.training.settings import Settings, parse
from gac_sj.training.weights import fingerprint, load_network, read_weights

__all__ = [
    "ANALYSED",
    "KEY",
    "MEASURED",
    "PASSING",
    "Data",
    "Evaluation",
    "InterruptedRunError",
    "NonFiniteLossError",
    "Settings",
    "Training",
    "World",
    "analyse",
    "as_text",
    "build_model",
    "evaluate",
    "fingerprint",
    "generate_data",
    "join_world",
    "load_data",
    "load_network",
    "parse",
    "read_results",
    "read_weights",
    "result_rows",
    "run_key",
    "train",
]
