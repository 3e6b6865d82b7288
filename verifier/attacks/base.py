"""The protocol of an attack, and the register of attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.attacks.losses import AttackLoss
from verifier.attacks.points import AttackPoints
from verifier.attacks.problem import AttackProblem

if TYPE_CHECKING:
    from verifier.budget import Budget

#: makers of attacks by the name that users give them; each takes that attack's options
REGISTRY: dict[str, Callable[..., Attack]] = {}


class Attack(ABC):
    """A search for points of input sets where a network breaks its specification.

    Options are the constructor's; an attack keeps no state, and is deterministic given its seed, or a generator.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def run(
        self, problem: AttackProblem, generator: torch.Generator | None = None, budget: Budget | None = None
    ) -> AttackPoints:
        """The best points that the attack sees of every example, moved into the sets by roundings.

        Their values are those before the roundings.

        Args:
            generator: of all that is random; default a fresh one with the attack's seed.
            budget: when it is spent, the best points so far are the answer.
        """
        generator = torch.Generator().manual_seed(self.seed) if generator is None else generator
        points, value = self.search(problem, generator, budget)
        return AttackPoints(problem.inputs.inside(points.detach(), problem.dtype), value.detach())

    def perturb(
        self,
        network: Callable[[Tensor], Tensor],
        inputs: InputSet,
        spec: Specification,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Adversarial points [B, *input] for training, from a live network; no gradient flows through them.

        Args:
            network: [B, *input] -> [B, outputs] in `dtype`, in the mode in which it is to be attacked.
            spec: `robustness(label, classes)`, as a rule.
            generator: give one, so that each step of training gets other starts.
        """
        generator = torch.Generator().manual_seed(self.seed) if generator is None else generator
        return inputs.inside(self.points(AttackProblem(network, inputs, spec, dtype), generator).detach(), dtype)

    def points(self, problem: AttackProblem, generator: torch.Generator) -> Tensor:
        """The points of `search` alone, for attacks that find them with less work than their values."""
        return self.search(problem, generator, None)[0]

    @abstractmethod
    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:
        """Points [B, *input], members up to rounding, and their values [B]."""


def register(name: str, maker: Callable[..., Attack]) -> None:
    """Make an attack known by name."""
    REGISTRY[name] = maker


def make(name: str, **options: Any) -> Attack:
    """The attack of that name.

    Raises:
        ValueError: no such attack, or an option that it does not have.
    """
    if name not in REGISTRY:
        raise ValueError(f"no attack is called {name!r}; there are: {', '.join(sorted(REGISTRY))}")
    try:
        return REGISTRY[name](**options)
    except TypeError as error:
        raise ValueError(f"attack {name!r} cannot be made with {options}: {error}") from error


def descent_direction(
    problem: AttackProblem, x: Tensor, loss: AttackLoss, target: Tensor | None
) -> tuple[Tensor, Tensor]:  # [B, clauses], [B, *input]
    """Clause values at x, without gradient, and minus the loss's gradient there."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        clauses = problem.clauses(x)
        (gradient,) = torch.autograd.grad(loss(clauses, target).sum(), x)
    return clauses.detach(), -gradient
