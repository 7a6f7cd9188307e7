"""What layers are made of: the paper's formulas, attention, neurons, surrogate functions, normalisation."""
