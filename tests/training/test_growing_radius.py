"""A radius that grows over a share of the run: of every method that trains on attacked points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("sklearn")

from helpers.digit_runs import generator, images, network

from training import AdversarialTraining, AugmentedTraining, FastTraining, FreeTraining, TradesTraining
from training.method import Progress
from training.network import NetworkInTraining
from training.penalty import PenalisedTraining

METHODS = [AdversarialTraining, AugmentedTraining, FastTraining, FreeTraining, TradesTraining]
EPS = 0.2


class Seen(torch.nn.Module):
    """A network that keeps what it has learned from, which is asked about in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.points = network(), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:  # [B, 1, 8, 8]
        if (self.training and x.requires_grad is False) or x.requires_grad:
            self.points = x.detach()
        return self.inner(x)


@pytest.mark.parametrize("method", METHODS)
def test_points_are_as_far_as_the_radius_of_the_moment(method: type[PenalisedTraining]) -> None:
    x, y = images(8)
    # without a valid range, points of a single step reach the radius, and none is farther
    asked = method(eps=EPS, ramp=0.5, clip=None, batch=8, **({"collapse": 0.0} if method is FastTraining else {}))
    far = []
    for step, share in ((0, 0.1), (1, 0.55), (2, 1.0), (3, 1.0)):
        model = Seen()
        run = asked.begin(NetworkInTraining(model, x), generator())
        model.train()
        for _ in range(2):  # "free" starts at the images themselves
            run.loss(x, y, Progress(0, step, 4, 1)).value.backward()
            run.stepped(Progress(0, step, 4, 1))
        distance = float((model.points - x).abs().max())
        assert distance <= share * EPS * (1 + 1e-5), (step, share)
        far.append(distance)
    assert far[0] < far[1] < far[2] and far[2] > 0.5 * EPS


@pytest.mark.parametrize("ramp", [-0.1, 1.5, float("nan")])
def test_a_ramp_is_a_share(ramp: float) -> None:
    with pytest.raises(ValueError, match="ramp must be a share of the run, between 0 and 1"):
        AdversarialTraining(eps=EPS, ramp=ramp)


def test_a_ramp_and_radii_per_image_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="ramp and smallest both make the radius grow"):
        AdversarialTraining(eps=EPS, ramp=0.5, smallest=0.1)


def test_without_a_ramp_the_radius_is_eps_from_the_first_step() -> None:
    assert AdversarialTraining(eps=EPS).radius(Progress(0, 0, 4, 1)) == EPS
