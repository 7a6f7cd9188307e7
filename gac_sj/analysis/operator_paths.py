"""Where the neurons of a network run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import Tensor, nn

from gac_sj.nn.neuron import LIFNode, is_plain_lif
from gac_sj.ops.dispatch import choose
from gac_sj.ops.lif import why_not_dynamics

__all__ = ["operator_paths"]


def operator_paths(modules: Iterable[nn.Module], x: Tensor, steps: int) -> Counter[str]:
    """The paths of this package's neurons, as :mod:`gac_sj.ops.dispatch` decides, and how many take each.

    Args:
        modules: of a network; only unchanged neurons matter (:func:`gac_sj.nn.neuron.is_plain_lif`).
        x: any tensor with the device and the dtype of their input.
        steps: length of their sequences.

    Raises:
        ValueError: ``GAC_SJ_OPS`` requests a path that does not exist or is not available.
    """

    def path(node: LIFNode) -> str:
        unsupported, only_kernels = why_not_dynamics(node.dynamics)
        return choose(
            "lif", x, node.surrogate_function, steps=steps, unsupported=unsupported, only_kernels=only_kernels
        )

    return Counter(path(node) for node in modules if is_plain_lif(node))
