"""TRADES (Zhang et al. 2019): a term for accuracy, and one for how far the answer changes within the set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from properties.device import sent
from training.margin_loss import error_at
from training.method import BatchLoss, TrainingRun, register
from training.modes import evaluated
from training.network import NetworkInTraining
from training.penalty import PenalisedRun, PenalisedTraining


@register
@dataclass(frozen=True, kw_only=True)
class TradesTraining(PenalisedTraining):
    """Cross-entropy at the clean inputs + beta * KL(answer there || answer at the point where it differs most).

    Zhang et al. (2019), Theoretically principled trade-off between robustness and accuracy; the label is no part of the
    second term. The point is where projected steepest ascent of that divergence ends, from the clean input moved by a
    little noise, since the divergence has no gradient at the clean input itself; it is sought in eval mode.

    Args:
        beta: weight of the divergence (1 / lambda in the paper: 6 for CIFAR-10, also 1).
        steps: of the ascent; 10 for CIFAR-10 and 40 for MNIST in the paper.
        step: length of each as a fraction of the set's size; a quarter there, a thirtieth for MNIST.
        noise: standard deviation of what is added to the clean input at the start.
    """

    name: ClassVar[str] = "trades"
    goal: ClassVar[str] = "attacked"

    beta: float = 6.0
    steps: int = 10
    step: float = 0.25
    noise: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be a number >= 0, got {self.beta}")
        for name in ("step", "noise"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number > 0, got {getattr(self, name)}")

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return TradesRun(self, network, generator)


class TradesRun(PenalisedRun):
    """A run on two answers to each image."""

    method: TradesTraining

    def learned(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        with self.network.on_batch(x):
            points = self.points(x)
            clean, moved = self.network(x), self.network(points)
        apart = divergence(clean, moved).mean()
        return BatchLoss(
            F.cross_entropy(clean, label) + self.method.beta * apart,
            {"error": error_at(clean, label), "attacked_error": error_at(moved, label), "divergence": apart.detach()},
        )

    def points(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, *input]
        """Members of the sets around x, at which the network answers otherwise than there."""
        inputs, network = self.sets(x), self.network
        noise = sent(torch.randn(x.shape, generator=self.generator, dtype=torch.float64), x.device).to(x)
        point = inputs.project(x + self.method.noise * noise)
        with evaluated(network.model):
            with torch.no_grad():
                clean = network(x)
            for _ in range(self.method.steps):
                point = point.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(divergence(clean, network(point)).sum(), point)
                point = point.detach()
                point = inputs.project(point + inputs.steepest_ascent(point, gradient, self.method.step))
        return inputs.inside(point.detach(), network.dtype)


def divergence(clean: Tensor, moved: Tensor) -> Tensor:  # [B, classes] each -> [B]
    """Kullback-Leibler divergence of the answer `moved` from the answer `clean`, both as logits."""
    log = F.log_softmax(clean, 1), F.log_softmax(moved, 1)
    return (log[0].exp() * (log[0] - log[1])).sum(1)
