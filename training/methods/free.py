"""Free adversarial training: one backward pass moves the weights and the perturbation (Shafahi et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from training.margin_loss import error_at
from training.method import BatchLoss, Progress, TrainingRun, register
from training.network import NetworkInTraining
from training.penalty import PenalisedRun, PenalisedTraining


@register
@dataclass(frozen=True, kw_only=True)
class FreeTraining(PenalisedTraining):
    """Cross-entropy at perturbed inputs, every batch several times: each pass also gives the perturbation's next step.

    Shafahi et al. (2019); Wong (2020), section 4.1, algorithm 6. A batch is taken `replays` steps in a row, and the
    batches that the loop hands out meanwhile are left out: an epoch costs what a plain one does, and goes through a
    share 1 / replays of the images, drawn anew in each epoch. The perturbation is kept from batch to batch. It is
    attacked in train mode: attack and training share their pass.

    Args:
        replays: steps on each batch (N in the thesis, m in the paper: 8 for CIFAR-10).
        step: length of the perturbation's step, as a fraction of the set's size.
    """

    name: ClassVar[str] = "free"
    goal: ClassVar[str] = "attacked"

    replays: int = 4
    step: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replays < 1:
            raise ValueError(f"replays must be at least 1, got {self.replays}")
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be a number > 0, got {self.step}")

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return FreeRun(self, network, generator)


class FreeRun(PenalisedRun):
    """A run that remembers a batch, and a perturbation for each place in it."""

    method: FreeTraining

    def __init__(self, method: FreeTraining, network: NetworkInTraining, generator: torch.Generator) -> None:
        super().__init__(method, network, generator)
        self.batch: tuple[Tensor, Tensor] | None = None  # [b, *input], [b]
        self.change = torch.zeros_like(network.example).expand(method.batch, *network.example.shape[1:])
        self.point: Tensor | None = None  # [b, *input] of the last pass, with its gradient

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        if self.batch is None or progress.step % self.method.replays == 0:
            self.batch = x.detach(), label
        return super().loss(*self.batch, progress)

    def learned(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        inputs = self.sets(x)
        point = inputs.inside(inputs.project(x + self.change[: len(x)]), self.network.dtype)
        self.point = point.detach().requires_grad_()
        outputs = self.network(self.point)
        return BatchLoss(F.cross_entropy(outputs, label), {"error": error_at(outputs, label)})

    def stepped(self, progress: Progress) -> None:
        """The perturbation's step, along the gradient that the pass has left behind."""
        if self.batch is None or self.point is None or self.point.grad is None:
            return  # nobody went back through a loss since the last step
        (x, _), point, inputs = self.batch, self.point.detach(), self.sets(self.batch[0])
        moved = inputs.project(point + inputs.steepest_ascent(point, self.point.grad, self.method.step))
        self.change = torch.cat([(moved - x).to(self.change), self.change[len(x) :]])
        self.point = None

    def state(self) -> dict[str, Any]:
        kept = {} if self.batch is None else {"images": self.batch[0], "labels": self.batch[1]}
        return {"change": self.change.contiguous(), **kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        device = self.network.device
        self.change = state["change"].to(device)
        if "images" in state:
            self.batch = state["images"].to(device), state["labels"].to(device)
