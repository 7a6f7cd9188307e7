"""The networks of this package up to their heads: an encoder, stages of blocks, the last neuron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from spikingjelly.activation_based import base
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.encoders.base import Encoder
from gac_sj.models.spiking_block import SpikingBlock
from gac_sj.models.threads import one_at_a_time
from gac_sj.nn.neuron import LIFNode, reset_states
from gac_sj.nn.sync_batchnorm import RefusesTorchSyncBatchNorm

__all__ = ["Trunk", "check_maps"]


class Trunk(RefusesTorchSyncBatchNorm, nn.Module, base.MultiStepModule):
    """Encoder, stages and last neuron, and the feature maps between them.

    A subclass sets ``encoder``, ``stages`` (sequences of blocks), ``lif`` (the last neuron) and ``feature_info``.
    """

    encoder: Encoder
    stages: nn.Sequential
    lif: LIFNode | nn.Identity
    #: for each level ``num_chs`` (channels), ``reduction`` (ratio of the image's side to the map's) and ``module``
    feature_info: list[dict[str, Any]]

    @property
    def num_features(self) -> int:
        """Channels of :meth:`forward_features`."""
        return self.feature_info[-1]["num_chs"]

    def encode(self, x: Tensor) -> Tensor:
        """Reset the network, and return the encoder's sequence ``[T, N, C, H, W]`` for its input."""
        reset_states(self)
        return self.encoder(x)

    def fire(self, x: Tensor) -> Tensor:
        """The last neuron's spikes for the output of the last stage."""
        return self.lif(x)

    def set_spikes_as_bytes(self, enable: bool = True) -> None:
        """Keep spikes for the backward pass as one byte each, with the same results."""
        for block in self._blocks():
            block.spikes_as_bytes = enable

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each block, and run the block again in the backward pass (timm's name for it)."""
        for block in self._blocks():
            block.grad_checkpointing = enable

    @property
    def grad_checkpointing(self) -> bool:
        """Whether a block runs again in the backward pass; assigning is :meth:`set_grad_checkpointing`."""
        return any(block.grad_checkpointing for block in self._blocks())

    @grad_checkpointing.setter
    def grad_checkpointing(self, enable: bool) -> None:
        self.set_grad_checkpointing(enable)

    def _blocks(self) -> Iterator[SpikingBlock]:
        return (module for module in self.modules() if isinstance(module, SpikingBlock))

    @one_at_a_time
    def forward_features(self, x: Tensor) -> Tensor:
        """Spikes of the last neuron before the head, ``[T, N, num_features, h, w]``."""
        return self.fire(self.stages(self.encode(x)))

    @one_at_a_time
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        time: str | None = None,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The feature maps of chosen levels, in the order of depth (timm's method, with ``time``).

        Level 0 is the encoder's sequence, the others are the outputs of the stages: membrane potentials.

        Args:
            x: images or a sequence.
            indices: levels, from the end if negative; a number n: the last n; None: all.
            norm: the last level is the last neuron's output, spikes; the others have no such neuron.
            stop_early: run no stage behind the last chosen level.
            output_fmt: "NCHW".
            intermediates_only: return the maps alone.
            time: "mean" averages the maps over time, to ``[N, C, h, w]``; None: ``[T, N, C, h, w]``.

        Returns:
            The output of :meth:`forward_features` (with ``stop_early`` that of the last stage that ran) and the maps.

        Raises:
            UsageError: a level that the network does not have, or another ``output_fmt`` or ``time``.
        """
        check_maps(output_fmt, time)
        chosen, deepest = self.levels(indices)
        stages = list(self.stages)[: deepest if stop_early else None]
        x = self.encode(x)
        maps = [x] if 0 in chosen else []
        for level, stage in enumerate(stages, 1):
            x = stage(x)
            if level in chosen:
                maps.append(x)
        if len(stages) == len(self.stages) and (norm or not intermediates_only):
            x = self.fire(x)
            if norm and len(stages) in chosen:
                maps[-1] = x
        if time == "mean":
            maps = [level.mean(0) for level in maps]
        return maps if intermediates_only else (x, maps)

    def get_intermediate_layers(self, x: Tensor, n: int | Sequence[int] = 1, **options: Any) -> Any:
        """The maps of :meth:`forward_intermediates` alone, under the name that users of DINO know.

        Args:
            x: images or a sequence.
            n: the last n levels, or the levels themselves.
            options: ``norm`` and ``time`` of :meth:`forward_intermediates`.
        """
        return self.forward_intermediates(x, n, intermediates_only=True, **options)

    def prune_stages(self, deepest: int, neuron: bool) -> None:
        """Remove the stages behind a level, and the last neuron with them.

        Args:
            deepest: the level.
            neuron: remove the last neuron in any case.
        """
        if neuron or deepest < len(self.stages):
            self.remove_last_neuron()
        self.stages = self.stages[:deepest]
        self.feature_info = self.feature_info[: deepest + 1]

    def remove_last_neuron(self) -> None:
        """Make :meth:`fire` the identity."""
        self.lif = nn.Identity()

    def levels(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        """The chosen levels, and the deepest one."""
        count = len(self.stages) + 1
        try:
            return feature_take_indices(count, indices)  # type: ignore[arg-type]
        except (AssertionError, TypeError, ValueError) as error:
            raise UsageError(
                f"must be levels from 0 to {count - 1}, or a number of levels, got {indices!r} "
                f"({first_sentence(error)})",
                argument="indices",
            ) from error


def check_maps(output_fmt: str, time: str | None) -> None:
    """Raise UsageError unless feature maps can be returned like this (:meth:`Trunk.forward_intermediates`)."""
    if output_fmt != "NCHW":
        raise UsageError(f"must be 'NCHW', got {output_fmt!r}", argument="output_fmt")
    if time not in (None, "mean"):
        raise UsageError(
            f"must be 'mean' (maps [N, C, h, w]) or None (maps [T, N, C, h, w]), got {time!r}", argument="time"
        )
