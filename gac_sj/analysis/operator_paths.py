"""Where the neurons of a network run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import Tensor, nn

from gac_sj.nn.neuron import LIFNode, is_plain_lif
from gac_sj.nn.norm_lif import can_fuse
from gac_sj.ops.dispatch import KERNELS, choose
from gac_sj.ops.lif import why_not_dynamics

__all__ = ["operator_paths"]


def operator_paths(modules: Iterable[nn.Module], x: Tensor, steps: int) -> Counter[str]:
    """The paths of this package's neurons, as :mod:`gac_sj.ops.dispatch` decides, and how many take each.

    A neuron that one operator runs together with the BatchNorm before it counts as "cpp+norm_lif" or "cupy+norm_lif",
    although single sequences, on which that does not pay, may run the two after each other.

    Args:
        modules: of a network; only unchanged neurons matter (:func:`gac_sj.nn.neuron.is_plain_lif`).
        x: any tensor with the device and the dtype of their input.
        steps: length of their sequences.

    Raises:
        ValueError: ``GAC_SJ_OPS`` requests a path that does not exist or is not available.
    """
    modules = list(modules)
    fused = {
        module.get_submodule(node)
        for module in modules
        for norm, node in getattr(module, "norm_lif_pairs", ())
        if can_fuse(module.get_submodule(norm), module.get_submodule(node))
    }

    def path(node: LIFNode) -> str:
        unsupported, only_kernels = why_not_dynamics(node.dynamics)
        found = choose(
            "lif", x, node.surrogate_function, steps=steps, unsupported=unsupported, only_kernels=only_kernels
        )
        return f"{found}+norm_lif" if found in KERNELS and node in fused else found

    return Counter(path(node) for node in modules if is_plain_lif(node))
