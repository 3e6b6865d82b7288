"""Interval bound propagation training (Gowal et al. 2018): the cheapest loss that certifies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from properties import InputSet
from training.doubts import radius_doubt
from training.initialisation import interval_initialisation
from training.interval_loss import IntervalPass, interval_pass
from training.margin_loss import error_of, margins_of
from training.method import BatchLoss, Progress, TrainingMethod, TrainingRun, register
from training.network import NetworkInTraining
from training.schedule import Decayed, Ramp, Rate
from training.warm_up import warm_up_penalty
from training.weights import l1_norm
from verifier.attacks.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class IntervalBased(TrainingMethod):
    """What methods with an interval loss share. The default shares, rate and batch are ours.

    Args:
        warm_up: share of the run that is plain training, at radius zero.
        ramp: share of the run, after the warm-up, over which the radius grows linearly to its end.
        overshoot: the radius at the ramp's end in multiples of `eps`. Gowal et al. train at more than they measure
            where eps is small.
        initialise: draw the weights anew, for intervals that neither grow nor shrink with depth.
        l1: weight of the sum of all weights' absolute values in the loss (biases are left out).
        regularise: weight of the regularisers of Shi et al. (2021) while the radius grows, by which intervals start
            tight and activations balanced (training.warm_up). It falls to zero as the radius is reached. They use 0.5.
        tolerance: a layer is regularised as far as its ratios are below it (tau, 0.5 in the paper).
    """

    warm_up: float = 0.02
    ramp: float = 0.5
    overshoot: float = 1.0
    initialise: bool = True
    l1: float = 0.0
    regularise: float = 0.0
    tolerance: float = 0.5
    rate: Rate = Decayed(factor=0.2, times=3, after=0.7)
    batch: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_up < 0 or self.ramp < 0 or self.warm_up + self.ramp > 1:
            raise ValueError(
                "warm_up and ramp are shares of the run, each >= 0 and together at most 1, "
                f"got {self.warm_up} and {self.ramp}"
            )
        if not 0 < self.overshoot < float("inf"):
            raise ValueError(f"overshoot must be a number > 0, got {self.overshoot}")
        if not 0 <= self.l1 < float("inf"):
            raise ValueError(f"l1 must be a number >= 0, got {self.l1}")
        if not 0 <= self.regularise < float("inf") or not 0 < self.tolerance <= 1:
            raise ValueError(
                f"regularise must be a number >= 0 and tolerance in (0, 1], got {self.regularise} and {self.tolerance}"
            )

    def grown(self, progress: Progress) -> float:
        """How far the ramp is at a progress, 0 to 1."""
        return Ramp(start=0.0, begin=self.warm_up, end=self.warm_up + self.ramp).at(progress.share)

    def radius(self, grown: float) -> float:
        """The radius that is trained for where the ramp is at `grown`."""
        return grown * self.overshoot * self.eps


@register
@dataclass(frozen=True, kw_only=True)
class IntervalTraining(IntervalBased):
    """(1 - kappa) * cross-entropy at the clean inputs + kappa * cross-entropy at the worst margins by intervals.

    Args:
        kappa: weight of the interval loss at the end of the ramp; 1: the interval loss alone.
        first_kappa: its weight at the start of the ramp, from which it moves linearly. Gowal et al. move from 0 to a
            half.
    """

    name: ClassVar[str] = "ibp"

    kappa: float = 1.0
    first_kappa: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kappa", "first_kappa"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return _PlainIntervalRun(self, network, generator)


class IntervalRun(TrainingRun):
    """The parts of a run that methods with an interval loss share: the radius in force, warm-up, penalty."""

    method: IntervalBased

    def __init__(self, method: IntervalBased, network: NetworkInTraining, generator: torch.Generator) -> None:
        super().__init__(method, network, generator)
        if method.initialise:
            interval_initialisation(network.model, generator)

    def doubts(self, epochs: int) -> Iterator[str]:
        return radius_doubt(self.method.warm_up + self.method.ramp, epochs)

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        grown = self.method.grown(progress)
        with self.network.on_batch(x):
            # at radius zero the intervals are the values: plain training, at a fraction of the time
            loss = self.plain(x, label) if grown == 0 else self.robust(x, label, grown)
            if self.method.l1 == 0:
                return loss
            penalty = l1_norm(self.network.graph)
        return BatchLoss(loss.value + self.method.l1 * penalty, loss.figures)

    def plain(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B] int64
        """The loss of a batch at radius zero, without penalty; its figures are those of `robust`."""
        margins = margins_of(self.network(x), label)
        return self.figures(cross_entropy(margins), margins)

    @abstractmethod
    def robust(self, x: Tensor, label: Tensor, grown: float) -> BatchLoss:  # [B, *input], [B] int64
        """The loss of a batch where the ramp is at `grown`, without penalty; called inside `network.on_batch(x)`."""

    def bounds(self, inputs: InputSet, label: Tensor) -> IntervalPass:  # [B] int64
        """Worst margins by intervals, and the ranges on the way to them."""
        return interval_pass(self.network.graph, inputs, label)

    def regularised(self, loss: BatchLoss, passed: IntervalPass, grown: float) -> BatchLoss:
        """A batch's loss with the regularisers of the warm-up, as far as they count where the ramp is at `grown`."""
        weight = self.method.regularise * (1 - grown)
        if weight == 0:
            return loss
        penalty = warm_up_penalty(self.network.graph, passed, self.method.tolerance)
        return BatchLoss(loss.value + weight * penalty, loss.figures)

    def figures(self, loss: Tensor, margins: Tensor) -> BatchLoss:  # [B], [B, classes - 1]
        """The mean loss, with the share of examples whose worst margins do not prove them."""
        return BatchLoss(loss.mean(), {"interval_error": error_of(margins)})


class _PlainIntervalRun(IntervalRun):
    method: IntervalTraining

    def robust(self, x: Tensor, label: Tensor, grown: float) -> BatchLoss:  # [B, *input], [B]
        passed = self.bounds(self.method.sets(x, self.method.radius(grown)), label)
        loss, kappa = cross_entropy(passed.margins), self._kappa(grown)
        if kappa < 1:
            loss = (1 - kappa) * F.cross_entropy(self.network(x), label, reduction="none") + kappa * loss
        return self.regularised(self.figures(loss, passed.margins), passed, grown)

    def _kappa(self, grown: float) -> float:
        return self.method.first_kappa + grown * (self.method.kappa - self.method.first_kappa)
