"""Looking for counterexamples by gradient (verifier.attacks), batched."""

from __future__ import annotations

from typing import ClassVar

import torch

from properties import InputSet, Union
from verifier.attacks.base import Attack
from verifier.attacks.msd import MSD, OneAfterAnother, WorstMember
from verifier.attacks.pgd import PGD
from verifier.attacks.problem import AttackProblem
from verifier.bounds import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation.plan import together
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Semantics, Trust


@register
class AttackStage(Stage):
    """Looks for points of the set where some clause has no positive row.

    By projected gradient descent with restarts; on a union of sets by multi steepest descent, and then on each member.

    Args:
        steps: gradient steps per restart.
        restarts: number of starts; a quarter of it where projecting onto the set is a search of its own.
        step: length of the first step as a fraction of the set's radius; it shrinks linearly to a tenth.
        seed: of the random starts.
        attack: another attack in place of all these.
    """

    name: ClassVar[str] = "attack"
    aliases: ClassVar[tuple[str, ...]] = ("pgd",)
    cost_rank: ClassVar[int] = 40
    trust: ClassVar[Trust | None] = None
    semantics: ClassVar[frozenset[Semantics]] = frozenset(Semantics)

    def __init__(
        self, steps: int = 20, restarts: int = 12, step: float = 0.3, seed: int = 0, attack: Attack | None = None
    ) -> None:
        self.attack = attack
        self.steps, self.restarts, self.step, self.seed = steps, restarts, step, seed

    def supports(self, query: Query) -> bool:
        return query.batch > 0

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        problem, attack = AttackProblem.of(query), self.attack or self._attack_on(query.inputs)
        generator, device = torch.Generator().manual_seed(attack.seed), query.open.device
        points, late = [], False
        for index in torch.arange(query.batch, device=device).split(together(query.graph, device)):
            own = budget.together(index.tolist())
            points.append(attack.run(problem.select(index), generator, own).points)
            late |= own.spent
        return StageReport(candidates=torch.cat(points), exhausted=late)

    def _attack_on(self, inputs: InputSet) -> Attack:
        members = inputs.members if isinstance(inputs, Union) else (inputs,)
        costly = any(member.costly_projection for member in members)
        restarts = max(1, self.restarts // 4) if costly else self.restarts
        single = PGD(self.steps, restarts, self.step, seed=self.seed)
        if len(members) == 1:
            return single
        return OneAfterAnother([MSD(self.steps, restarts, self.step), WorstMember(single)], self.seed)
