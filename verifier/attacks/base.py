"""The protocol of an attack, and the register of attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.attacks.losses import AttackLoss
from verifier.attacks.points import AttackPoints
from verifier.attacks.problem import AttackProblem
from verifier.registry import Registry

if TYPE_CHECKING:
    from verifier.budget import Budget

#: makers of attacks by the name that users give them; each takes that attack's options
REGISTRY: Registry[Callable[..., Attack]] = Registry("attack", "verifier.attacks", "verifier.attacks")
register = REGISTRY.register


class Attack(ABC):
    """A search for points of input sets where a network breaks its specification.

    Options are the constructor's; an attack keeps no state, and is deterministic given its seed, or a generator.
    """

    #: by which users ask for it, where it is registered
    name: ClassVar[str] = ""
    #: its points are never worse than the clean input
    never_worse: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @classmethod
    def examples(cls) -> Sequence[Attack]:
        """Quick instances that cover the attack's options; the conformance tests run on them."""
        return [cls()]

    def run(
        self, problem: AttackProblem, generator: torch.Generator | None = None, budget: Budget | None = None
    ) -> AttackPoints:
        """The best points that the attack sees of every example, moved into the sets by roundings.

        Their values are those before the roundings.

        The points are candidates: whoever asked replays them in the original model, and nothing else makes a
        counterexample.

        Args:
            problem: a network, B input sets, what must hold, and perhaps the clause to break.
            generator: of all that is random; default a fresh one with the attack's seed.
            budget: when it is spent, the best points so far are the answer.

        Returns:
            One point per example, moved into its set by roundings, and the value of its worst clause.
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
        """The points of `search` alone, for attacks that find them with less work than their values.

        Args:
            problem, generator: as in `search`.

        Returns:
            [B, *input], members up to rounding.
        """
        return self.search(problem, generator, None)[0]

    @abstractmethod
    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:
        """The search itself: what an attack has to have.

        Args:
            problem: ask it for `clauses(x)`, whose gradient leads down, and its `inputs` for projections and steps.
            generator: of all that is random, so that runs can be repeated.
            budget: look at `budget.spent` inside the loop; None: no limit.

        Returns:
            Points [B, *input] in the problem's precision, members up to rounding (`run` moves them inside), and their
            values [B]: `problem.value` of their clauses, the lower the nearer to a counterexample.
        """


def make(name: str, **options: Any) -> Attack:
    """The attack of that name.

    Raises:
        ValueError: no such attack, or an option that it does not have.
    """
    maker = REGISTRY.named_part(name)
    try:
        return maker(**options)
    except TypeError as error:
        raise ValueError(f"attack {name!r} cannot be made with {options}: {error}") from error


def descent_direction(
    problem: AttackProblem, x: Tensor, loss: AttackLoss, target: Tensor | None
) -> tuple[Tensor, Tensor]:  # [B, clauses], [B, *input]
    """Where to go from x: the loss's steepest descent, before any set's geometry.

    Args:
        problem: what is attacked.
        x: [B, *input].
        loss: a function of the clauses' values.
        target: [B] int64, the clause to break; None: whichever the loss points to.

    Returns:
        Clause values at x [B, clauses], without gradient, and minus the loss's gradient there [B, *input].
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        clauses = problem.clauses(x)
        (gradient,) = torch.autograd.grad(loss(clauses, target).sum(), x)
    return clauses.detach(), -gradient
