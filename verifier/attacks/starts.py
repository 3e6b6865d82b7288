"""Where an attack starts: the center, a random member, a member that is diverse in the network's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from properties.device import sent
from verifier.attacks.problem import AttackProblem
from verifier.registry import Registry

#: starts by the name that users give them
STARTS: Registry[type[StartRule]] = Registry("start", "verifier.attacks", "verifier.attack_starts")
register = STARTS.register


class StartRule(ABC):
    """A rule for starting points."""

    name: ClassVar[str]

    @abstractmethod
    def points(self, problem: AttackProblem, kept: Tensor, generator: torch.Generator) -> Tensor:
        """Members of the sets of the examples `kept` ([k] int64), up to rounding: [k, *input].

        What is random is drawn for the whole batch: an example's start does not depend on which others are kept.
        """


@register
class Center(StartRule):
    """The clean input."""

    name = "center"
    aliases = ("zero",)

    def points(self, problem: AttackProblem, kept: Tensor, generator: torch.Generator) -> Tensor:  # -> [k, *input]
        return problem.center()[kept]


@register
class Random(StartRule):
    """A random member."""

    name = "random"
    aliases = ("uniform",)

    def points(self, problem: AttackProblem, kept: Tensor, generator: torch.Generator) -> Tensor:  # -> [k, *input]
        return problem.inputs.sample(generator)[kept].to(problem.dtype)


@register
class Hypercube(StartRule):
    """Half the radius from the center in a random direction: eps / 2 * sign(Normal(0, 1)) in an l-infinity ball.

    Tramèr et al. (2018): R+FGSM, beside which Wong (2020), section 4.1.4, sets a start anywhere in the ball.
    """

    name = "hypercube"

    def points(self, problem: AttackProblem, kept: Tensor, generator: torch.Generator) -> Tensor:  # -> [k, *input]
        center, part = problem.center()[kept], problem.inputs.select(kept)
        normal = torch.randn((problem.batch, *center.shape[1:]), generator=generator, dtype=torch.float64)
        direction = sent(normal, center.device).to(center)[kept]
        return part.project(center + part.steepest_ascent(center, direction, 0.5))


@register
class Diversified(StartRule):
    """A random member, moved along a random direction of the outputs (Tashiro et al. 2020, section 3: ODI).

    Args:
        steps: steepest steps along the gradient of w . outputs, w uniform in [-1, 1].
        step: length of each, as a fraction of the set's size.
    """

    name = "diversified"

    def __init__(self, steps: int = 2, step: float = 1.0) -> None:
        self.steps, self.step = steps, step

    def points(self, problem: AttackProblem, kept: Tensor, generator: torch.Generator) -> Tensor:  # -> [k, *input]
        x = problem.inputs.sample(generator)[kept].to(problem.dtype)
        w = 2 * torch.rand(problem.batch, problem.spec.rows.shape[2], generator=generator, dtype=problem.dtype) - 1
        w, part = sent(w, x.device)[kept], problem.select(kept)
        for _ in range(self.steps):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad((w * part.outputs(x)).sum(), x)
            x = x.detach()
            x = part.inputs.project(x + part.inputs.steepest_ascent(x, gradient, self.step))
        return x
