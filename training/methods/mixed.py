"""Mixes of the adversarial and the interval loss: expressive losses (De Palma et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from properties import robustness
from training.margin_loss import error_of, margins_of
from training.method import BatchLoss, TrainingRun, register
from training.methods.interval import IntervalBased, IntervalRun
from training.modes import evaluated
from training.network import NetworkInTraining
from verifier.attacks import FGSM, PGD, Attack, Random
from verifier.attacks.losses import CrossEntropy, cross_entropy

#: margins at adversarial points and worst margins by intervals, both [B, classes - 1], and alpha -> losses [B]
Combination = Callable[[Tensor, Tensor, float], Tensor]

#: loss below which an example has nothing left to teach: keeps powers of it, and their gradients, finite in float32
_NOTHING = 1e-35


def weighted(adversarial: Tensor, interval: Tensor, alpha: float) -> Tensor:  # [B, classes - 1] each -> [B]
    """(1 - alpha) L_adv + alpha L_ibp (MTL-IBP, De Palma et al. 2024)."""
    return (1 - alpha) * cross_entropy(adversarial) + alpha * cross_entropy(interval)


def powers(adversarial: Tensor, interval: Tensor, alpha: float) -> Tensor:  # [B, classes - 1] each -> [B]
    """L_adv^(1 - alpha) L_ibp^alpha (Exp-IBP, De Palma et al. 2024)."""
    first, second = (cross_entropy(worst).clamp(min=_NOTHING).log() for worst in (adversarial, interval))
    return ((1 - alpha) * first + alpha * second).exp()


def blended(adversarial: Tensor, interval: Tensor, alpha: float) -> Tensor:  # [B, classes - 1] each -> [B]
    """Cross-entropy at (1 - alpha) adversarial margins + alpha worst margins (CC-IBP, De Palma et al. 2024)."""
    return cross_entropy((1 - alpha) * adversarial + alpha * interval)


#: combinations by the name that users give them
COMBINATIONS: dict[str, Combination] = {"mtl": weighted, "exp": powers, "cc": blended}


@register
@dataclass(frozen=True, kw_only=True)
class MixedTraining(IntervalBased):
    """A loss between the adversarial one (alpha = 0) and the interval one (alpha = 1), reached in one of three ways.

    Args:
        alpha: how far towards the interval loss, 0 to 1.
        combination: "mtl": of the losses, "exp": of their logarithms, "cc": of the margins inside the cross-entropy.
        attack_steps: 1: a single step from a random point, as in `fast`; more: projected gradient descent from one.
        attack_step: length of a step as a fraction of the set's size; it shrinks where there are several. De Palma et
            al. take single steps of 10, which end at corners, or 8 of 0.25 at CIFAR-10 and 2/255.
        attack_radius: the attacked sets' radius in multiples of the interval loss's, so that both grow over the ramp,
            as in the program of De Palma et al. They attack 2.1 times what they prove at CIFAR-10 and 2/255.
    """

    name: ClassVar[str] = "mtl-ibp"

    alpha: float = 0.5
    combination: str = "mtl"
    attack_steps: int = 1
    attack_step: float = 1.25
    attack_radius: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}")
        if self.combination not in COMBINATIONS:
            raise ValueError(f"no combination is called {self.combination!r}; there are: {', '.join(COMBINATIONS)}")
        if not 0 < self.attack_radius < math.inf:
            raise ValueError(f"attack_radius must be a number > 0, got {self.attack_radius}")
        self.attack()

    def attack(self) -> Attack:
        """What finds the adversarial points."""
        if not self.attack_step > 0:
            raise ValueError(f"attack_step must be a number > 0, got {self.attack_step}")
        if self.attack_steps == 1:
            return FGSM.fast(self.attack_step)
        # no example is spared because it is lost already
        return PGD(
            self.attack_steps, 1, self.attack_step, CrossEntropy(), first=Random(), momentum=0.0, stop=-math.inf
        )  # fmt: skip

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return _Mixed(self, network, generator)


class _Mixed(IntervalRun):
    method: MixedTraining

    def plain(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        loss = super().plain(x, label)
        return BatchLoss(loss.value, {**loss.figures, "adversarial_error": loss.figures["interval_error"]})

    def robust(self, x: Tensor, label: Tensor, grown: float) -> BatchLoss:  # [B, *input], [B]
        method, radius = self.method, self.method.radius(grown)
        inputs = method.sets(x, radius)
        passed = self.bounds(inputs, label)
        attacked = inputs if method.attack_radius == 1 else method.sets(x, method.attack_radius * radius)
        spec = robustness(label, self.network.classes)
        with evaluated(self.network.model):
            points = method.attack().perturb(self.network, attacked, spec, self.generator, self.network.dtype)
        adversarial = margins_of(self.network(points), label)
        mixed = COMBINATIONS[method.combination](adversarial, passed.margins, method.alpha)
        loss = self.regularised(self.figures(mixed, passed.margins), passed, grown)
        return BatchLoss(loss.value, {**loss.figures, "adversarial_error": error_of(adversarial)})
