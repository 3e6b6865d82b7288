"""Sets of every kind are asked about on the device: bounds, attacks, members, verdicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from device.small import ON, assert_evidence, assert_same
from properties import InputSet
from properties.input_set import REGISTRY
from verifier import Result, verify

STAGES = ("attack", "interval", "dual", "dual-adaptive")


def network(inputs: InputSet) -> nn.Module:
    """Two layers on the set's inputs, in its precision."""
    size = torch.Size(inputs.shape).numel()
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.ReLU(), nn.Linear(6, 3)).to(inputs.center().dtype)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) / 3)
    return model.eval()


#: a ball, a set of rows, one with a budget, one that is made of others; the rest takes as long again, and is slow
OFTEN = {"LinfBall", "Polytope", "WassersteinBall", "Union"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in OFTEN else pytest.mark.slow) for n in sorted(REGISTRY)]
)
def test_verdicts_are_those_of_the_cpu(device, name: str):
    for number, inputs in enumerate(REGISTRY[name].examples()):
        model = network(inputs)

        def asked(where: str | None, stages: tuple[str, ...], inputs=inputs, model=model) -> Result:
            return verify(model, inputs.center(), input_set=inputs, stages=stages, device=where)

        stages = STAGES[number > 0 :]  # an attack is the longest: on the first
        wanted = asked(None, stages)
        with device():
            found = asked(ON, stages)
            assert_same(found, wanted)
            assert_evidence(found)
            for i, point in enumerate(found.counterexample):
                if point is not None:
                    assert inputs.select(torch.tensor([i])).contains(point[None]).all()


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_set_that_is_on_the_device_is_the_same_set(device, name: str):
    inputs = next(iter(REGISTRY[name].examples()))
    model = network(inputs)
    wanted = verify(model, inputs.center(), input_set=inputs, stages=["dual"])
    with device():
        there = inputs.to(torch.device(ON))
        assert there.center().is_cuda
        assert_same(verify(model, inputs.center(), input_set=there, stages=["dual"]), wanted)
        assert_same(verify(network(inputs).to(ON), there.center(), input_set=there, stages=["dual"]), wanted)
