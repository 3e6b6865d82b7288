"""What needs more memory than the machine has left is refused before it is taken: UNKNOWN, with that reason."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from properties import LinfBall, robustness
from verifier import Reason, Verdict, Verifier
from verifier.budget import Budget
from verifier.policy import Ladder
from verifier.stages import REGISTRY
from verifier.testing.limits import DeepBlocks


@cache
def deep() -> tuple[Verifier, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(1, 1, 6, 6)
    return Verifier(DeepBlocks(4).eval(), x), x.expand(40, -1, -1, -1)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_batch_that_does_not_fit_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, x = deep()
    spec, ball = robustness(verifier.predict(x).argmax(1), 4), LinfBall(x, 0.2)
    monkeypatch.setattr("verifier.device.free_memory", lambda: 2.0**19)
    found = verifier.climb(Ladder([REGISTRY[name]()], adapts=False), ball, spec, Budget(5.0))
    assert set(found.verdict) == {Verdict.UNKNOWN}
    assert set(found.reason) <= {Reason.MEMORY, Reason.UNSUPPORTED}


@pytest.mark.parametrize("name", ["lp", "milp-1"])
def test_a_program_that_does_not_fit_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One example's bounds have room, the matrices of its convolutions have none."""
    verifier, x = deep()
    one = x[:1]
    spec, ball = robustness(verifier.predict(one).argmax(1), 4), LinfBall(one, 0.2)
    monkeypatch.setattr("verifier.device._SMALL", 0)
    monkeypatch.setattr("verifier.device.free_memory", lambda: 200e3)
    found = verifier.climb(Ladder([REGISTRY[name]()], adapts=False), ball, spec, Budget(20.0))
    assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.MEMORY
