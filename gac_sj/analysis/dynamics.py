"""The dynamics of an encoder's output: what changes from step to step, for every pixel and channel.

All definitions here are ours, because the full text of the paper was not available. A *unit* is one pixel of one
channel of the output ``[T, N, C, H, W]``; its *pattern* is the sequence of its T values for one image.

GAC's first proposition (arXiv 2308.06582), as far as we know it, says that with the same convolution and normalisation
the dynamic duration of GAC is never shorter than that of direct coding. We read "dynamic duration" as
:func:`time_to_repeat`. The proposition then holds for every unit if both encoders have the same neuron: if a pattern
repeats after p steps, its spikes repeat after p steps, because the gate is positive. It need not hold if the neurons
differ (the default form halves the threshold), if the gate stands before the neuron, or if the sigmoid underflows to 0,
and it says nothing about equality: if the gate does not change over time, both repeat alike. :func:`compare_durations`
measures it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gac_sj._utils.validation import positive
from gac_sj.analysis.batches import Batch, inputs_and_labels, no_images
from gac_sj.analysis.modes import in_mode
from gac_sj.encoders import BASELINE_ENCODER, Encoder, create_encoder

__all__ = ["Dynamics", "compare_durations", "firing_period", "measure_dynamics", "time_to_repeat"]


@dataclass(frozen=True)
class Dynamics:
    """Result of :func:`measure_dynamics`; maps are means over images.

    Args:
        images: number of encoded images.
        time_to_repeat: ``[C, H, W]``, steps, 1 to T (:func:`time_to_repeat`).
        time_to_first_spike: ``[C, H, W]``, the first step with an output other than 0, from 1, over the images that
            have one; NaN if no image has one.
        silent: ``[C, H, W]``, fraction of images whose output is 0 at every step, 0 to 1.
        information: ``[T, C, H, W]``, bits that a step adds to those before it: the entropy of the first t values over
            images minus that of the first t - 1. The noise of a random encoder counts as well.
        change_by_step: ``[T - 1]``, mean absolute difference to the previous step, in units of the mean absolute
            output.
        readout_by_step: ``[T]``, test accuracy (0 to 1) of a linear classifier on one step alone; None without labels,
            or if a class has a single image.
    """

    images: int
    time_to_repeat: Tensor
    time_to_first_spike: Tensor
    silent: Tensor
    information: Tensor
    change_by_step: Tensor
    readout_by_step: Tensor | None

    @property
    def entropy(self) -> Tensor:
        """``[C, H, W]``, bits of the whole pattern over images; at most the binary logarithm of their number."""
        return self.information.sum(0)


@torch.no_grad()
def measure_dynamics(encoder: Encoder, loader: Iterable[Batch], levels: int = 16) -> Dynamics:
    """Encode images in evaluation mode and describe the patterns. All outputs are held in memory.

    Args:
        encoder: an encoder; its mode and device are not changed.
        loader: batches of images ``[N, C, H, W]``, or of pairs (images, labels) for the read-out, on its device.
        levels: number of values that the entropies tell apart besides zero: equal intervals from the smallest to the
            largest other value; at least 1.

    Raises:
        UsageError: a loader without images, or ``levels`` below 1.
    """
    levels = positive("levels", levels)
    sequence, labels = _encode(encoder, loader)
    fired = sequence != 0
    first = fired.int().argmax(0) + 1.0
    active = fired.any(0)
    scale = sequence.abs().mean().clamp_min(torch.finfo(sequence.dtype).tiny)
    return Dynamics(
        images=sequence.shape[1],
        time_to_repeat=time_to_repeat(sequence).float().mean(0),
        time_to_first_spike=(first * active).sum(0) / active.sum(0),
        silent=1.0 - active.float().mean(0),
        information=_information(sequence, levels),
        change_by_step=(sequence[1:] - sequence[:-1]).abs().mean((1, 2, 3, 4)) / scale,
        readout_by_step=None if labels is None else _readout_by_step(sequence, labels),
    )


def time_to_repeat(sequence: Tensor) -> Tensor:
    """Steps until a pattern repeats: the smallest p below T with ``x[t + p] == x[t]`` wherever both exist, else T.

    A constant pattern has 1; one that does not repeat within its T steps has T.

    Args:
        sequence: ``[T, *]``.

    Returns:
        ``[*]``, integers from 1 to T.
    """
    T = len(sequence)
    steps = torch.full(sequence.shape[1:], T, device=sequence.device)
    for p in range(T - 1, 0, -1):
        steps[(sequence[p:] == sequence[: T - p]).all(0)] = p
    return steps


def firing_period(current: Tensor, tau: float, v_threshold: float, T: int) -> Tensor:
    """The step at which a LIF neuron with a constant current first fires, which is its period (ours).

    From rest and with a hard reset to 0 the potential after j steps is ``current (1 + b + ... + b^(j-1))`` with
    ``b = 1 - 1 / tau`` (input not decayed), so the neuron fires at k, 2k, 3k, ... with k the first j that reaches the
    threshold. As a pattern of T steps it repeats after k, or after 1 if it is silent.

    Args:
        current: ``[*]``.
        tau: of the neuron, above 1.
        v_threshold: of the neuron.
        T: number of steps.

    Returns:
        ``[*]``, k from 1 to T, or 0 for a neuron that stays silent for T steps.
    """
    period = torch.zeros(current.shape, dtype=torch.long, device=current.device)
    potential = torch.zeros_like(current)
    for j in range(1, T + 1):
        potential = (1.0 - 1.0 / tau) * potential + current
        period[(period == 0) & (potential >= v_threshold)] = j
    return period


@torch.no_grad()
def compare_durations(encoder: Encoder, loader: Iterable[Batch], neuron: nn.Module | None = None) -> dict[str, float]:
    """Check the first proposition on images: time to repeat of an encoder and of direct coding with the same stem.

    Args:
        encoder: an encoder, such as :class:`gac_sj.GatedAttentionCoding`.
        loader: batches of images ``[N, C, H, W]``, or of pairs (images, labels), on its device.
        neuron: neuron of the direct coding; None: the stem's current itself, which repeats after one step.

    Returns:
        Fractions of all units and images that are "shorter", "equal" and "longer" than with direct coding.

    Raises:
        UsageError: a loader without images.
    """
    direct = create_encoder(
        BASELINE_ENCODER,
        T=encoder.T,
        in_channels=encoder.in_channels,
        channels=encoder.channels,
        stem=encoder.stem,
        neuron=neuron,
    )
    batches = [inputs_and_labels(batch)[0] for batch in loader]
    duration, baseline = (time_to_repeat(_encode(each, batches)[0]) for each in (encoder, direct))
    return {
        "shorter": (duration < baseline).float().mean().item(),
        "equal": (duration == baseline).float().mean().item(),
        "longer": (duration > baseline).float().mean().item(),
    }


def _encode(encoder: Encoder, loader: Iterable[Batch]) -> tuple[Tensor, Tensor | None]:
    """The sequence ``[T, N, C, H, W]`` of all images, on the CPU, and their labels."""
    sequences, labels = [], []
    with in_mode(encoder, training=False):
        for batch in loader:
            images, batch_labels = inputs_and_labels(batch)
            sequences.append(encoder.multi_step_forward(images).cpu())
            if batch_labels is not None:
                labels.append(batch_labels.cpu())
    encoder.reset()
    if not sum(sequence.shape[1] for sequence in sequences):
        raise no_images()
    return torch.cat(sequences, 1), torch.cat(labels) if labels else None


def _information(sequence: Tensor, levels: int) -> Tensor:
    """Bits that each step adds, ``[T, C, H, W]``: differences of the entropies of the first t values over images."""
    values = sequence[sequence != 0]
    low, high = (values.min(), values.max()) if len(values) else (torch.tensor(0.0), torch.tensor(0.0))
    width = (high - low).clamp_min(torch.finfo(sequence.dtype).tiny)
    T, N, C = sequence.shape[:3]
    entropies = torch.zeros(T + 1, C, sequence[0, 0, 0].numel())
    for channel in range(C):  # one at a time, to save memory
        pattern = torch.zeros(N, sequence[0, 0, 0].numel(), dtype=torch.long)
        for t in range(T):
            x = sequence[t, :, channel].flatten(1)
            level = torch.where(x == 0, 0, 1 + ((x - low) / width * levels).long().clamp(0, levels - 1))
            pattern, entropies[t + 1, channel] = _entropy(pattern * (levels + 1) + level)
    return entropies.diff(dim=0).unflatten(2, sequence.shape[3:])


def _entropy(patterns: Tensor) -> tuple[Tensor, Tensor]:
    """The plug-in entropy of each unit's patterns over the images, in bits.

    Args:
        patterns: ``[N, units]``, integers that tell the patterns of N images apart.

    Returns:
        The patterns, renumbered from 0 so that they stay small, and the entropies ``[units]``.
    """
    N, units = patterns.shape
    _, patterns = patterns.unique(return_inverse=True)
    count = int(patterns.max()) + 1
    by_unit, counts = (patterns + count * torch.arange(units)).unique(return_counts=True)
    surprise = torch.zeros(units, dtype=torch.float64)
    surprise.scatter_add_(0, by_unit // count, counts * counts.double().log2())
    return patterns, (torch.tensor(float(N)).log2() - surprise / N).float()


def _readout_by_step(sequence: Tensor, labels: Tensor) -> Tensor | None:
    """The accuracy of :func:`_readout` for every step; None if a class lacks images for training or for testing."""
    if int(labels.unique(return_counts=True)[1].min()) < 2:
        return None
    return torch.stack([_readout(step, labels) for step in sequence])


def _readout(step: Tensor, labels: Tensor, cells: int = 8, strength: float = 0.1) -> Tensor:
    """Accuracy of a ridge classifier on the means of one step over cells; half of each class trains it.

    Args:
        step: ``[N, C, H, W]``.
        labels: ``[N]``.
        cells: largest number of cells in height and in width.
        strength: of the ridge penalty.
    """
    height, width = step.shape[-2:]
    features = F.adaptive_avg_pool2d(step, (min(cells, height), min(cells, width))).flatten(1).double()
    by_class = labels.argsort(stable=True)
    train_images, test_images = by_class[::2], by_class[1::2]
    train, test = features[train_images], features[test_images]
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    train, test = ((part - mean) / std / features.shape[1] ** 0.5 for part in (train, test))
    targets = F.one_hot(labels[train_images], int(labels.max()) + 1).double()
    weights = torch.linalg.solve(train @ train.T + strength * torch.eye(len(train)).double(), targets - targets.mean(0))
    return ((test @ train.T @ weights + targets.mean(0)).argmax(1) == labels[test_images]).double().mean()
