"""Adversarial training: the cross-entropy at the points that an attack of the verifier finds.

Madry et al. (2018); in sets other than l-infinity balls and in unions of them, Wong (2020), chapter 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from properties import robustness
from training.margin_loss import error_at
from training.method import BatchLoss, TrainingRun, register
from training.modes import evaluated
from training.network import NetworkInTraining
from training.penalty import PenalisedRun, PenalisedTraining
from verifier.attacks import PGD, STARTS, Attack, AttackProblem, CrossEntropy, StartRule, make

#: what is said to attacks of many steps, where the settings leave it open
SEARCH: dict[str, Any] = {"steps": 10, "restarts": 1, "momentum": 0.0}


@register
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(PenalisedTraining):
    """The cross-entropy at the worst points that an attack finds around the training images.

    The attack descends on the cross-entropy too, with a random start in every batch. What is not given below has the
    attack's own default, but for 10 steps, 1 restart and no momentum. The network is attacked in eval mode, and learns
    in train mode: the points are then such as break the function that is verified later, no image's points depend on
    the rest of the batch, and batch norm's running averages see each batch once, not once per step of the attack.
    Attacks of many steps keep the point of least margin on their way, not the last one as Madry et al. do.

    With `smallest`, the radius adapts to each image (Wong 2020, sections 5.2.1 and 5.2.3): the attack begins with that
    radius, which grows by the factor `growth`, up to eps, as long as the image is not broken, and the search goes on
    from where it was. The network learns at the points of the first radius that broke the image. The thesis's setting
    for Wasserstein balls on MNIST is eps 2.1, smallest 0.1, growth 1.4, steps 5 (of its 50 steps the last are at radius
    2.07; here 5 more follow at 2.1).

    Args:
        attack: name of an attack (verifier.attacks.REGISTRY); "msd" for unions, and "max" for the worst of separate
            attacks by "pgd" on their members.
        steps: gradient steps of the attack, with `smallest` at every radius.
        step: length of the first one, as a fraction of the set's size. Steps shrink linearly to a tenth of it.
        restarts, momentum: as in verifier.attacks.PGD.
        start: of every run (verifier.attacks.STARTS); default "random".
        smallest: the radius to begin with, 0 < smallest <= eps; default none: the radius is eps.
        growth: factor > 1 from radius to radius.
        clean: share of the cross-entropy at the clean inputs in the loss, 0 <= clean < 1. Goodfellow et al. (2015) take
            half. With the adversarial loss at weight 0.5 beside the clean one (AT-NN of Raghunathan et al. 2018) it is
            2/3.
    """

    name: ClassVar[str] = "adversarial"
    goal: ClassVar[str] = "attacked"

    attack: str = "pgd"
    steps: int | None = None
    step: float | None = None
    restarts: int | None = None
    momentum: float | None = None
    start: str | None = None
    smallest: float | None = None
    growth: float = 1.4
    clean: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = self.made()
        if not 0 <= self.clean < 1:
            raise ValueError(f"clean must be a share >= 0 and < 1, got {self.clean}")
        if self.smallest is None:
            return
        if self.ramp:
            raise ValueError("ramp and smallest both make the radius grow: give one of them")
        if not 0 < self.smallest <= self.eps:
            raise ValueError(f"smallest must be a radius > 0, at most eps = {self.eps}, got {self.smallest}")
        if not 1 < self.growth < math.inf:
            raise ValueError(f"growth must be a factor > 1, got {self.growth}")
        if not isinstance(chosen, PGD) or self.restarts not in (None, 1):
            raise ValueError('a radius that grows goes on with one search: attack "pgd" or "msd", without restarts')

    def made(self) -> Attack:
        """The attack.

        Raises:
            ValueError: no such attack, or it does not take a setting that is given.
        """
        given = {k: v for k in ("step", "steps", "restarts", "momentum") if (v := getattr(self, k)) is not None}
        if self.start is not None or self.attack not in _ONE_STEP:
            given["start"] = start_named(self.start or "random")
        given["loss"] = CrossEntropy()
        if self.attack in _ONE_STEP:
            return make(self.attack, **given)
        if "start" in given:
            given["first"] = given["start"]
        given = {**SEARCH, "stop": -torch.inf, **given}
        return make("max", attack=PGD(**given)) if self.attack == "max" else make(self.attack, **given)

    def radii(self) -> list[float]:
        """The radii that an attack goes through."""
        if self.smallest is None:
            return [self.eps]
        radii = [self.smallest]
        while radii[-1] * self.growth < self.eps:
            radii.append(radii[-1] * self.growth)
        return radii if radii[-1] == self.eps else [*radii, self.eps]

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        chosen = self.made()
        if self.smallest is None:
            return MixedWithClean(self, network, generator, chosen)
        assert isinstance(chosen, PGD)
        return _Growing(self, network, generator, chosen)


#: attacks that take neither steps nor restarts
_ONE_STEP = ("fgsm", "fgsm-random")


class Attacked(PenalisedRun):
    """A run on points that an attack finds.

    Args:
        method, network, generator: as given to `TrainingMethod.begin`.
        attack: is run on every batch.
    """

    def __init__(
        self, method: PenalisedTraining, network: NetworkInTraining, generator: torch.Generator, attack: Attack
    ) -> None:
        super().__init__(method, network, generator)
        self.attack = attack

    def learned(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        """The cross-entropy at the points."""
        points, figures = self.points(x, label)
        outputs = self.network(points)
        return BatchLoss(F.cross_entropy(outputs, label), {"error": error_at(outputs, label), **figures})

    def points(self, x: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Members [B, *input] of the sets around x, and figures for the log."""
        spec = robustness(label, self.network.classes)
        with evaluated(self.network.model):
            found = self.attack.perturb(self.network, self.sets(x), spec, self.generator, self.network.dtype)
        return found, {}


class MixedWithClean(Attacked):
    """A run whose loss may have a share of the clean one."""

    method: AdversarialTraining

    def learned(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        share = self.method.clean
        if share == 0:
            return self.adversarial(x, label)
        with self.network.on_batch(x):
            loss, clean = self.adversarial(x, label), F.cross_entropy(self.network(x), label)
        return BatchLoss((1 - share) * loss.value + share * clean, loss.figures)

    def adversarial(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        """The adversarial part of the loss."""
        return super().learned(x, label)


class _Growing(MixedWithClean):
    """A run on points of the smallest radius that breaks each image."""

    attack: PGD

    def points(self, x: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # [B, *input], [B] -> [B, *input]
        spec, dtype = robustness(label, self.network.classes), self.network.dtype
        left = torch.arange(len(x), device=x.device)
        points, reached = x.clone(), x.new_full((len(x),), self.method.eps)
        with evaluated(self.network.model):
            for k, radius in enumerate(self.method.radii()):
                problem = AttackProblem(self.network, self.method.sets(x[left], radius), spec.select(left), dtype)
                start = points[left] if k else self.attack.first.points(problem, left, self.generator)
                found, value = self.attack.descend(problem, start)
                points[left], reached = problem.inputs.inside(found, dtype), reached.index_fill(0, left, radius)
                left = left[~(value < 0)]
                if len(left) == 0:
                    break
        return points, {"radius": reached.mean()}


def start_named(name: str) -> StartRule:
    """A rule for starting points, by its name."""
    return STARTS.named_part(name)()
