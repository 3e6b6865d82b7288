"""What the checker rejects leaves nothing behind: no verdict, and no margin that nobody has proved."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from verifier import Reason, Verdict, verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.stages import StageReport
from verifier.stages.lp import LpStage


class Boasting(LpStage):
    """Claims so much more than its evidence proves; shows no point that says otherwise."""

    name = "boasting"

    def __init__(self, more: float) -> None:
        super().__init__()
        self.more = more

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        report = super().run(query, bounds, budget)
        assert report.lower is not None
        return replace(report, lower=report.lower + self.more, candidates=None)


def test_margins_of_a_rejected_proof_do_not_stay() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(2, 3)
    honest, found = (verify(model, x, eps=0.6, stages=[Boasting(more)]) for more in (0.0, 50.0))
    assert honest.verdict == (Verdict.UNKNOWN,) * 2 and (honest.margins < 0).any(1).all()
    assert found.verdict == (Verdict.UNKNOWN,) * 2 and found.reason == (Reason.NUMERICAL,) * 2
    assert (found.margins <= honest.margins).all()
