"""Counterexamples to conjunctions: all rows of a clause at once, from many starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties import Specification
from verifier.attacks.base import Attack, register
from verifier.attacks.cost import starts_within
from verifier.attacks.points import AttackPoints
from verifier.attacks.problem import AttackProblem, pick
from verifier.graph import Graph

if TYPE_CHECKING:
    from verifier.budget import Budget

#: shares of the starts that go on to each round
_ROUNDS = (1.0, 0.25, 0.0625)
#: by how much the last step of a round is shorter than its first
_SHRINKS = 0.003
#: fewer starts than this are no better than other attacks
_FEW = 32


@register
class HingeAttack(Attack):
    """Descends on the sum of the rows of a clause that still hold, from many starts of which the better ones go on.

    A counterexample breaks every row of one clause. The largest row alone, the loss of other attacks, says nothing of
    the others, and its gradient jumps from row to row where they contradict each other; the sum of hinges,
    max(0, row) over the clause's rows, each in units of its spread over the starts, pulls at all of them. Where a
    clause is broken, and where it has one row, the loss is the largest row itself. Starts are cheap on small networks,
    and what they find is decided by the basin they begin in: a round keeps the best quarter and steps closer.

    Args:
        starts: random members of each set, in one batch; the center counts as one.
        steps: steepest steps of each round.
        step: length of the first one as a fraction of the set's size; each round begins with a third of the last's.
        seed: of the starts.
    """

    name = "hinges"
    never_worse = True

    def __init__(self, starts: int = 2000, steps: int = 40, step: float = 0.1, seed: int = 0) -> None:
        super().__init__(seed)
        if starts < 1 or steps < 1 or not step > 0:
            raise ValueError(f"starts and steps must be at least 1 and step > 0, got {starts}, {steps} and {step}")
        self.starts, self.steps, self.step = starts, steps, step

    @classmethod
    def within(cls, products: float, graph: Graph, batch: int, seed: int = 0) -> HingeAttack | None:
        """With as many starts, 2,000 at most, as cost so many products of numbers; None where that is too few.

        Args:
            products: of all passes through the network together, forward and backward.
            batch: sets that are attacked.
        """
        full = cls(seed=seed)
        starts = min(full.starts, starts_within(products, graph, batch, full.steps * sum(_ROUNDS)))
        return cls(starts, seed=seed) if starts >= _FEW else None

    @classmethod
    def examples(cls) -> Sequence[Attack]:
        return [cls(5, 3)]

    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        device = problem.spec.rows.device
        example = torch.arange(problem.batch, device=device).repeat_interleave(self.starts)
        part = problem.select(example)
        x = part.inputs.sample(generator).to(problem.dtype)
        x[:: self.starts] = problem.center()
        best = AttackPoints.unseen(problem.center())
        scale = self._scale(part, x)  # [B, S], in the order of examples
        for number, share in enumerate(_ROUNDS):
            count = max(1, int(self.starts * share))
            if number:
                example, part, x = self._better(part, x, example, scale, count)
            x = self._descend(part, x, example, scale[example], self.step / 3**number, best, budget)
            if bool((best.value < 0).all()) or (budget is not None and budget.spent):
                break
        return best.points, best.value

    def _scale(self, part: AttackProblem, x: Tensor) -> Tensor:  # [B * starts, *input] -> [B, S]
        """The spread of each row over an example's starts; 1 where it has none."""
        with torch.no_grad():
            rows = part.spec.values(part.outputs(x)).unflatten(0, (-1, self.starts))
        spread = (rows - rows.mean(1, keepdim=True)).abs().mean(1)
        return torch.where(spread.isfinite() & (spread > 0), spread, 1.0)

    def _better(
        self, part: AttackProblem, x: Tensor, example: Tensor, scale: Tensor, count: int
    ) -> tuple[Tensor, AttackProblem, Tensor]:
        """The `count` points of each example with the lowest losses: their examples [k], problems and points."""
        with torch.no_grad():
            loss = _loss(part, part.spec.values(part.outputs(x)), scale[example])[0]
        loss = torch.where(loss.isnan(), torch.inf, loss).unflatten(0, (len(scale), -1))  # the same number of each
        chosen = loss.argsort(1)[:, :count] + loss.shape[1] * torch.arange(len(scale), device=x.device).unsqueeze(1)
        index = chosen.flatten()
        return example[index], part.select(index), x[index]

    def _descend(
        self, part: AttackProblem, x: Tensor, example: Tensor, scale: Tensor, length: float, best: AttackPoints,
        budget: Budget | None,
    ) -> Tensor:  # fmt: skip
        """Steps from x [k, *input] by steepest descent; what is seen is kept in `best`. Returns where they end."""
        shrink = _SHRINKS ** (1 / self.steps)
        for k in range(self.steps + 1):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                loss, value = _loss(part, part.spec.values(part.outputs(x)), scale)
                (gradient,) = torch.autograd.grad(loss.sum(), x)
            x = x.detach()
            value = torch.where(value.isnan(), torch.inf, value.detach())
            best.keep_lowest(x, value, example)
            if k == self.steps or bool((best.value < 0).all()) or (budget is not None and budget.spent):
                return x
            x = part.inputs.project(x + part.inputs.steepest_ascent(x, -gradient, length * shrink**k))
        return x


def _loss(part: AttackProblem, rows: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:  # [k, S] each
    """What to descend on, and the value of the worst clause, [k] each."""
    clauses = part.spec.per_clause(rows)
    scaled = rows / scale
    hinges = _sums(part.spec, scaled.clamp(min=0))
    losses = hinges + part.spec.per_clause(scaled).clamp(max=0)
    if part.target is not None:
        return pick(losses, part.target), pick(clauses, part.target)
    return losses.amin(1), clauses.amin(1)


def _sums(spec: Specification, values: Tensor) -> Tensor:  # [k, S] -> [k, clauses]
    return values.new_zeros(len(values), spec.clauses).index_add(1, spec.clause.to(values.device), values)
