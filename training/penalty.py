"""What training on attacked points shares beside its loss: penalties on the weights, and a radius that may grow."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from properties import InputSet
from training.method import BatchLoss, Progress, TrainingMethod, TrainingRun
from training.schedule import Ramp
from training.weights import l1_norm, matrices
from verifier.graph import Graph


@dataclass(frozen=True, kw_only=True)
class PenalisedTraining(TrainingMethod):
    """What methods on attacked points share: penalties on weights (Wong 2020, section 4.4.1), a radius that may grow.

    Args:
        l1: weight of the sum of all weights' absolute values in the loss; biases are left out.
        l2: weight of half the sum of their squares: with SGD it is what `weight_decay` is, with Adam, whose steps have
            much the same length whatever the gradient's, other than a decay.
        ramp: share of the run over which the radius grows linearly from a tenth of `eps`; 0: it is `eps` from the first
            step. A network that is attacked at a large radius before it has learned anything may stay at the loss of
            guessing.
    """

    l1: float = 0.0
    l2: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("l1", "l2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)}")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"ramp must be a share of the run, between 0 and 1, got {self.ramp}")

    def radius(self, progress: Progress) -> float:
        """The radius that is attacked with at some progress."""
        return self.eps * Ramp(end=self.ramp).at(progress.share)

    def penalised(self, loss: BatchLoss, graph: Graph) -> BatchLoss:
        """A batch's loss with the penalties on the weights that a graph works with."""
        value = loss.value
        if self.l1:
            value = value + self.l1 * l1_norm(graph)
        for weights in matrices(graph) if self.l2 else ():
            value = value + self.l2 / 2 * weights.square().sum()
        return BatchLoss(value, loss.figures)


class PenalisedRun(TrainingRun):
    """A run on points of sets of the radius in force, with the penalties in its loss."""

    method: PenalisedTraining
    _radius: float | None = None

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        self._radius = self.method.radius(progress)
        return self.method.penalised(self.learned(x, label), self.network.graph)

    @abstractmethod
    def learned(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        """The loss before penalties."""

    def sets(self, x: Tensor) -> InputSet:  # [B, *input]
        """The input sets around some inputs, of the radius of the last `loss`."""
        return self.method.sets(x, self._radius)
