"""Sets with intervals that hold no float32 number: a network in float32 is asked about their hull."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from properties import Box, InputSet, LinfBall, Product, Specification, Union
from verifier import attack, verify
from verifier.verdict import Verdict

NEAR = torch.tensor(0.1)  # above 0.1
ENDS = (float(torch.nextafter(NEAR, torch.tensor(0.0))), float(NEAR))


def doubles(*values: float) -> Tensor:  # [1, n]
    return torch.tensor([values], dtype=torch.float64)


def at_least(threshold: float) -> Specification:
    """y0 stays below a threshold: a counterexample reaches it."""
    row = torch.full((1, 1, 1), -1.0, dtype=torch.float64)
    return Specification(row, torch.full((1, 1), threshold, dtype=torch.float64), torch.zeros(1, dtype=torch.int64))


def total(inputs: int = 2, dtype: torch.dtype = torch.float32) -> nn.Module:
    """y0 = x0 + x1 + ..., through a ReLU."""
    first, last = nn.Linear(inputs, 1, bias=False), nn.Linear(1, 1, bias=False)
    for layer in (first, last):
        nn.init.ones_(layer.weight)
    return nn.Sequential(first, nn.ReLU(), last).to(dtype).eval()


def test_a_box_without_float32_numbers_has_a_hull() -> None:
    box = Box(doubles(5, 0.1, 0.5, 0.1, 1e39), doubles(6, 0.1, 0.5, 0.2, 1e39))
    hull = box.representable(torch.float32)
    lower, upper = hull.box()
    assert lower.tolist() == [[5, ENDS[0], 0.5, 0.1, 1e39]]
    assert upper.tolist() == [[6, ENDS[1], 0.5, 0.2, 1e39]]
    assert torch.equal(hull.center(), box.center())
    assert hull.representable(torch.float32) is hull
    assert box.representable(torch.float64) is box


SETS = {
    "box": Box(doubles(5, 0.1), doubles(6, 0.1)),
    "ball": LinfBall(doubles(5.5, 0.1), 0.0),
    "ball at the end of the valid range": LinfBall(doubles(0.1, 5.5), 1e-12, (0.1, 6.0)),
    "union": Union([Box(doubles(5, 0.1), doubles(6, 0.1)), Box(doubles(5, 0.1), doubles(5.5, 0.1))]),
    "product": Product([Box(doubles(5), doubles(6)), LinfBall(doubles(0.1), 1e-12)]),
}


@pytest.mark.parametrize("name", SETS)
def test_counterexamples_lie_in_the_hull_and_the_result_says_so(name: str) -> None:
    inputs: InputSet = SETS[name]
    result = verify(total(), inputs.center().float(), input_set=inputs, spec=at_least(5.0))
    assert result.verdict == (Verdict.FALSIFIED,)
    assert "its float32 hull is meant; counterexamples lie up to" in result.hull and result.hull in repr(result)
    (point,) = result.counterexample
    assert point is not None and point.dtype == torch.float32
    assert inputs.representable(torch.float32).contains(point[None]).all()
    assert (point.double() - inputs.project(point[None].double())[0]).abs().max() < ENDS[1] - ENDS[0]
    assert attack(total(), inputs.center().float(), input_set=inputs, spec=at_least(5.0)).success.all()


def test_proofs_are_of_the_hull() -> None:
    box = Box(doubles(0.1, 0.1), doubles(0.1, 0.1))
    x = box.center().float()
    proved = verify(total(), x, input_set=box, spec=at_least(0.3))
    assert proved.verdict == (Verdict.VERIFIED,)
    assert proved.hull == "where an interval holds no float32 number, its float32 hull is meant"
    certificate = proved.certificate[0]
    assert certificate is not None and certificate.check().valid
    for ends in product(ENDS, repeat=2):
        assert certificate.inputs.contains(torch.tensor([ends], dtype=torch.float64)).all()
    between = at_least(0.200000002)  # above the sum of the decimals, below that of the upper ends
    assert verify(total(), x, input_set=box, spec=between, example_budget=5).verdict != (Verdict.VERIFIED,)


def test_sets_with_float32_numbers_and_networks_in_float64_are_as_they_were() -> None:
    held = Box(doubles(5, 0.5), doubles(6, 0.5))
    assert verify(total(), held.center().float(), input_set=held, spec=at_least(5.0)).hull == ""
    assert verify(total(), held.center().float(), eps=0.1, spec=at_least(9.0)).hull == ""
    pinned = Box(doubles(5, 0.1), doubles(6, 0.1))
    result = verify(total(dtype=torch.float64), pinned.center(), input_set=pinned, spec=at_least(5.0))
    assert (result.verdict, result.hull) == ((Verdict.FALSIFIED,), "")
    assert result.counterexample[0] is not None and result.counterexample[0][1] == 0.1


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_all_float32_points_of_the_hull(seed: int) -> None:
    """Networks that see which float32 number of its hull each input is, and are convex: their largest value over the
    hull is at one of its corners, which are the float32 numbers."""
    rng = np.random.default_rng(seed)
    values = [float(f"{v:.4f}1") for v in rng.uniform(-3, 3, 3)]
    box = Box(doubles(*values), doubles(*values))
    ends = [t[0].float() for t in box.representable(torch.float32).box()]
    steps = (ends[1] - ends[0]).double()
    assert (steps > 0).all()
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)).eval()
    weights = [(torch.diag(1 / steps), -ends[0].double() / steps)]  # 0 at the lower end, 1 at the upper one, exactly
    weights += [tuple(torch.from_numpy(rng.normal(size=s)) for s in ((5, 3), (5,)))]
    weights += [(torch.from_numpy(np.abs(rng.normal(size=(1, 5)))), torch.from_numpy(rng.normal(size=1)))]
    with torch.no_grad():
        for layer, (weight, bias) in zip((model[0], model[1], model[3]), weights, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        points = torch.tensor(list(product(*zip(*(t.tolist() for t in ends), strict=True))))
        top = float(model(points).max())
    close = {Verdict.VERIFIED, Verdict.UNKNOWN}  # coefficients of 1e7 cost some proofs
    for gap, verdicts in ((-1e-3, {Verdict.FALSIFIED}), (1e-3, close), (0.5, {Verdict.VERIFIED})):
        result = verify(model, box.center().float(), input_set=box, spec=at_least(top + gap))
        assert result.verdict[0] in verdicts
        for point in result.counterexample:
            assert point is None or (points == point).all(1).any()
