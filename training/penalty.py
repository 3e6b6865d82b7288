"""Penalties on the size of the weights, beside whatever loss."""

from __future__ import annotations

from dataclasses import dataclass

from training.method import BatchLoss, TrainingMethod
from training.weights import l1_norm, matrices
from verifier.graph import Graph


@dataclass(frozen=True, kw_only=True)
class PenalisedTraining(TrainingMethod):
    """What methods share whose loss may have a penalty on the weights (Wong 2020, section 4.4.1); biases are left out.

    Args:
        l1: weight of the sum of all weights' absolute values in the loss.
        l2: weight of half the sum of their squares: with SGD it is what `weight_decay` is, with Adam, whose steps have
            much the same length whatever the gradient's, other than a decay.
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("l1", "l2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)}")

    def penalised(self, loss: BatchLoss, graph: Graph) -> BatchLoss:
        """A batch's loss with the penalties on the weights that a graph works with."""
        value = loss.value
        if self.l1:
            value = value + self.l1 * l1_norm(graph)
        for weights in matrices(graph) if self.l2 else ():
            value = value + self.l2 / 2 * weights.square().sum()
        return BatchLoss(value, loss.figures)
