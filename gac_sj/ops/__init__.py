"""Operators: one folder each, with the definition in plain PyTorch beside its fast paths."""
