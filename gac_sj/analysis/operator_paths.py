"""Where the neurons of a network run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import Tensor, nn

from gac_sj.nn.neuron import is_plain_lif
from gac_sj.ops.dispatch import choose, why_not_numbers

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
    return Counter(
        choose("lif", x, node.surrogate_function, steps=steps, unsupported=why_not_numbers(*node.dynamics))
        for node in modules
        if is_plain_lif(node)
    )
