"""Spikes and a gate with a number for each step and channel, in kernels; :mod:`gac_sj.ops.gated_lif` chooses them."""
