"""Fast adversarial training: one step from a random start, watched for catastrophic overfitting.

Wong (2020), sections 4.1 and 4.2; Wong, Rice and Kolter (2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from properties import robustness
from training.method import BatchLoss, Progress, TrainingRun, register
from training.methods.adversarial import Attacked, start_named
from training.modes import evaluated
from training.network import NetworkInTraining
from training.penalty import PenalisedTraining
from training.schedule import Cyclic, Optimiser, Rate
from verifier.attacks import FGSM, PGD, AttackProblem, CrossEntropy, Random, StartRule

#: a collapse is a fall of at least this much, so that an accuracy near that of guessing does not count as one
LEAST_FALL = 0.1

#: the start that only training has: it is a matter of the batch before
PREVIOUS = "previous"


@register
@dataclass(frozen=True, kw_only=True)
class FastTraining(PenalisedTraining):
    """The cross-entropy after one steepest step from a random member (algorithm 7), with a cyclic learning rate.

    At the end of every epoch, PGD of 5 steps attacks the first batch of the run, in eval mode. Where the accuracy that
    it leaves has fallen below `collapse` times the best so far, and by more than 0.1, the network has overfitted to the
    single step (section 4.1.2): the run stops there, with the weights of the epoch when that accuracy was best. It
    should not happen with the step of 1.25 and the random start; longer steps and a start at the center provoke it.

    The thesis trains residual networks by SGD with momentum 0.9, weight decay 5e-4 and a peak rate of 0.2; the defaults
    here are for the small networks without batch norm that can be verified. Start and step know no valid range; the
    point that they end at is moved into `clip` last (verifier.attacks.FGSM).

    Args:
        step: its length as a fraction of the set's size.
        start: where it starts, of verifier.attacks.STARTS: "uniform" (the same as "random"), "zero", "hypercube" (the
            R+FGSM of Tramèr et al.); or "previous": the image plus what the batch before had added to its own, as in
            "free" training (tables 4.1 and 4.3).
        collapse: share of the best accuracy, 0 <= collapse < 1; 0: the run never stops for it.
    """

    name: ClassVar[str] = "fast"
    goal: ClassVar[str] = "attacked"

    step: float = 1.25
    start: str = "random"
    collapse: float = 0.5
    optimiser: Optimiser = Optimiser(rate=5e-3)
    rate: Rate = Cyclic()
    batch: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be a number > 0, got {self.step}")
        if not 0 <= self.collapse < 1:
            raise ValueError(f"collapse must be a share >= 0 and < 1, got {self.collapse}")
        if self.start != PREVIOUS:
            start_named(self.start)

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        start = _Previous() if self.start == PREVIOUS else start_named(self.start)
        return _Watched(self, network, generator, FGSM(self.step, CrossEntropy(), start))


class _Previous(StartRule):
    """The center, moved by what the last batch had added; no further than this batch's sets go."""

    def __init__(self) -> None:
        self.moved: Tensor | None = None  # [B, *input]

    def points(self, problem: AttackProblem, kept: Tensor, generator: torch.Generator) -> Tensor:  # -> [k, *input]
        x = problem.center()
        if self.moved is not None:
            count = min(len(x), len(self.moved))  # an epoch's last batch may be smaller
            x[:count] += self.moved[:count]
            x = problem.inputs.project(x)
        return x[kept]

    def remember(self, moved: Tensor) -> None:  # [B, *input]
        """Keep what a batch has added. Of a smaller batch's, the rest is that of the batch before."""
        if self.moved is None or len(moved) >= len(self.moved):
            self.moved = moved
        else:
            self.moved = torch.cat([moved, self.moved[len(moved) :]])


class _Watched(Attacked):
    """A run that remembers one batch, the best accuracy under PGD on it, and the weights of then."""

    method: FastTraining
    attack: FGSM
    check = PGD(5, 1, 0.5, CrossEntropy(), first=Random(), momentum=0.0)

    def __init__(
        self, method: FastTraining, network: NetworkInTraining, generator: torch.Generator, attack: FGSM
    ) -> None:
        super().__init__(method, network, generator, attack)
        self.seen: tuple[Tensor, Tensor] | None = None
        self.best, self.epoch = 0.0, 0
        self.weights: dict[str, Tensor] = {}

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        if self.seen is None:
            self.seen = x.detach().clone(), label.clone()
        return super().loss(x, label, progress)

    def points(self, x: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # [B, *input], [B]
        points, figures = super().points(x, label)
        if isinstance(self.attack.start, _Previous):
            self.attack.start.remember(points - x.detach())
        return points, figures

    def epoch_ended(self, progress: Progress) -> str | None:
        accuracy = self.accuracy()
        if accuracy < self.method.collapse * self.best and self.best - accuracy > LEAST_FALL:
            self.network.model.load_state_dict(self.weights)
            return (
                f"catastrophic overfitting in epoch {progress.epoch + 1}: accuracy under PGD on a training batch fell "
                f"to {accuracy:.1%}, from {self.best:.1%} in epoch {self.epoch}, whose weights are back"
            )
        if accuracy >= self.best:
            self.best, self.epoch = accuracy, progress.epoch + 1
            self.weights = {k: v.detach().clone() for k, v in self.network.model.state_dict().items()}
        return None

    def accuracy(self) -> float:
        """Share of the remembered batch that is right under PGD; its random starts are the same each time."""
        assert self.seen is not None, "an epoch has a step"
        x, label = self.seen
        problem = AttackProblem(
            self.network, self.method.sets(x), robustness(label, self.network.classes), self.network.dtype
        )
        with evaluated(self.network.model):
            return float((self.check.run(problem).value > 0).double().mean())

    def state(self) -> dict[str, Any]:
        seen = {} if self.seen is None else {"images": self.seen[0], "labels": self.seen[1]}
        moved = {"moved": self.attack.start.moved} if isinstance(self.attack.start, _Previous) else {}
        return {**seen, **moved, "best": self.best, "epoch": self.epoch, "weights": self.weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        device = self.network.device
        if "images" in state:
            self.seen = state["images"].to(device), state["labels"].to(device)
        if isinstance(self.attack.start, _Previous) and state["moved"] is not None:
            self.attack.start.moved = state["moved"].to(device)
        self.best, self.epoch = state["best"], state["epoch"]
        self.weights = {k: v.to(device) for k, v in state["weights"].items()}
