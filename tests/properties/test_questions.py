"""Questions by name: each says what its words say, at every point, and is answered so."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from properties import (
    Box,
    Specification,
    linear,
    near,
    one_of,
    output_range,
    robustness,
    same_classes,
    same_side,
    targeted,
    top_k,
)
from verifier import InputError, Verdict, certify, verify


def holds(spec, y: Tensor) -> list[bool]:  # [N, *outputs]
    one = spec.expand(len(y)) if spec.batch == 1 else spec
    return (one.worst(one.values(y.double().flatten(1))) > 0).tolist()


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(200, *shape, generator=torch.Generator().manual_seed(seed)).double()


class Tokens(nn.Module):
    """Logits [B, tokens, classes] that are the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Linear(3, 3)
        with torch.no_grad():
            self.same.weight.copy_(torch.eye(3))
            self.same.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.same(x)


TOKENS = torch.tensor([[[10.0, 0, 0], [1.0, 1.001, 0]]])


def identity(n: int) -> nn.Module:
    layer = nn.Linear(n, n)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(n))
        layer.bias.zero_()
    return layer.eval()


@pytest.mark.parametrize("ask", [
    lambda model, x: verify(model, x, 0.01),
    lambda model, x: verify(model, x, 0.01, label=[0]),
    lambda model, x: certify(model, x, [0], eps=0.01, progress=False),
])  # fmt: skip
def test_outputs_of_several_dimensions_need_a_meaning(ask):
    with pytest.raises(InputError, match=r"several dimensions, \(2, 3\).*same_classes.*output_range.*near"):
        ask(Tokens().eval(), TOKENS)


def test_every_position_keeps_its_class():
    model = Tokens().eval()
    spec = same_classes(model(TOKENS), dim=-1)
    result = verify(model, TOKENS, 0.01, spec=spec)
    assert result.verdict[0].name == "FALSIFIED"
    changed = model(result.counterexample[0].unsqueeze(0)).argmax(-1)
    assert not torch.equal(changed, model(TOKENS).argmax(-1))
    assert verify(model, TOKENS, 0.0004, spec=spec).verified.all()


def test_positions_may_be_chosen_or_may_change():
    model = Tokens().eval()
    only_first = same_classes(model(TOKENS), where=torch.tensor([True, False]))
    one_may = same_classes(model(TOKENS), may_change=1)
    for spec in (only_first, one_may):
        assert verify(model, TOKENS, 0.01, spec=spec).verified.all()


@pytest.mark.parametrize("may_change", [0, 1, 2])
@pytest.mark.parametrize("dim", [1, 2, -1])
def test_same_classes_counts_positions(dim, may_change):
    y = points(3, 4, seed=1)[:1]
    others = points(3, 4) * 0.7 + y
    changed = (others.argmax(dim) != y.argmax(dim)).sum(1)
    assert holds(same_classes(y, dim, may_change=may_change), others) == (changed <= may_change).tolist()
    assert len(set((changed <= may_change).tolist())) == 2


def test_top_k_one_of_and_targeted_say_what_they_say():
    y = points(5)
    rank = (y > y[:, 2:3]).sum(1)
    for k in (1, 2, 3, 4):
        assert holds(top_k([2], k, 5), y) == (rank < k).tolist()
    assert holds(one_of([1, 4], 5), y) == [int(a) in (1, 4) for a in y.argmax(1)]
    assert holds(targeted([3], 5), y) == (y.argmax(1) != 3).tolist()
    assert torch.equal(top_k([2], 1, 5).rows, robustness(torch.tensor([2]), 5).rows)


def test_ranges_hold_at_their_ends():
    y = torch.tensor([[0.0, 1.0], [0.5, 1.5], [-0.1, 1.0], [0.0, 2.1]])
    spec = output_range((2,), torch.tensor([0.0, -math.inf]), 2.0)
    assert holds(spec, y) == [True, True, False, False]
    assert holds(near(y[:1], 0.5), y) == [True, True, True, False]


def test_linear_is_strict_unless_asked():
    rows, y = torch.tensor([[1.0, -1.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
    assert holds(linear(rows), y) == [False, True, False]
    assert holds(linear(rows, strict=False), y) == [True, True, False]
    assert holds(linear(rows, [1.5, 0.0]), y) == [True, True, True]


def test_a_threshold_is_for_both_sides():
    model, x = identity(1), torch.tensor([[1.0], [-1.0], [0.05]])
    result = verify(model, x, 0.1, threshold=0.0)
    assert [v.name for v in result.verdict] == ["VERIFIED", "VERIFIED", "FALSIFIED"]
    assert holds(same_side(x, 1.0), torch.tensor([[1.0], [1.0], [0.9]])) == [True, False, True]


def test_one_output_names_what_can_be_asked():
    with pytest.raises(InputError, match=r"at least two classes.*threshold.*output_range.*near.*linear"):
        verify(identity(1), torch.zeros(1, 1), 0.1)
    with pytest.raises(InputError, match="either label or spec"):
        verify(identity(1), torch.zeros(1, 1), 0.1, threshold=0.0, label=[0])
    with pytest.raises(InputError, match="networks of one output"):
        verify(identity(2), torch.zeros(1, 2), 0.1, threshold=0.0)


def test_one_specification_serves_a_batch():
    x = torch.tensor([[0.0, 0.5], [0.2, 0.9]])
    spec = output_range((2,), -0.5, 1.0)
    assert verify(identity(2), x, 0.05, spec=spec).verified.all()
    assert verify(identity(2), x, 0.2, spec=spec).verified.tolist() == [True, False]


def test_certificates_of_named_questions_are_checked():
    x = torch.tensor([[0.0, 0.5, 2.0, 1.0]])
    corners = torch.tensor(list(product((-0.1, 0.1), repeat=4)))
    for spec in (top_k([3], 2, 4), one_of([2, 3], 4), targeted([0], 4), near(x, 0.2), output_range((4,), -1.0, 3.0)):
        assert all(holds(spec, x + corners))
        result = verify(identity(4), x, 0.1, spec=spec)
        assert result.verified.all()
        assert result.certificate[0].check().valid


@pytest.mark.parametrize("wrong", [
    lambda: same_classes(torch.zeros(1, 2, 3), dim=0),
    lambda: same_classes(torch.zeros(1, 2, 1), dim=2),
    lambda: same_classes(torch.zeros(1, 2, 3), may_change=2),
    lambda: same_classes(torch.zeros(1, 900, 10), may_change=3),
    lambda: same_classes(torch.zeros(1, 2, 3), where=torch.tensor([False, False])),
    lambda: output_range((2,), 1.0, 0.0),
    lambda: output_range((2,), torch.tensor([0.0, math.nan])),
    lambda: output_range((2,)),
    lambda: output_range((2,), torch.zeros(3)),
    lambda: near(torch.zeros(1, 2), 0.0),
    lambda: one_of([], 3),
    lambda: one_of([0, 1, 2], 3),
    lambda: one_of([5], 3),
    lambda: top_k([0], 3, 3),
    lambda: top_k([0], 40, 100),
    lambda: targeted([3], 3),
    lambda: linear(torch.zeros(3)),
    lambda: linear(torch.zeros(2, 3), torch.zeros(3)),
    lambda: same_side(torch.zeros(1, 2)),
    lambda: same_side(torch.zeros(1, 1), math.nan),
    lambda: Box(torch.zeros(1, 1), torch.zeros(1, 1)) and robustness(torch.zeros(2, dtype=torch.int64), 2).expand(3),
])  # fmt: skip
def test_questions_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        wrong()


def test_the_margin_of_a_clause_is_that_of_its_best_row():
    """Of two of the three largest: another class may be above the label, as long as the third is not."""
    x, network = torch.tensor([[1.0, 3.0, 0.0]]), identity(3)
    found = verify(network, x, 0.1, spec=top_k([0], 2, 3), stages=["interval"])
    assert found.verdict == (Verdict.VERIFIED,)
    assert found.margins.min() < -2 and found.margin.item() == found[0].margin == found[0].row()["margin"]
    assert found.margin.item() == pytest.approx(0.8, abs=1e-3)
    assert verify(network, x, 0.1, label=[1], stages=["interval"]).margin.item() == pytest.approx(1.8, abs=1e-3)


def test_what_holds_by_another_row_at_each_point_has_no_margin_above_zero():
    hinges = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).eval()  # x, as max(x, 0) - max(-x, 0)
    with torch.no_grad():
        for parameter, value in zip(hinges.parameters(), ([[1.0], [-1.0]], [0, 0], [[1.0, -1.0]], [0]), strict=True):
            parameter.copy_(torch.tensor(value))
    either = Specification(torch.tensor([[[1.0], [-1.0]]]), torch.ones(1, 2) / 2, torch.tensor([0, 0]))
    found = verify(hinges, torch.zeros(1, 1), 0.75, spec=either, stages=["branch"])
    assert found.verdict == (Verdict.VERIFIED,) and found.margin.item() <= 0
