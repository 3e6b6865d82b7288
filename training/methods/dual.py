"""Dual LP training: Wong & Kolter (2018), Theorem 2, exact or by random projections (Wong et al. 2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from properties import InputSet, robustness
from training.doubts import radius_doubt
from training.dual_loss import robust_loss
from training.margin_loss import error_at, error_of
from training.method import BatchLoss, Progress, TrainingMethod, TrainingRun, register
from training.network import NetworkInTraining
from training.schedule import Decayed, Optimiser, Ramp, Rate
from verifier.attacks.losses import cross_entropy
from verifier.errors import InputError
from verifier.projection import Draws, estimated_margins
from verifier.projection.forward import supported
from verifier.query import Query


@register
@dataclass(frozen=True, kw_only=True)
class DualTraining(TrainingMethod):
    """Cross-entropy at the dual bounds of all margins: an upper bound of the worst cross-entropy in the set.

    The default settings are those of Wong et al. (2018), appendix G.1 (MNIST), at any number of epochs. For CIFAR-10
    (G.2) they have Optimiser("sgd", 0.05), and radii from 0.001 on: Ramp(start=0.001 / eps).

    Args:
        projections: random vectors that the neurons' bounds are estimated from, in time and memory linear in the number
            of units; the margins over these bounds are exact. None: all are, in quadratic ones, for every threat model.
            Projections know linf, and l2 without the valid range, so that of an l2 ball they bound the whole, as the
            paper does.
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
        if self.projections is not None and not supported(self.projected(network.example)):
            raise InputError(
                f"random projections know the threat models linf and l2, not {self.threat}: use the exact bounds "
                "(projections=None; --set projections=none), or train by ibp or adversarial"
            )
        return _Dual(self, network, generator)

    def projected(self, x: Tensor, eps: float | None = None) -> InputSet:
        """The sets around x [B, *input] that are bounded by projections."""
        inputs = self.sets(x, eps)
        return inputs if supported(inputs) else inputs.unclipped()


class _Dual(TrainingRun):
    method: DualTraining

    def doubts(self, epochs: int) -> Iterator[str]:
        return radius_doubt(self.method.ramp.end, epochs)

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        radius = self.method.eps * self.method.ramp.at(progress.share)
        with self.network.on_batch(x):
            graph = self.network.graph
            if self.method.projections is None:
                value, margins = robust_loss(graph, self.method.sets(x, radius), label)
            else:
                query = Query.of(graph, self.method.projected(x, radius), robustness(label, self.network.classes))
                margins = estimated_margins(query, self._draws(x.device, self.method.projections))
                value = cross_entropy(margins).mean()
            with torch.no_grad():
                outputs = self.network(x)
        return BatchLoss(value, {"error": error_at(outputs, label), "robust_error": error_of(margins)})

    def _draws(self, device: torch.device, count: int) -> Draws:
        """Drawn on the device, which is fast, from one number of the run's generator: a resumed run draws the same."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        return Draws(count, torch.Generator(device).manual_seed(seed))
