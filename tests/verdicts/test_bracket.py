"""Radii by any stages, from both sides: what is proved, what is broken, and where either is exact."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.models import labelled, small_mlp
from torch import Tensor, nn

from properties import L2Ball, LinfBall
from verifier import InputError, InternalError, Trust, Verdict, Verifier, certified_radius, verify
from verifier.result import Result

QUICK = ["clean", "dual", "attack"]


def half_plane() -> nn.Module:
    """Two classes, told apart by whether x0 + 1 > 0: at 0 the exact radius is 1 in every norm."""
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        net.bias.copy_(torch.tensor([1.0, 0.0]))
    return net.eval()


@pytest.mark.parametrize("threat", ["linf", "l2"])
def test_the_radius_of_a_half_plane_is_exact_on_both_sides(threat: str) -> None:
    found = certified_radius(half_plane(), torch.zeros(1, 2), threat=threat, stages=QUICK, tolerance=1e-3)
    assert 1 - 2e-3 < float(found.radius) < 1 < float(found.broken) < 1 + 2e-3
    assert found.decided_by == ("dual",) and found.trust == (Trust.CHECKED,)
    ball = {"linf": LinfBall, "l2": L2Ball}[threat](torch.zeros(1, 2), float(found.broken))
    assert found.counterexample[0] is not None and ball.contains(found.counterexample[0][None]).all()


@pytest.fixture(scope="module")
def batch() -> tuple[nn.Module, Tensor, Tensor]:
    model = small_mlp()
    return model, *labelled(model, (12,), 6)


def test_complete_stages_close_the_bracket_and_others_leave_a_gap(batch: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, label = batch
    full = certified_radius(model, x, label=label, stages=[*QUICK, "branch"], tolerance=0.1)
    part = certified_radius(model, x, label=label, stages=QUICK, tolerance=0.1)
    dual = certified_radius(model, x, label=label, tolerance=0.1)
    wrong = model(x).argmax(1) != label
    assert wrong.any() and not wrong.all()
    assert (full.broken[wrong] == 0).all() and (full.radius[wrong] == 0).all()
    for found in (full, part):
        assert (found.radius <= found.broken).all() and (found.refuted_above <= found.broken).all()
        for i in (~wrong).nonzero().squeeze(1).tolist():
            one, radius, broken = slice(i, i + 1), float(found.radius[i]), float(found.broken[i])
            proved = verify(model, x[one], radius, label=label[one], stages=[*QUICK, "branch"])
            assert proved.verdict == (Verdict.VERIFIED,) and found.trust[i] is not None
            point = found.counterexample[i]
            assert point is not None and LinfBall(x[one], broken).contains(point[None]).all()
            assert not LinfBall(x[one], 0.9 * broken).contains(point[None]).any()
            assert model(point[None]).argmax(1) != label[i]
    assert ((full.broken - full.radius)[~wrong] <= 0.1 * full.broken[~wrong]).all()
    assert (part.radius <= full.broken).all() and (full.radius <= part.broken).all()
    assert (dual.radius <= full.broken).all() and dual.broken.isinf().all()
    assert dual.counterexample == (None,) * 6


def test_a_set_that_nothing_breaks_is_proved_to_the_largest_eps_tried() -> None:
    constant = nn.Linear(1, 2)
    with torch.no_grad():
        constant.weight.zero_()
        constant.bias.copy_(torch.tensor([1.0, 0.0]))
    found = certified_radius(constant.eval(), torch.zeros(1, 1), stages=QUICK, most=50.0)
    assert float(found.radius) == 50 and math.isinf(float(found.broken)) and math.isinf(float(found.refuted_above))


def test_only_attacks_find_what_breaks_and_prove_nothing(batch: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, label = batch
    found = certified_radius(model, x, label=label, stages=["clean", "attack"], tolerance=0.3)
    assert (found.radius == 0).all() and found.broken.isfinite().all() and found.decided_by == (None,) * 6


def test_limits_are_kept(batch: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, label = batch
    few = certified_radius(model, x, label=label, stages=QUICK, steps=2)
    assert few.steps == 2 and (few.radius <= few.broken).all()
    began = time.monotonic()
    cut = certified_radius(model, x, label=label, stages=[*QUICK, "branch", "milp"], tolerance=1e-9, budget=1.0)
    assert time.monotonic() - began < 30 and (cut.radius <= cut.broken).all() and cut.steps < 40


def test_sets_that_do_not_grow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinfBall, "nested", False)
    with pytest.raises(InputError, match="sets of linf need not grow with eps"):
        certified_radius(half_plane(), torch.zeros(1, 2), stages=QUICK)
    for bad in ({"budget": 0.0}, {"example_budget": -1.0}):
        with pytest.raises(InputError, match="must be a number of seconds > 0"):
            certified_radius(half_plane(), torch.zeros(1, 2), stages=QUICK, **bad)


@pytest.mark.parametrize("trust", list(Trust))
def test_a_proof_above_a_counterexample_is_an_internal_error(monkeypatch: pytest.MonkeyPatch, trust: Trust) -> None:
    """But for one that held with a probability, and did not."""
    run = Verifier.run

    def lying(self: Verifier, inputs: LinfBall, *given: Any) -> Result:
        result = run(self, inputs, *given)
        if float(inputs.eps) > 3:
            return replace(result, counterexample=(torch.tensor([-1.5, 0.0]),))
        proved = {"verdict": (Verdict.VERIFIED,), "trust": (trust,), "counterexample": (None,)}
        return replace(result, **proved)

    monkeypatch.setattr(Verifier, "run", lying)
    said = pytest.raises(InternalError, match=r"example 0 is proved at eps .* one of the two is wrong")
    with said if trust is not Trust.PROBABILISTIC else nullcontext():
        found = certified_radius(half_plane(), torch.zeros(1, 2), stages=QUICK, tolerance=0.5)
        assert float(found.radius[0]) < float(found.broken[0]) <= 1.5 * 1.5
