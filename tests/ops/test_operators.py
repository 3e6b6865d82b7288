"""Conformance of every registered operator, what single ones promise beyond, and that broken ones are noticed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from verifier.ops.absolute import Abs
from verifier.ops.base import REGISTRY, Activation, LinearRelaxation, OperatorExample, SlopeRule
from verifier.ops.clip import Clip
from verifier.ops.facts import Facts
from verifier.ops.relu import ReLU
from verifier.ops.smooth import Sigmoid, Tanh
from verifier.testing import check_operator
from verifier.testing.activations import facts_are_true, intervals, parts_of, range_is_the_hull, slopes
from verifier.testing.laws import Law


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_conformance(name: str) -> None:
    check_operator(REGISTRY[name])


def test_every_file_of_the_package_was_loaded() -> None:
    assert len(REGISTRY) >= 20 and not REGISTRY.failures


@pytest.mark.parametrize("op", [e.op for kind in (Clip, Abs) for e in kind.examples()], ids=repr)
def test_both_lines_are_nan_where_a_bound_is(op: Activation) -> None:
    """Though some lower lines would hold: those of convex functions."""
    nan, one = torch.full((1, 1), math.nan), torch.ones(1, 1)
    for low, high in ((nan, one), (-one, nan), (nan, nan)):
        for slope in slopes(low):
            assert all(part.isnan().all() for part in parts_of(op.relax(low, high, slope)))


def test_fixed_rule_beats_the_flattest_parallel_lines() -> None:
    """FIXED chooses parallel lines at most as far apart as those of slope min(f'(l), f'(u)) (Singh et al. 2018)."""
    low, high = intervals(Tanh(), torch.float64, extremes=False)
    for op in (Tanh(), Sigmoid()):
        lines = op.relax(low, high, SlopeRule.FIXED)
        slope = torch.minimum(op.derivative(low), op.derivative(high))
        known = op.apply(high) - op.apply(low) - slope * (high - low)
        assert (lines.upper_bias - lines.lower_bias <= known + 1e-9).all()


def test_clip_with_both_kinks() -> None:
    op = Clip(-1.0, 1.0)
    low, high = torch.tensor([[-3.0]]), torch.tensor([[2.0]])
    lines = op.relax(low, high, torch.ones(1, 1))
    assert lines.upper_slope.item() == pytest.approx(0.5) and lines.upper_bias.item() == pytest.approx(0.5)
    assert lines.lower_slope.item() == pytest.approx(2 / 3) and lines.lower_bias.item() == pytest.approx(-1 / 3)
    fixed = op.relax(low, high, SlopeRule.FIXED)
    assert fixed.parallel and fixed.upper_slope.item() == pytest.approx(0.5)


class _Hump(Activation):
    """max(1 - x^2, 0): it rises to 1 at 0 and falls again."""

    facts = Facts(kinks=(-1.0, 1.0), extrema=(0.0,), values=(0.0, 1.0))
    lipschitz = 2.0
    piecewise_linear = False

    def apply(self, x: Tensor) -> Tensor:
        return (1 - x.clamp(-1, 1).square()).clamp(min=0)

    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:
        return ~(lower >= upper)

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        ends = self.apply(lower), self.apply(upper)
        around = (lower <= 0) & (upper >= 0)
        error = 8 * torch.finfo(lower.dtype).eps
        top = torch.where(around, torch.ones_like(lower), torch.maximum(*ends) + error)
        return torch.minimum(*ends) - error, torch.where(lower.isnan() | upper.isnan(), torch.nan, top)

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
        low, high = self.range(lower, upper)
        flat = torch.zeros_like(lower)
        return LinearRelaxation(flat, low, flat, high, parallel=True)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


def test_a_tight_activation_that_is_not_monotone_has_a_tight_range() -> None:
    range_is_the_hull(_Hump.examples()[0])
    facts_are_true(_Hump.examples()[0])


class _Silent(_Hump):
    """The same, without a word about where it turns."""

    facts = Facts()


def test_an_activation_that_says_nothing_of_itself_is_held_to_what_is_seen() -> None:
    range_is_the_hull(_Silent.examples()[0])


@pytest.mark.parametrize(
    ("claims", "law"),
    [
        (Facts(monotone=True), facts_are_true),
        (Facts(convex=((-1.0, 1.0),)), facts_are_true),
        (Facts(values=(0.0, 0.5)), facts_are_true),
        (Facts(extrema=(0.5,)), facts_are_true),
    ],
)
def test_false_facts_are_noticed(claims: Facts, law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Hump, "facts", claims)
    with pytest.raises(AssertionError):
        law(_Hump.examples()[0])


class _TooLow(ReLU):
    """Its upper line is below the function: unsound."""

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
        lines = super().relax(lower, upper, slope)
        return LinearRelaxation(lines.lower_slope, lines.lower_bias, lines.upper_slope, lines.upper_bias - 1e-3)


def test_an_unsound_operator_is_noticed_and_the_law_is_named() -> None:
    with pytest.raises(AssertionError) as broken:
        check_operator(_TooLow)
    assert any("breaks a law" in note and "_TooLow" in note for note in broken.value.__notes__)
