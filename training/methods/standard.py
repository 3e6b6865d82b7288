"""Plain training: the cross-entropy at the clean inputs. What every other method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from training.margin_loss import error_at
from training.method import BatchLoss, Progress, TrainingRun, register
from training.network import NetworkInTraining
from training.penalty import PenalisedTraining


@register
@dataclass(frozen=True, kw_only=True)
class Standard(PenalisedTraining):
    """Cross-entropy at the clean inputs. `eps` says only at which radius the network is measured."""

    name: ClassVar[str] = "standard"
    goal: ClassVar[str] = "clean"

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return _Plain(self, network, generator)


class _Plain(TrainingRun):
    method: Standard

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        outputs = self.network(x)
        loss = BatchLoss(F.cross_entropy(outputs, label), {"error": error_at(outputs, label)})
        return self.method.penalised(loss, self.network.graph)
