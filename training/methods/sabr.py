"""Training on small boxes around adversarial points: SABR (Mueller, Eckert, Fischer and Vechev 2023)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from properties import Box, InputSet, robustness
from training.margin_loss import error_of
from training.method import BatchLoss, TrainingRun, register
from training.methods.interval import IntervalBased, IntervalRun
from training.modes import evaluated
from training.network import NetworkInTraining
from verifier.attacks import PGD, CrossEntropy, Random
from verifier.attacks.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class SmallBoxes(IntervalBased):
    """What methods share that send a small box around an adversarial point through the network.

    The box has `share` times the radius, and is moved from the point into the set's own box as far as is needed.
    Intervals see nothing but boxes, so that any threat model is one; in l-infinity balls it is the papers' own.

    Args:
        share: of the radius, 0 < share <= 1 (lambda); at 1 the box is the whole set's.
        attack_steps: of projected gradient descent from a random member, which finds the point.
        attack_step: length of the first step as a fraction of the set's size; steps shrink to a tenth of it.
        regularise: as in "ibp", with the papers' weight as default.
    """

    share: float = 0.4
    attack_steps: int = 8
    attack_step: float = 0.5
    regularise: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be > 0 and at most 1, got {self.share}")
        self.attack()

    def attack(self) -> PGD:
        """What finds the adversarial points; no example is spared because it is lost already."""
        return PGD(
            self.attack_steps, 1, self.attack_step, CrossEntropy(), first=Random(), momentum=0.0, stop=-math.inf
        )  # fmt: skip

    def small_box(self, x: Tensor, point: Tensor, radius: float) -> Box:  # [B, *input] each
        """The box that is sent through the network.

        Args:
            point: members of the sets of that radius around x.
        """
        lower, upper = self.sets(x, radius).box(x.dtype)
        free = dataclasses.replace(self.perturbation, eps=self.share * radius, clip=None).around(x).box(x.dtype)
        half = torch.minimum((free[1] - free[0]) / 2, (upper - lower) / 2)
        center = torch.minimum(torch.maximum(point, lower + half), upper - half)
        return Box(torch.maximum(center - half, lower), torch.minimum(center + half, upper))


@register
@dataclass(frozen=True, kw_only=True)
class SabrTraining(SmallBoxes):
    """Cross-entropy at the worst margins that intervals allow in a small box around an adversarial point.

    Mueller et al. (2023), Certified training: small boxes are all you need. Less than the whole set is bounded, so that
    the loss proves nothing: the network learns at the bounds of where it is weakest, which regularises less than
    bounds of everything. Their shares are 0.4 and 0.6 for MNIST at 0.1 and 0.3, and 0.1 and 0.7 for CIFAR-10 at 2/255
    and 8/255, their l1 penalties 1e-5 to 1e-6. Their shrinking of intervals behind ReLUs at 2/255 is left out.
    """

    name: ClassVar[str] = "sabr"

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return SmallBoxRun(self, network, generator)


class SmallBoxRun(IntervalRun):
    """A run on small boxes; its figures are about them, and about the adversarial points."""

    method: SmallBoxes

    def plain(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        loss = super().plain(x, label)
        return self.named(loss, loss.figures["interval_error"])

    def robust(self, x: Tensor, label: Tensor, grown: float) -> BatchLoss:  # [B, *input], [B]
        box, wrong = self.region(x, label, self.method.radius(grown))
        passed = self.bounds(box, label)
        loss = self.figures(cross_entropy(passed.margins), passed.margins)
        return self.named(self.regularised(loss, passed, grown), wrong)

    def region(self, x: Tensor, label: Tensor, radius: float) -> tuple[InputSet, Tensor]:  # [B, *input], [B]
        """The small boxes, and the share of the examples that the adversarial points break."""
        spec = robustness(label, self.network.classes)
        inputs, network = self.method.sets(x, radius), self.network
        with evaluated(network.model):
            point = self.method.attack().perturb(network, inputs, spec, self.generator, network.dtype)
            with torch.no_grad():
                wrong = error_of(spec.values(network(point)))
        return self.method.small_box(x, point, radius), wrong

    def named(self, loss: BatchLoss, wrong: Tensor) -> BatchLoss:
        """The loss, with the shares of the boxes that are not proved and of the examples that are broken."""
        return BatchLoss(loss.value, {"box_error": loss.figures["interval_error"], "adversarial_error": wrong})
