"""Conformance of attacks: members only, values as replayed, one seed one answer, an end when time is up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from properties import InputSet, L1Ball, L2Ball, LinfBall, Union, robustness
from properties.input_set import REGISTRY as SETS
from verifier.attacks.base import Attack
from verifier.attacks.problem import AttackProblem
from verifier.budget import Budget
from verifier.forms import Dense
from verifier.testing.laws import Law, examples_of, generator, hold, named


def check_attack(part: Callable[..., Attack]) -> None:
    """Every law of attacks on all examples of a class, or on what a function makes.

    Raises:
        AssertionError: one is broken; its notes say which.
    """
    for number, attack in enumerate(examples_of(part)):
        assert isinstance(attack, Attack), f"{named(part)} makes no attack but {attack!r}"
        hold(f"{named(part)}, example {number}", LAWS, attack)


def network(entries: int, classes: int = 4) -> nn.Sequential:
    """A small network on inputs of so many entries, in float64."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(entries, 10), nn.ReLU(), nn.Linear(10, classes)).double()
    draws = generator(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws, dtype=torch.float64) * 0.5)
    return made


def points_are_members_of_every_set(attack: Attack) -> None:
    """On every registered set points are members, no lower than the support function allows, valued as they are."""
    for name in sorted(SETS):
        for inputs in SETS[name].examples():
            size = torch.Size(inputs.shape).numel()
            linear = nn.Sequential(nn.Flatten(), nn.Linear(size, 3).double())
            with torch.no_grad():
                for parameter in linear.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator(2), dtype=torch.float64) / size)
            spec = robustness(torch.zeros(inputs.batch, dtype=torch.int64), 3)
            asked = AttackProblem(linear, inputs, spec, torch.float64)
            with torch.no_grad():
                weight, bias = (p.detach() for p in linear[1].parameters())
                rows = torch.einsum("bso,on->bsn", spec.rows, weight).reshape(inputs.batch, 2, *inputs.shape)
                least = (inputs.minimum(Dense(rows)) + torch.einsum("bso,o->bs", spec.rows, bias)).amin(1)
                before = asked.value(asked.clauses(asked.center()))
            found = attack.run(asked)
            assert found.points.shape == (inputs.batch, *inputs.shape)
            assert inputs.contains(found.points).all(), name
            value = asked.value(asked.clauses(found.points)).detach()
            assert (value >= least - 1e-9).all(), name
            torch.testing.assert_close(value, found.value, rtol=1e-6, atol=1e-6)
            if attack.never_worse:
                assert (value <= before + 1e-9).all(), name


def one_seed_is_one_answer(attack: Attack) -> None:
    """The same generator gives the same points, and every set gets points of its own."""
    x = torch.rand(8, 12, generator=generator(3), dtype=torch.float64)
    for inputs in balls(x):
        model = network(12)
        asked = AttackProblem(model, inputs, robustness(model(x).argmax(1), 4), torch.float64)
        first, again = (attack.run(asked, generator(5)) for _ in range(2))
        assert torch.equal(first.points, again.points) and torch.equal(first.value, again.value)


def a_target_is_what_is_attacked(attack: Attack) -> None:
    """With a target, the value is the target's clause at the points."""
    x = torch.rand(8, 12, generator=generator(3), dtype=torch.float64)
    model = network(12)
    target = torch.arange(8) % 3
    asked = AttackProblem(model, LinfBall(x, 0.2), robustness(model(x).argmax(1), 4), torch.float64, target)
    found = attack.run(asked)
    with torch.no_grad():
        clause = asked.clauses(found.points).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(clause, found.value, rtol=1e-6, atol=1e-6)


def a_spent_budget_ends_it(attack: Attack) -> None:
    """When time is up, points are still members."""
    x = torch.rand(8, 12, generator=generator(3), dtype=torch.float64)
    model = network(12)
    inputs = LinfBall(x, 0.2)
    asked = AttackProblem(model, inputs, robustness(model(x).argmax(1), 4), torch.float64)
    assert inputs.contains(attack.run(asked, budget=Budget(0.0)).points).all()


def it_takes_a_live_network(attack: Attack) -> None:
    """For training: weights keep their gradients, nothing flows through the points, the loss goes up."""
    model = network(12).float().train()
    x = torch.rand(40, 12, generator=generator(6))
    label = model(x).argmax(1)
    before = F.cross_entropy(model(x), label)
    points = attack.perturb(model, LinfBall(x, 0.1), robustness(label, 4), generator(7))
    assert not points.requires_grad and all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert F.cross_entropy(model(points), label) > before + 0.01


def balls(x: Tensor) -> tuple[InputSet, ...]:
    """Sets around x [B, 12] in [0, 1]."""
    return (
        LinfBall(x, 0.2, (0.0, 1.0)),
        L2Ball(x, 0.5),
        Union([LinfBall(x, 0.1, (0.0, 1.0)), L1Ball(x, 1.0, (0.0, 1.0))]),
    )


LAWS: tuple[Law, ...] = (
    points_are_members_of_every_set,
    one_seed_is_one_answer,
    a_target_is_what_is_attacked,
    a_spent_budget_ends_it,
    it_takes_a_live_network,
)
