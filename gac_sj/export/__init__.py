"""Exports of trained networks: to hardware through NIR, to other runtimes through ONNX and ``torch.export``.

A gate multiplies by real numbers, so an encoder with a gate stays on the host; :func:`split` cuts behind it. The
backbone, built with ``spike_driven=True``, only adds weights where spikes arrive, as a neuromorphic chip does.
"""

from gac_sj.export.nir import to_nir
from gac_sj.export.onnx import to_onnx
from gac_sj.export.program import to_program
from gac_sj.export.split import split

__all__ = ["split", "to_nir", "to_onnx", "to_program"]
