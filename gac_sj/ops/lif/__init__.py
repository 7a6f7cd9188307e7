"""The leaky integrate-and-fire neuron over a sequence."""

from gac_sj.ops.lif.reference import lif

__all__ = ["lif"]
