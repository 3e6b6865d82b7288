"""What to try with counterexamples that hold in real arithmetic, and not where they were replayed: lower points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from verifier.attacks.pgd import PGD
from verifier.attacks.problem import AttackProblem

if TYPE_CHECKING:
    from verifier.budget import Budget


def deepened(problem: AttackProblem, x: Tensor, budget: Budget | None = None) -> Iterator[Tensor]:
    """Points [B, *input] further down than x [B, *input], time after time: from x by longer steps, then from anywhere.

    Args:
        budget: when it is spent, no more descents from x are begun.
    """
    start = problem.inputs.project(x.to(problem.dtype))
    for step in (0.01, 0.1, 0.3):
        if budget is not None and budget.spent:
            return
        yield PGD(40, 1, step).descend(problem, start, budget=budget)[0]
    yield PGD(40, 8, 0.3, stop=-math.inf).run(problem, budget=budget).points
