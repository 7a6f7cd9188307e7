"""Whole networks as ONNX, compared with onnxruntime."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.encoders.base import Encoder
from gac_sj.export.checks import check_writable, import_extra, run_example, write
from gac_sj.export.program import export_program

__all__ = ["to_onnx"]


def to_onnx(model: nn.Module, path: str | os.PathLike[str], example: Tensor, *, tolerance: float = 1e-4) -> None:
    """Write a network as ONNX, T unrolled, with input "images" and output "logits", for batches of any size.

    An encoder alone, for the host, has the output "sequence". One file contains everything, weights included, up to
    ONNX's limit of 2 GB. Before it is written, onnxruntime runs it on the example. Another runtime rounds differently,
    so a potential within a rounding error of its threshold may fire there and not here: such an image differs by whole
    spikes. An untrained gate of the forms "unit_gate" and "low_threshold" is within thousandths of 1 and produces many
    of them. Integer weights (:func:`gac_sj.quantize`) are int8 with one scale for each output channel, in front of a
    ``DequantizeLinear``; with 16 bits two planes of them.

    Example::

        to_onnx(model.eval(), "model.onnx", images)
        session = onnxruntime.InferenceSession("model.onnx")
        (logits,) = session.run(None, {"images": other_images.numpy()})

    Args:
        model: a network in evaluation mode, or an encoder.
        path: path of the file, ``.onnx``.
        example: images ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]``, on the model's device. Other batches may
            differ from it in N only.
        tolerance: largest difference of the output on the example, at least 0.

    Raises:
        UsageError: see :func:`gac_sj.export.to_program`; an operator that ONNX lacks, such as that of the encoders of
            pixels (Poisson, latency, weighted phase); more than one output; a type that onnxruntime cannot run, such as
            float64; the extra ``onnx`` is missing; onnxruntime's output differs; ``tolerance`` below 0.
    """
    path = check_writable(path)
    if not tolerance >= 0:
        raise UsageError(f"must be a number of at least 0, got {tolerance}", argument="tolerance")
    _, onnxscript, onnxruntime = import_extra("onnx", "onnx", "onnxscript", "onnxruntime")
    expected = run_example(model, example)
    if not isinstance(expected, Tensor):
        raise UsageError(
            f"{type(model).__name__} does not output one tensor, as an ONNX file does here", "pass a network that does"
        )
    program = export_program(model, example, {})
    output = "sequence" if isinstance(model, Encoder) else "logits"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from the exporter, about itself
            converted = torch.onnx.export(
                program,
                input_names=["images"],
                output_names=[output],
                custom_translation_table={torch.ops.gac_sj.dequantize.default: _dequantize(onnxscript)},
                dynamic_shapes=({example.dim() - 4: "batch"},),  # its name; the program knows which it is
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise UsageError(
            f"ONNX cannot express {type(model).__name__} ({first_sentence(cause.__cause__ or cause)})",
            "use to_program, or export the backbone of gac_sj.export.split(model)",
        ) from error
    assert converted is not None  # as always with dynamo=True
    content = converted.model_proto.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (found,) = session.run([output], {"images": example.detach().cpu().numpy()})
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise UsageError(
            f"onnxruntime cannot run {type(model).__name__} in {example.dtype} ({first_sentence(error)})",
            "export float32: model.float(), example.float()",
        ) from error
    difference = (torch.from_numpy(found) - expected.cpu()).abs().max().item()
    if not difference <= tolerance:
        raise UsageError(
            f"is {tolerance:g}, and onnxruntime's output differs by {difference:.2g} on the example, so nothing was "
            "written; a potential near its threshold may have fired in one of them only",
            "pass another example or a larger tolerance",
            argument="tolerance",
        )
    write(path, content)


def _dequantize(onnxscript: ModuleType) -> Callable[..., Any]:
    """ONNX's form of integer weights, which keeps them and their scales as they are."""

    def dequantize(numbers: Any, scale: Any) -> Any:
        return onnxscript.opset18.DequantizeLinear(numbers, scale, axis=0)

    return dequantize
