"""Whole networks as ``torch.export`` programs."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.export.checks import as_numbers, check_writable, run_example, write
from gac_sj.nn.copying import copy_network
from gac_sj.nn.quantization import output_floats
from gac_sj.ops.int8 import dequantize_definition

__all__ = ["export_program", "to_program"]


def to_program(
    model: nn.Module, example: Tensor, path: str | os.PathLike[str] | None = None
) -> torch.export.ExportedProgram:
    """Export a network as a program of PyTorch's own operators, T unrolled, for batches of any size.

    The program contains the neurons and the gate as their definitions, not as kernels (:mod:`gac_sj.ops.dispatch`), and
    so it does SpikingJelly's neurons if the model is on the CPU. Integer weights (:func:`gac_sj.quantize`) stay
    integers, which become floats in front of each product. Each call starts from a reset state.
    ``torch.export.load(path).module()`` loads the network; with an encoder of pixels (Poisson, latency, weighted
    phase), which is an operator of this package, that needs ``import gac_sj``.

    Example::

        to_program(model.eval(), images, "model.pt2")
        logits = torch.export.load("model.pt2").module()(other_images)

    Args:
        model: a network in evaluation mode.
        example: images ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]``, on the model's device. Other batches may
            differ from it in N only.
        path: path of the file (``.pt2``); None: no file is written.

    Returns:
        The program.

    Raises:
        UsageError: a network in training mode, or one that torch.export cannot follow; an example that the network does
            not take; GAC_SJ_OPS requests kernels; a file that cannot be written.
    """
    path = None if path is None else check_writable(path)
    program = export_program(model, example, {torch.ops.gac_sj.dequantize.default: dequantize_definition})
    if path is not None:
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        write(path, buffer.getvalue())
    return program


def export_program(
    model: nn.Module, example: Tensor, decompositions: dict[Any, Callable[..., Any]]
) -> torch.export.ExportedProgram:
    """The program of a network.

    Args:
        model: see :func:`to_program`.
        example: see :func:`to_program`.
        decompositions: operators that become others, and by what.

    Raises:
        UsageError: see :func:`to_program`.
    """
    requested = os.environ.get("GAC_SJ_OPS")
    if requested not in (None, "", "torch"):
        raise UsageError(
            f"must be unset or 'torch', because an export contains the definitions of operators, got {requested!r}",
            "unset it",
            argument="GAC_SJ_OPS",
        )
    run_example(model, example)  # also resets the network, so the graph starts from a reset state
    batch_axis = example.dim() - 4
    if example.shape[batch_axis] == 1:
        example = torch.cat([example, example], batch_axis)  # torch.export treats a size of 1 as constant
    copied = copy_network(model)
    output_floats(copied)
    as_numbers(copied, "v_reset")  # neurons compute something else where it is 0; a learnable tau stays a parameter
    shapes = torch.export.ShapesCollection()  # because the signature may be SpikingJelly's forward(*args)
    shapes[example] = {batch_axis: torch.export.Dim("batch")}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors that the neurons keep during tracing
            program = torch.export.export(copied, (example,), dynamic_shapes=shapes, strict=False)
            return program.run_decompositions(decompositions)  # and SpikingJelly's, which would need it
    except Exception as error:  # torch.export raises whatever the network's code raises on symbolic shapes
        raise UsageError(
            f"torch.export cannot follow {type(model).__name__} ({first_sentence(error)})",
            "pass a network whose forward does not depend on the values of tensors, and whose neurons are "
            "gac_sj.LIFNode (SpikingJelly's own: 2.0.0 only)",
        ) from error
