"""The nearest counterexamples: against closed forms, against PGD on shrinking balls, and none that could be nearer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("sklearn")

from properties import L2Ball, LinfBall, robustness
from verifier import attack
from verifier.attacks import AttackProblem, CarliniWagner, NearestAttack, make
from verifier.attacks.nearest import NearestPoints
from verifier.budget import Budget
from verifier.demo import held_out_digits, network

N = 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def right() -> tuple[nn.Module, Tensor, Tensor]:
    """A trained network, and images that it has right."""
    model = network()
    x, y = held_out_digits()
    chosen = (model(x).argmax(1) == y).nonzero().squeeze(1)[:10]
    return model, x[chosen], y[chosen]


@pytest.fixture(scope="module")
def radii(right: tuple[nn.Module, Tensor, Tensor]) -> Tensor:
    """PGD's smallest radii by bisection, with a hundred times the work: [B]."""
    model, x, y = right
    low, high = torch.zeros(len(x)), torch.full((len(x),), 2.0)
    for _ in range(7):
        middle = (low + high) / 2
        broken = attack(model, x, middle, threat="l2", clip=(0, 1), label=y, steps=15, restarts=2).success
        low, high = torch.where(broken, low, middle), torch.where(broken, middle, high)
    return high


@pytest.mark.parametrize(("name", "options", "slack"), [("ddn", {"first": 0.3}, 1.02), ("carlini-wagner", {}, 1.05)])
def test_on_a_linear_network_the_distance_is_known(name: str, options: dict[str, Any], slack: float) -> None:
    """The margin over the length of its row; with more classes the lowest margin need not be the nearest."""
    model = nn.Linear(N, 2).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, N, generator=generator(), dtype=torch.float64))
    x = torch.rand(20, N, generator=generator(1), dtype=torch.float64)
    label = model(x).argmax(1)
    spec = robustness(label, 2)
    with torch.no_grad():
        margins, rows = spec.values(model(x)), spec.rows @ model.weight
    known = (margins / rows.norm(dim=2)).amin(1)
    found = attack(model, x, 50.0, threat="l2", method=name, **options)
    assert bool(found.success.all())
    distance = found.distance(x)
    assert (distance >= known - 1e-9).all() and (distance <= slack * known + 2e-3).all()


@pytest.mark.parametrize(("name", "each", "mean"), [("ddn", 1.05, 1.0), ("carlini-wagner", 1.3, 1.05)])
def test_no_further_than_projected_gradient_descent(
    right: tuple[nn.Module, Tensor, Tensor], radii: Tensor, name: str, each: float, mean: float
) -> None:
    model, x, y = right
    found = attack(model, x, 10.0, threat="l2", clip=(0, 1), label=y, method=name)
    assert bool(found.success.all()) and bool((model(found.points).argmax(1) != y).all())
    assert bool(((found.points >= 0) & (found.points <= 1)).all())
    share = found.distance(x) / radii
    assert (share <= each).all() and share.mean() <= mean


def test_few_entries_are_changed_and_each_is_needed(right: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = right
    found = attack(model, x, 1.0, clip=(0, 1), label=y, method="pointwise")
    assert bool(found.success.all()) and bool((model(found.points).argmax(1) != y).all())
    count = found.distance(x, norm=0)
    changed = (found.points != x).flatten(1)
    assert torch.equal(count.long(), changed.sum(1)) and float(count.mean()) < 6
    for point, clean, label, which in zip(found.points, x, y, changed, strict=True):
        for entry in which.nonzero().squeeze(1):
            back = point.flatten().clone()
            back[entry] = clean.flatten()[entry]
            outputs = model(back.reshape(1, *x.shape[1:]))[0]
            assert outputs[label] >= outputs.max() - 2e-4  # the attack stays that far from ties


def test_few_changes_are_found_in_an_l1_ball_that_holds_them(right: tuple[nn.Module, Tensor, Tensor]) -> None:
    """As many as in the whole range: the search may leave the ball on its way, and goes back further at its end."""
    model, x, y = right
    known = attack(model, x, 1.0, clip=(0, 1), label=y, method="pointwise", starts=1)
    radius = 1.001 * float(known.distance(x, norm=1).median())
    found = attack(model, x, radius, threat="l1", clip=(0, 1), label=y, method="pointwise")
    there = known.distance(x, norm=1) < radius
    assert bool(found.success[there].all()) and bool((found.distance(x, norm=1)[found.success] <= radius).all())
    assert int(found.success.sum()) > int(there.sum())


@pytest.mark.parametrize("name", ["ddn", "carlini-wagner", "pointwise"])
def test_in_a_small_set_the_answer_is_the_lowest_member(right: tuple[nn.Module, Tensor, Tensor], name: str) -> None:
    """Where nothing breaks: members, no worse than the image, and not called a success."""
    model, x, y = right
    options = {"carlini-wagner": {"steps": 20, "searches": 3}, "ddn": {"steps": 20}}.get(name, {})
    found = attack(model, x, 1e-3, threat="l2", label=y, method=name, **options)
    assert not bool(found.success.any()) and bool(L2Ball(x, 1e-3).contains(found.points).all())
    clean = robustness(y, 10).values(model(x)).amin(1).detach()
    assert (found.margins <= clean + 1e-5).all() and (found.margins < clean - 1e-6).any()
    assert torch.equal(found.distance(x), torch.full((len(x),), torch.inf, dtype=torch.float64))


def test_the_nearest_point_is_kept_and_not_the_lowest() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64)
    spec = robustness(torch.tensor([0]), 2)
    problem = AttackProblem(lambda z: torch.stack([1 - z[:, 0], z[:, 0]], 1), LinfBall(x, 9.0), spec, torch.float64)
    seen = NearestPoints(problem, 2, 1e-4)
    for first in (0.2, 3.0, 0.6, 0.7, 2.0, 0.50001):
        seen.look(torch.tensor([[first, 0.0]], dtype=torch.float64))
    points, value = seen.answer()
    assert points[0].tolist() == [0.6, 0.0] and float(value) == pytest.approx(-0.2)


@pytest.mark.parametrize("name", ["ddn", "carlini-wagner", "pointwise"])
def test_time_ends_it(right: tuple[nn.Module, Tensor, Tensor], name: str) -> None:
    model, x, y = right
    problem = AttackProblem(model, L2Ball(x, 1.0, (0.0, 1.0)), robustness(y, 10))
    found = make(name).run(problem, budget=Budget(0.0))
    assert bool(problem.inputs.contains(found.points).all())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddn", {"steps": 0}, "steps must be"), ("ddn", {"shrink": 1.0}, "shrink in"),
        ("carlini-wagner", {"searches": 0}, "searches must be"), ("carlini-wagner", {"confidence": -1.0}, "confidence"),
        ("pointwise", {"starts": 0}, "starts and shares"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, **options)
    assert isinstance(make(name), NearestAttack) and CarliniWagner.norm == 2
