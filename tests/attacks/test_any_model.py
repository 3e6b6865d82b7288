"""Models that cannot be verified are attacked all the same, by their own gradients where these are others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier import InputError, ModelError, UnsupportedError, attack, attack_growing, verify
from verifier.api import Verifier
from verifier.attack_target import GraphTarget, ModuleTarget, attack_target
from verifier.attacks import PGD


class _Sign(torch.autograd.Function):
    """The sign, with the identity's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(10, 60), nn.Linear(60, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(self.first(x)))

    def hidden(self, z: Tensor) -> Tensor:
        return torch.relu(z)


class Binarised(Plain):
    def hidden(self, z: Tensor) -> Tensor:
        return _Sign.apply(z)  # type: ignore[no-any-return, no-untyped-call]


class Detached(Plain):
    def hidden(self, z: Tensor) -> Tensor:
        return z + (z.sign() - z).detach()


class Unknown(Plain):
    """An operator without a relaxation."""

    def hidden(self, z: Tensor) -> Tensor:
        return torch.special.i0(2 * z)


class Branching(Plain):
    """Control flow that depends on values."""

    def hidden(self, z: Tensor) -> Tensor:
        return torch.relu(2 * z if bool(z.sum() > 0) else z)


class Blind(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


def inputs(count: int = 40) -> Tensor:
    return torch.rand(count, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [Binarised, Detached])
def test_straight_through_gradients_are_followed(kind: type[Plain]) -> None:
    """The graph of the values has no gradient at all: its attack is no better than its random starts."""
    model, x = kind().eval(), inputs()
    assert isinstance(attack_target(model, x), ModuleTarget)
    label = model(x).argmax(1)
    found = attack(model, x, 0.05, label=label, restarts=1)
    ball = LinfBall(x, 0.05)
    assert bool(ball.contains(found.points).all())
    assert torch.equal(model(found.points).argmax(1) != label, found.success)
    chance = model(ball.sample(torch.Generator().manual_seed(0)).float()).argmax(1) != label
    assert int(found.success.sum()) >= 2 * int(chance.sum()) + 5
    graph = GraphTarget(Verifier(model, x, stages=["attack"]))
    blind = PGD(restarts=1).run(graph.problem(ball, robustness(label, 4))).value < 0
    assert int(blind.sum()) == 0  # it begins at the center, and stays there


@pytest.mark.parametrize("kind", [Unknown, Branching])
def test_what_cannot_be_imported_is_attacked(kind: type[Plain]) -> None:
    model, x = kind().eval(), inputs()
    with pytest.raises(UnsupportedError):
        verify(model, x[:2], eps=0.1)
    found = attack(model, x, 0.3, method="pgd")
    assert found.error > 0.3 and torch.equal(found.success, found.margins < 0)
    if kind is Unknown:
        with torch.no_grad():
            margins = robustness(model(x).argmax(1), 4).values(model(found.points)).amin(1)
        torch.testing.assert_close(found.margins, margins.double(), rtol=1e-3, atol=1e-3)


def test_other_models_keep_their_graph() -> None:
    model, x = Plain().eval(), inputs()
    assert isinstance(attack_target(model, x), GraphTarget)
    target = ModuleTarget(model, x)
    torch.testing.assert_close(target.predict(x), model(x))
    assert target.classes == 4 and target.replay(x).dtype is torch.float64
    soft = nn.Sequential(model, nn.Softmax(1)).eval()
    assert isinstance(attack_target(soft, x), GraphTarget)


def test_what_has_no_gradient_is_said() -> None:
    with pytest.raises(ModelError, match="attacks follow gradients"):
        ModuleTarget(Blind().eval(), inputs())
    with pytest.raises(ModelError, match="training mode"):
        attack(Binarised(), inputs(), 0.1)
    with pytest.raises(InputError):
        attack(Unknown().eval(), inputs().double(), 0.1)


def test_the_radius_grows_until_an_input_is_broken() -> None:
    """On a linear network of two classes it is the first that is at least |margin| / |difference of the rows|_1."""
    torch.manual_seed(0)
    model = nn.Linear(10, 2).double().eval()
    x = inputs().double()
    with torch.no_grad():
        needed = model(x).diff(dim=1).squeeze(1).abs() / (model.weight[1] - model.weight[0]).abs().sum()
    radii = [float(r) for r in (needed.quantile(0.2), needed.quantile(0.5), needed.quantile(0.8))]
    found = attack_growing(model, x, radii)
    expected = torch.full_like(needed, torch.inf)
    for radius in reversed(radii):
        expected[needed < radius] = radius
    assert torch.equal(found.radius, expected) and torch.equal(found.success, expected < torch.inf)
    assert found.errors([0.0, *radii]) == [0.0, *(float((needed < r).double().mean()) for r in radii)]
    assert ((found.points - x).abs().amax(1) <= expected.clamp(max=radii[-1]) + 1e-12).all()
    assert torch.equal(model(found.points).argmax(1) != model(x).argmax(1), found.success)
    for wrong in ([], [0.2, 0.1], [0.0, 0.1]):
        with pytest.raises(InputError, match="radii"):
            attack_growing(model, x, wrong)


def test_a_binarised_network_under_a_growing_radius() -> None:
    model, x = Binarised().eval(), inputs()
    found = attack_growing(model, x, [0.02, 0.05, 0.2], restarts=2)
    errors = found.errors([0.02, 0.05, 0.2])
    assert errors[0] < errors[1] < errors[2] and errors[2] > 0.5
