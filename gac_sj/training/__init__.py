"""How a run comes about: its settings, the engine, checkpoints, distributed processes, evaluation.

Nothing is imported here, so that :mod:`gac_sj.training.settings` can be read without the engine.
"""
