"""The training objective: network and loss in one module, so that both are compiled and distributed together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gac_sj.models.protocols import NetworkModule
from gac_sj.training.losses import cross_entropy, tet
from gac_sj.training.settings import Settings

__all__ = ["Objective"]


class Objective(nn.Module):
    """Network and loss.

    Args:
        model: the network.
        settings: its loss and autocast.

    Shapes:
        images ``[N, C, H, W]`` and soft labels ``[N, classes]`` -> loss, logits ``[N, classes]`` (mean over time).
    """

    def __init__(self, model: NetworkModule, settings: Settings):
        super().__init__()
        self.model = model
        self.loss, self.tet_lambda = settings.loss, settings.tet_lambda
        self.autocast = settings.autocast

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, self.autocast, enabled=self.autocast is not None):
            steps = self.model.forward_sequence(images)
        # the loss in full precision, at least
        steps = steps.to(torch.promote_types(steps.dtype, torch.float32))
        labels = labels.to(steps.dtype)
        loss = tet(steps, labels, self.tet_lambda) if self.loss == "tet" else cross_entropy(steps, labels)
        return loss, steps.detach().mean(0)
