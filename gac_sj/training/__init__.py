"""How a run comes about: its settings, the engine, checkpoints, distributed processes, evaluation.

Only the settings are imported here: they import nothing of the engine, so that reading a saved run does not need it.
"""

from gac_sj.training.settings import Settings

__all__ = ["Settings"]
