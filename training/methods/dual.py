"""Dual LP training: Wong & Kolter (2018), Theorem 2, exact or by random projections (Wong et al. 2018, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from properties import robustness
from training.dual_loss import robust_loss
from training.margin_loss import error_at, error_of
from training.method import BatchLoss, Progress, TrainingMethod, TrainingRun, register
from training.network import NetworkInTraining
from training.schedule import Decayed, Optimiser, Ramp, Rate
from verifier.attacks.losses import cross_entropy
from verifier.projection import Draws, estimated_margins
from verifier.projection.forward import center_of
from verifier.query import Query


@register
@dataclass(frozen=True, kw_only=True)
class DualTraining(TrainingMethod):
    """Cross-entropy at the dual bounds of all margins: an upper bound of the worst cross-entropy in the set.

    The default settings are those of Wong et al. (2018), appendix G.1, at any number of epochs.

    Args:
        projections: random vectors that the bounds are estimated from, in time and memory linear in the number of
            units; None: the exact bounds, quadratic ones.
        ramp: what the radius is multiplied by during the run.
    """

    name: ClassVar[str] = "dual"

    projections: int | None = 50
    ramp: Ramp = Ramp()
    optimiser: Optimiser = Optimiser("adam", 1e-3)
    rate: Rate = Decayed()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projections is not None and self.projections < 2:
            raise ValueError(f"projections must be at least 2, or None for the exact bound, got {self.projections}")

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        if self.projections is not None:
            center_of(self.sets(network.example), network.dtype)  # raises for sets that projections do not know
        return _Dual(self, network, generator)


class _Dual(TrainingRun):
    method: DualTraining

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        inputs = self.method.sets(x, self.method.eps * self.method.ramp.at(progress.share))
        with self.network.on_batch(x):
            if self.method.projections is None:
                value, margins = robust_loss(self.network.graph, inputs, label)
            else:
                query = Query.of(self.network.graph, inputs, robustness(label, self.network.classes))
                margins = estimated_margins(query, self._draws(x.device, self.method.projections))
                value = cross_entropy(margins).mean()
            with torch.no_grad():
                outputs = self.network(x)
        return BatchLoss(value, {"error": error_at(outputs, label), "robust_error": error_of(margins)})

    def _draws(self, device: torch.device, count: int) -> Draws:
        """Drawn on the device, which is fast, from one number of the run's generator: a resumed run draws the same."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        return Draws(count, torch.Generator(device).manual_seed(seed))
