"""The record of a perturbation: checked once, and the same sets as the threat model makes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from properties import Perturbation, Threat, Union


@pytest.mark.parametrize("threat", ["linf", "l2", "l1", "linf+5*l2"])
@pytest.mark.parametrize("clip", [None, (0, 1)])
def test_it_makes_the_sets_of_its_threat_model(threat: str, clip: tuple[float, float] | None) -> None:
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    found, expected = Perturbation(0.1, threat, clip).around(x), Threat.of(threat).around(x, 0.1, clip)
    assert found.describe() == expected.describe()
    pairs = zip(found.members, expected.members, strict=True) if isinstance(expected, Union) else [(found, expected)]
    for one, other in pairs:
        assert torch.equal(one.center(), other.center())
        assert all(torch.equal(a, b) for a, b in zip(one.box(), other.box(), strict=True))


def test_one_radius_per_example() -> None:
    asked = Perturbation(torch.tensor([0.0, 0.5]))
    lower, upper = asked.around(torch.zeros(2, 3)).box()
    assert torch.equal(upper[0], torch.zeros(3, dtype=upper.dtype)) and (lower[1] <= -0.5).all()
    with pytest.raises(ValueError, match="one number or one per example"):
        asked.around(torch.zeros(3, 3))


def test_the_same_question_is_the_same_record() -> None:
    assert Perturbation(0, "1*l2", (0, 1)) == Perturbation(0.0, Threat.of("l2"), (0.0, 1.0))
    assert Perturbation(0.1) != Perturbation(0.1, clip=(0, 1)) != Perturbation(0.1, "l1", (0, 1))
    asked = Perturbation(torch.tensor(0.25), "linf+5*l2", (0, 1))
    assert asked.describe() == {"eps": 0.25, "threat": "linf+5*l2", "clip": (0.0, 1.0)}
    assert str(asked) == "linf+5*l2 0.25 within [0, 1]" and str(Perturbation(1)) == "linf 1"
    assert Perturbation(1, "l2").symmetric and not Perturbation(1, "wasserstein").symmetric


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((-1,), "eps must be a finite number >= 0"),
        ((math.nan,), "eps must be a finite number >= 0"),
        ((math.inf,), "eps must be a finite number >= 0"),
        (("wide",), "eps must be a number"),
        ((torch.zeros(2, 2),), "one number or one per example"),
        ((0.1, "l3"), "no threat model is called 'l3'"),
        ((0.1, "linf", (1, 0)), "low <= high"),
        ((0.1, "linf", (1,)), "two numbers"),
    ],
)
def test_what_is_no_perturbation_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Perturbation(*arguments)
