"""Whole networks as ONNX, checked with onnxruntime."""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor, nn

from gac_sj.encoders.base import Encoder
from gac_sj.export.checks import reason, require, run, writable, write
from gac_sj.export.program import to_program

__all__ = ["to_onnx"]


def to_onnx(model: nn.Module, path: str | os.PathLike, example: Tensor, *, tolerance: float = 1e-4) -> None:
    """Write a network as ONNX, T unrolled, input "images", output "logits", for batches of any size.

    An encoder alone, for the host, has the output "sequence". The file is one, weights included, up to ONNX's 2 GB.
    Before it is written, onnxruntime runs it on the example. Another runtime rounds otherwise, and a potential that
    meets its threshold within a rounding then fires or does not: an image of that kind differs by whole spikes. An
    untrained gate of the forms "unit_gate" and "low_threshold" is 1 but for thousandths and makes many of them.

    Example::

        to_onnx(model.eval(), "model.onnx", images)
        session = onnxruntime.InferenceSession("model.onnx")
        (logits,) = session.run(None, {"images": other_images.numpy()})

    Args:
        model, example: see :func:`gac_sj.export.to_program`.
        path: of the file, ``.onnx``.
        tolerance: the largest difference of the output on the example, at least 0.

    Raises:
        ValueError: as :func:`gac_sj.export.to_program`; an operator that ONNX lacks, as that of the pixel encoders
            ("poisson", "latency", "weighted_phase"); more than one output; a type that onnxruntime cannot run, as
            float64; the extra ``onnx`` is missing; onnxruntime's output differs; a tolerance below 0.
    """
    path = writable(path)
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; it is a difference; give a number from 0.")
    _, _, onnxruntime = require("onnx", "onnx", "onnxscript", "onnxruntime")
    expected = run(model, example)
    if not isinstance(expected, Tensor):
        raise ValueError(f"{type(model).__name__} puts out more than a tensor; an ONNX file has one output here.")
    program = to_program(model, example)
    output = "sequence" if isinstance(model, Encoder) else "logits"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporter itself
            converted = torch.onnx.export(
                program,
                input_names=["images"],
                output_names=[output],
                dynamic_shapes=({example.dim() - 4: "batch"},),  # its name; the program has it already
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise ValueError(
            f"ONNX cannot express {type(model).__name__} ({reason(cause.__cause__ or cause)}); use to_program, or give "
            "what is behind the encoder (gac_sj.export.split)."
        ) from error
    content = converted.model_proto.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (found,) = session.run([output], {"images": example.detach().cpu().numpy()})
    except Exception as error:  # onnxruntime's have no base of their own
        raise ValueError(
            f"onnxruntime cannot run {type(model).__name__} in {example.dtype} ({reason(error)}); export float32: "
            "model.float(), example.float()."
        ) from error
    difference = (torch.from_numpy(found) - expected.cpu()).abs().max().item()
    if not difference <= tolerance:
        raise ValueError(
            f"onnxruntime's output differs by {difference:.2g} on the example, more than {tolerance:g}, so nothing "
            "was written; a spike near the threshold may have flipped: give other images, or a larger tolerance."
        )
    write(path, content)
