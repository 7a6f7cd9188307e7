"""Another number of time steps for trained temporal attention (ours): its two matrices are interpolated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "fit_time_steps",
    "free_attentions",
    "hidden_units",
    "resize_free_attention",
    "resize_temporal_attention",
    "temporal_pairs",
]

#: Names of the first matrix of temporal attention: this package's, and those of SpikingJelly's attention layers.
_SQUEEZE = re.compile(r"((.*\.)?temporal\.)?squeeze\.weight|((.*\.)?(ta|attention)\.)?sharedMLP\.0\.weight")
_EXCITE = {"squeeze": "excite", "0": "2"}
#: The name of free temporal attention.
_FREE = re.compile(r"(.*\.)?by_step")


@torch.no_grad()
def resize_temporal_attention(squeeze: Tensor, excite: Tensor, T: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Both matrices of temporal attention for another number of steps; the same sizes return equal copies.

    Temporal attention is ``o = W_m (relu(W_n p) + relu(W_n q))``, where ``p`` is the mean and ``q`` the maximum of each
    step. If the input is constant over time, p and q are one number each, and only the row sums ``s = W_n 1`` matter.
    As ``relu(p s) = p+ s+ + p- s-`` (``a+ = max(a, 0)``, ``a- = max(-a, 0)``), the output is

        ``o = (p+ + q+) A + (p- + q-) B`` with ``A = W_m s+`` and ``B = W_m s-``, two numbers per step.

    The resized attention has to give ``P o``, this output interpolated linearly, for every p and q: ``A' = P A`` and
    ``B' = P B``. P interpolates between the centres of the steps, and averages where there are fewer (each row sums to
    1, so an output that is the same at every step stays the same).

    1. Time: ``W_n D^-1 P^T`` and ``P W_m``, where ``D`` holds the column sums of P. The row sums ``s`` stay, so A' and
       B' are exact. For a whole multiple of T, ``D^-1`` is the factor T / T'.
    2. Hidden units, if their number changes: they have no order, so they are sorted by s and interpolated linearly
       between the first and the last one, in both matrices. ``W_m`` is divided among them (h / h'; copies of a single
       unit get shares of 1, 2, ..., since equal ones would have equal gradients for ever). The relu is not linear in s,
       so no factor makes A' and B' exact; the smallest change of ``W_m`` (in squares) that does is added.

    With ``h' >= 2`` this is exact, since the first and the last unit stay, and with them both signs of s. A single
    hidden unit cannot do what units of both signs did. It then stands for s+: exact where p and q are at least 0.

    Args:
        squeeze: ``W_n``, ``[hidden, T]``; further dimensions of size 1 are kept.
        excite: ``W_m``, ``[T, hidden]``, likewise.
        T: the new number of steps.
        hidden: the new number of hidden units.

    Returns:
        ``W_n`` of ``[hidden, T]`` and ``W_m`` of ``[T, hidden]``, computed in float64 and rounded once.
    """
    units, steps = squeeze.shape[:2]
    if (steps, units) == (T, hidden):
        return squeeze.clone(), excite.clone()
    w_n, w_m = squeeze.flatten(1).double().cpu(), excite.flatten(1).double().cpu()
    over_time = _between_centres(steps, T)
    w_n, w_m = w_n @ (over_time / over_time.sum(0)).t(), over_time @ w_m
    if hidden != units:
        sums = w_n.sum(1)
        order = sums.argsort(descending=bool(sums.max() > 0))  # a single new unit is the first one
        w_n, w_m = w_n[order], w_m[:, order]
        wanted = w_m @ _signs(w_n)
        over_units = _between_ends(units, hidden)
        shares = torch.arange(1.0, hidden + 1, dtype=torch.float64) if units == 1 else torch.ones(hidden).double()
        w_n, w_m = over_units @ w_n, w_m @ over_units.t() * (units * shares / shares.sum())
        w_m += (wanted - w_m @ _signs(w_n)) @ torch.linalg.pinv(_signs(w_n))
    tail = squeeze.shape[2:]
    return w_n.to(squeeze).reshape(hidden, T, *tail), w_m.to(excite).reshape(T, hidden, *tail)


@torch.no_grad()
def resize_free_attention(by_step: Tensor, T: int) -> Tensor:
    """Free temporal attention for another number of steps: each channel interpolated linearly over time, as above.

    Args:
        by_step: the numbers, ``[T, C]``.
        T: the new number of steps.

    Returns:
        ``[T, C]``, computed in float64 and rounded once; the same T returns an equal copy.
    """
    if len(by_step) == T:
        return by_step.clone()
    return (_between_centres(len(by_step), T) @ by_step.double().cpu()).to(by_step)


def _signs(w_n: Tensor) -> Tensor:
    """``[hidden, 2]``: s+ and s- of each hidden unit."""
    sums = w_n.sum(1)
    return torch.stack([sums.clamp(min=0), (-sums).clamp(min=0)], 1)


def _between_centres(old: int, new: int) -> Tensor:
    """``[new, old]``: linear interpolation of steps that fill the same time; fewer steps average what they cover."""
    unit = torch.eye(old, dtype=torch.float64)[None, None]
    return F.interpolate(unit, size=(new, old), mode="bilinear", antialias=True)[0, 0]


def _between_ends(old: int, new: int) -> Tensor:
    """``[new, old]``: linear interpolation from the first to the last one; a single one is the first."""
    places = torch.linspace(0, old - 1, new, dtype=torch.float64)
    return (1 - (places[:, None] - torch.arange(old)).abs()).clamp(min=0)


def temporal_pairs(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The names of both matrices of every temporal attention.

    Args:
        names: of tensors.
    """
    for name in names:
        if _SQUEEZE.fullmatch(name):
            layer = name.removesuffix(".weight")
            leaf = layer.rpartition(".")[2]
            yield name, f"{layer.removesuffix(leaf)}{_EXCITE[leaf]}.weight"


def free_attentions(names: Iterable[str]) -> list[str]:
    """The names of every free temporal attention.

    Args:
        names: of tensors.
    """
    return [name for name in names if _FREE.fullmatch(name)]


def hidden_units(T: int, reduction: int) -> int:
    """The hidden units of temporal attention.

    Args:
        T: number of steps.
        reduction: ratio of T to the hidden units.
    """
    return max(1, T // reduction)


def fit_time_steps(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose temporal attention has the sizes of another network; all other tensors are the same ones.

    Args:
        state: weights by name.
        own: those of the network that they are for.
    """
    fitted = dict(state)
    for squeeze, excite in temporal_pairs(state):
        if {squeeze, excite} <= own.keys() and excite in state and state[squeeze].shape != own[squeeze].shape:
            hidden, T = own[squeeze].shape[:2]
            fitted[squeeze], fitted[excite] = resize_temporal_attention(state[squeeze], state[excite], T, hidden)
    for name in free_attentions(state):
        if name in own and state[name].shape != own[name].shape:
            fitted[name] = resize_free_attention(state[name], len(own[name]))
    return fitted
