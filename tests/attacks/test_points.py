"""The books of attacks, and the search for counterexamples beside a proof."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from properties import Box, LinfBall, robustness
from verifier import import_torch
from verifier.attacks import AttackPoints, AttackProblem
from verifier.attacks.deepening import deepened
from verifier.attacks.losses import cross_entropy
from verifier.attacks.point_search import PointSearch
from verifier.budget import Budget
from verifier.query import Query
from verifier.testing.networks import random_network


def test_keep_lowest_is_the_loop_over_all_points() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        example = torch.randint(0, 5, (30,), generator=generator)
        points = torch.randn(30, 2, 3, generator=generator)
        value = torch.randint(-4, 4, (30,), generator=generator).float()  # with ties
        kept, loop = (AttackPoints.unseen(torch.zeros(5, 2, 3)) for _ in range(2))
        start = torch.full((5,), 2.0)
        for best in (kept, loop):
            best.keep(torch.ones(5, 2, 3), start)
        kept.keep_lowest(points, value, example)
        for k in range(30):
            loop.keep(points[k : k + 1], value[k : k + 1], example[k : k + 1])
        assert torch.equal(kept.points, loop.points) and torch.equal(kept.value, loop.value)


def test_what_is_no_number_is_never_kept() -> None:
    best = AttackPoints.unseen(torch.zeros(2, 1))
    best.keep(torch.ones(2, 1), torch.tensor([torch.nan, 1.0]))
    assert best.value.tolist() == [torch.inf, 1.0] and best.points.flatten().tolist() == [0.0, 1.0]


def test_points_to_begin_with_are_copied() -> None:
    start = torch.zeros(1, 1)
    AttackPoints.unseen(start).keep(torch.ones(1, 1), torch.zeros(1))
    assert start.item() == 0


def line(offset: float) -> Query:
    """The margin x + offset over [-1, 1], twice."""
    layer = nn.Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        layer.bias.copy_(torch.tensor([offset, 0.0], dtype=torch.float64))
    box = Box(-torch.ones(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))
    graph = import_torch(layer.eval(), torch.zeros(1, 1, dtype=torch.float64))
    return Query.of(graph, box, robustness(torch.tensor([0, 0]), 2))


def test_a_search_is_done_with_the_examples_that_it_has_broken() -> None:
    search = PointSearch(line(0.5), steps=5, step=0.5, budget=Budget())
    points, value = search.evaluate(torch.tensor([[-3.0], [0.0], [0.25]]), torch.tensor([1, 0, 1]))
    assert points.flatten().tolist() == [-1.0, 0.0, 0.25], "moved into their sets"
    assert value.tolist() == [-0.5, 0.5, 0.75]
    assert search.done.tolist() == [False, True] and search.best.value.tolist() == [0.5, -0.5]
    search.descend(points[1:2], torch.tensor([0]))
    assert search.done.all() and float(search.best.value[0]) < -0.4


def test_a_counterexample_within_rounding_is_none_yet() -> None:
    search = PointSearch(line(1 - 2.0**-53), steps=5, step=0.5, budget=Budget())
    _, value = search.evaluate(-torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
    assert -1e-15 < float(value[0]) < 0
    assert not search.done.any()


def test_deepened_points_are_members_and_no_higher() -> None:
    network = random_network("dense")
    graph = import_torch(network.model, network.x[:1])
    x = network.x.double()
    problem = AttackProblem.of(Query.of(graph, LinfBall(x, network.eps), robustness(torch.tensor([0] * len(x)), 4)))

    def value(points: Tensor) -> Tensor:
        return problem.value(problem.clauses(points.to(problem.dtype)))

    tried = list(deepened(problem, x))
    assert len(tried) == 4
    for points in tried:
        assert problem.inputs.contains(problem.inputs.inside(points, problem.dtype)).all()
        assert (value(points) <= value(x) + 1e-6).all()
    assert list(deepened(problem, x, Budget(0))) == []


def test_cross_entropy_keeps_its_digits() -> None:
    """log(1 + sum of exp(-margin)) where it is next to nothing, and of a class that is not the label."""
    margins = torch.tensor([[40.0, 41.0], [-2.0, 3.0]], dtype=torch.float64)
    expected = torch.log1p(torch.exp(-margins).sum(1))
    torch.testing.assert_close(cross_entropy(margins), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(cross_entropy(margins, torch.tensor([1, 0])), expected + torch.tensor([41.0, -2.0]))
