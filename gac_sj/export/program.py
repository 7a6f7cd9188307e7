"""Whole networks as ``torch.export`` programs."""

from __future__ import annotations

import copy
import io
import os
import warnings

import torch
from torch import Tensor, nn

from gac_sj.export.checks import reason, run, writable, write

__all__ = ["to_program"]


def to_program(
    model: nn.Module, example: Tensor, path: str | os.PathLike | None = None
) -> torch.export.ExportedProgram:
    """A network as a program of PyTorch's own operators, T unrolled, for batches of any size.

    The neurons and the gate are in it as their definitions, not as kernels (:mod:`gac_sj.ops.dispatch`); so are
    SpikingJelly's neurons where the model is on the CPU. Each call starts from a reset state.
    ``torch.export.load(path).module()`` is the network again; with a pixel encoder ("poisson", "latency",
    "weighted_phase"), which is an operator of ours, it needs ``import gac_sj``.

    Example::

        to_program(model.eval(), images, "model.pt2")
        logits = torch.export.load("model.pt2").module()(other_images)

    Args:
        model: a network in evaluation mode.
        example: images ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]``, on the model's device; other batches have
            its sizes but for N.
        path: of the file to write (``.pt2``); None writes none.

    Raises:
        ValueError: a network in training mode, or one that torch.export cannot follow; an example that it does not
            take; GAC_SJ_OPS asks for kernels; a file that cannot be written.
    """
    path = None if path is None else writable(path)
    requested = os.environ.get("GAC_SJ_OPS")
    if requested not in (None, "", "torch"):
        raise ValueError(f"GAC_SJ_OPS is {requested!r}, and an export holds the definition; unset it, or set 'torch'.")
    run(model, example)  # which leaves it reset: the graph starts there
    batch_axis = example.dim() - 4
    if example.shape[batch_axis] == 1:
        example = torch.cat([example, example], batch_axis)  # torch.export takes a 1 for a constant
    shapes = torch.export.ShapesCollection()  # as the signature may be SpikingJelly's forward(*args)
    shapes[example] = {batch_axis: torch.export.Dim("batch")}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors that the neurons keep while they are followed
            program = torch.export.export(
                copy.deepcopy(model),
                (example,),
                dynamic_shapes=shapes,
                strict=False,
            ).run_decompositions({})  # SpikingJelly's operators, which a process without it could not load
    except Exception as error:  # torch.export raises whatever the network's code raises on symbolic shapes
        raise ValueError(
            f"torch.export cannot follow {type(model).__name__} ({reason(error)}); give a network without "
            "decisions about the values of tensors, whose neurons are gac_sj.LIFNode (SpikingJelly's own: 2.0.0 only)."
        ) from error
    if path is not None:
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        write(path, buffer.getvalue())
    return program
