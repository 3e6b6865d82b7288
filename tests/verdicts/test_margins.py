"""The best proven margin is never above the exact minimum, also where two classes are equal or nearly so."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.fooling import chain, exact_minimum
from torch import nn

from verifier import verify

STAGES = ("interval", "dual", "dual-optimised", "zonotope", "lp", "milp", "branch", "branch-input")


def tied(seed: int, dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor, list[Fraction]]:
    """A network whose classes 0 and 1 are equal somewhere and everywhere, an input, and its exact margins at 0.25."""
    g = torch.Generator().manual_seed(seed)
    first, offset = torch.randn(6, 2, generator=g, dtype=dtype), torch.randn(6, generator=g, dtype=dtype) / 4
    row = torch.randn(6, generator=g, dtype=dtype)
    bump = torch.zeros(6, dtype=dtype)
    bump[seed % 6] = -1 / 3  # class 2 is below by what one neuron gives, which may be nothing
    # class 1 is class 0, by copies of its neurons
    first, offset, nothing = torch.cat([first, first]), torch.cat([offset, offset]), torch.zeros(6, dtype=dtype)
    last = torch.stack([torch.cat([row, nothing]), torch.cat([nothing, row]), torch.cat([row + bump, nothing])])
    model = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 3)).to(dtype).eval()
    with torch.no_grad():
        for parameter, value in zip(
            model.parameters(), (first, offset, last, torch.randn(3, generator=g)), strict=True
        ):
            parameter.copy_(value)
        model[2].bias.fill_(0.1)
    x = torch.randint(-8, 9, (1, 2), generator=g).to(dtype) / 8
    layers = [(m.weight.detach().double().tolist(), m.bias.detach().double().tolist()) for m in (model[0], model[2])]
    network = chain(2, *layers)
    differences = chain(3, ([[1, -1, 0], [1, 0, -1]], [0, 0])).steps[0]
    steps = (*network.steps, type(differences)(((len(network.steps), differences.terms[0][1]),), differences.bias))
    box = x[0].double().numpy()
    return model, x, exact_minimum(type(network)(2, steps), box - 0.25, box + 0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("stage", STAGES)
def test_no_margin_is_above_the_exact_minimum(stage: str, dtype: torch.dtype) -> None:
    for seed in range(4):
        model, x, exact = tied(seed, dtype)
        assert exact[0] == 0
        found = verify(model, x, 0.25, label=[0], stages=[stage], example_budget=0.1).margins[0].tolist()
        for margin, truth in zip(found[1:], exact, strict=True):
            assert margin == -np.inf or Fraction(margin) <= truth, (seed, margin - float(truth))
