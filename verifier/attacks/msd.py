"""Attacks on a union of sets: multi steepest descent, and the worst of separate attacks (Wong 2020, section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties import InputSet, Union
from verifier.attacks.base import Attack, register
from verifier.attacks.pgd import PGD
from verifier.attacks.points import AttackPoints
from verifier.attacks.problem import AttackProblem

if TYPE_CHECKING:
    from verifier.budget import Budget


@register
class MSD(PGD):
    """Multi steepest descent (Wong 2020, section 5.3.2, algorithm 9).

    Every step tries the steepest step and the projection of each member of the union, and keeps for each example the
    one with the lowest loss. On a set that is no union it is PGD. Options as there.

    Made for training, where it is one attack for all members; to break a fixed network, separate attacks on the members
    (`WorstMember`) found more in the same time wherever we measured.
    """

    name = "msd"

    def move(
        self, problem: AttackProblem, x: Tensor, direction: Tensor, length: float, target: Tensor | None
    ) -> Tensor:  # [B, *input] each, [B] -> [B, *input]
        members = members_of(problem.inputs)
        if len(members) == 1:
            return super().move(problem, x, direction, length, target)
        tried = [super(MSD, self).move(replace(problem, inputs=m), x, direction, length, target) for m in members]
        with torch.no_grad():
            losses = torch.stack([self.loss(problem.clauses(point), target) for point in tried])
        return torch.stack(tried)[losses.argmin(0), torch.arange(len(x), device=x.device)]


@register
class WorstMember(Attack):
    """A separate attack on each member of a union, of which the worst counts (Wong 2020, section 5.3.1, eq. 5.30-31).

    Args:
        attack: on each member; default PGD.
    """

    name = "max"
    never_worse = True

    def __init__(self, attack: Attack | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        self.attack = attack or PGD()

    @classmethod
    def examples(cls) -> list[Attack]:
        return [cls(example) for example in PGD.examples()]

    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        first, *others = (
            self.attack.search(replace(problem, inputs=member), generator, budget)
            for member in members_of(problem.inputs)
        )
        best = AttackPoints(*first)
        for points, value in others:
            best.keep(points, value)
        return best.points, best.value


class OneAfterAnother(Attack):
    """Several attacks, each on the examples that those before it did not break; the best point counts.

    Args:
        attacks: in order, at least one.
    """

    def __init__(self, attacks: Sequence[Attack], seed: int = 0) -> None:
        super().__init__(seed)
        if not attacks:
            raise ValueError("give at least one attack")
        self.attacks = tuple(attacks)

    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        best = AttackPoints(*self.attacks[0].search(problem, generator, budget))
        for attack in self.attacks[1:]:
            left = (~(best.value < 0)).nonzero().squeeze(1)
            if len(left) == 0 or (budget is not None and budget.spent):
                break
            best.keep(*attack.search(problem.select(left), generator, budget), left)
        return best.points, best.value


def members_of(inputs: InputSet) -> tuple[InputSet, ...]:
    """The members of a union; any other set is its own only member."""
    return inputs.members if isinstance(inputs, Union) else (inputs,)
