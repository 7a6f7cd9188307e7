"""``features_only=True``: a network of this package as timm's extractor of feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models._features import FeatureGetterNet
from torch import Tensor

from gac_sj._utils.errors import UsageError
from gac_sj.models.network import EncodedNetwork
from gac_sj.models.trunk import check_maps

__all__ = ["FeatureMaps", "feature_options"]


class FeatureMaps(FeatureGetterNet):
    """Images or a sequence -> the feature maps of chosen levels, in the order of depth.

    Args:
        model: the network, which is pruned behind the last level.
        out_indices: the levels (:meth:`gac_sj.models.trunk.Trunk.forward_intermediates`); None: all.
        time: "mean" averages over time, to ``[N, C, h, w]``; None: ``[T, N, C, h, w]``.
        options: of timm's ``FeatureGetterNet``: ``norm``, ``output_fmt``, ``prune``.

    Raises:
        UsageError: a level that the network does not have, or another ``time`` or ``output_fmt``.
    """

    model: EncodedNetwork

    def __init__(
        self,
        model: EncodedNetwork,
        out_indices: int | Sequence[int] | None = None,
        time: str | None = None,
        **options: Any,
    ):
        check_maps(options.get("output_fmt", "NCHW"), time)
        super().__init__(model, out_indices, **options)  # type: ignore[arg-type]
        self.time = time

    def forward(self, x: Tensor) -> Any:
        return self.model.forward_intermediates(
            x, self.out_indices, norm=self.norm, intermediates_only=True, time=self.time
        )

    def no_weight_decay(self) -> set[str]:
        """As the network's, for timm's optimisers."""
        return {f"model.{name}" for name in self.model.no_weight_decay()}


def feature_options(keywords: dict[str, Any]) -> dict[str, Any]:
    """Take what belongs to ``features_only`` out of the keywords of ``timm.create_model``, as timm's ``feature_cfg``.

    Args:
        keywords: ``time``, ``feature_cfg`` and ``feature_cls`` are removed.

    Raises:
        UsageError: a ``feature_cls`` other than "getter", which would not reset the neurons.
    """
    found = {"out_indices": None, **(keywords.pop("feature_cfg", None) or {})}
    if "time" in keywords:
        found["time"] = keywords.pop("time")
    cls = keywords.pop("feature_cls", found.pop("feature_cls", "getter"))
    if cls not in ("getter", FeatureGetterNet, FeatureMaps):
        raise UsageError(
            f"must be 'getter', since other extractors call layers without resetting the neurons, got {cls!r}",
            "leave it out",
            argument="feature_cls",
        )
    return found | {"feature_cls": FeatureMaps}
