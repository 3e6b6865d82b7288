"""Verdicts: never a wrong VERIFIED or FALSIFIED, however close to zero the margin is and whatever a stage claims.

The truth comes from rational arithmetic: networks with one input are piecewise linear functions of one variable,
whose minimum over an interval is exact in `fractions.Fraction`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from properties import Box, LinfBall, Specification, robustness
from verifier import InputError, Reason, Trust, Verdict, Verifier, VerifierError, certified_radius, verify
from verifier.api import DEFAULT_STAGES
from verifier.bound_map import Bounds, Interval, Provenance
from verifier.budget import Budget
from verifier.policy import Ladder
from verifier.query import Query
from verifier.result import Result
from verifier.stages import Stage, StageReport, stage
from verifier.stages.attack import AttackStage

DTYPES = [torch.float32, torch.float64]
LADDERS: list[list[str] | None] = [None, ["interval"], ["dual"], ["dual-adaptive"]]


# exact arithmetic ----------------------------------------------------------------------------------------------------

Piecewise = list[list[Fraction]]  # per neuron, the values at shared breakpoints; linear in between


def fractions(tensor: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in tensor.detach().double().flatten().tolist()]


def exact_minimum(model: nn.Sequential, low: Fraction, high: Fraction, row: Sequence[Fraction]) -> Fraction:
    """min over [low, high] of row . model(x), for a chain of Linear and ReLU layers on one input."""
    at, values = [low, high], [[low, high]]
    for layer in model:
        if isinstance(layer, nn.Linear):
            values = _linear(layer, values)
        elif isinstance(layer, nn.ReLU):
            at, values = _relu(at, values)
        else:
            raise NotImplementedError(type(layer).__name__)
    return min(sum((r * v[k] for r, v in zip(row, values, strict=True)), Fraction(0)) for k in range(len(at)))


def _linear(layer: nn.Linear, values: Piecewise) -> Piecewise:
    weight = [fractions(r) for r in layer.weight]
    bias = [Fraction(0)] * len(weight) if layer.bias is None else fractions(layer.bias)
    points = range(len(values[0]))
    return [
        [sum((w * v[k] for w, v in zip(row, values, strict=True)), b) for k in points]
        for row, b in zip(weight, bias, strict=True)
    ]


def _relu(at: list[Fraction], values: Piecewise) -> tuple[list[Fraction], Piecewise]:
    kinks = set(at)
    for v in values:
        for k in range(len(at) - 1):
            if v[k] * v[k + 1] < 0:
                kinks.add(at[k] - v[k] * (at[k + 1] - at[k]) / (v[k + 1] - v[k]))
    new = sorted(kinks)

    def sample(v: list[Fraction], x: Fraction) -> Fraction:
        if len(at) == 1:
            return v[0]
        for k in range(len(at) - 1):
            if at[k] <= x <= at[k + 1]:
                if at[k] == at[k + 1]:
                    return v[k]
                return v[k] + (v[k + 1] - v[k]) * (x - at[k]) / (at[k + 1] - at[k])
        raise AssertionError("outside")

    return new, [[max(sample(v, x), Fraction(0)) for x in new] for v in values]


def true_margin(model: nn.Sequential, x: Tensor, eps: float, label: int) -> Fraction:
    """The smallest margin of `label` over |z - x| <= eps, x of one entry."""
    (center,), radius = fractions(x), Fraction(eps)
    classes = model[-1].out_features
    assert isinstance(classes, int)
    margins = []
    for other in range(classes):
        if other == label:
            continue
        row = [Fraction(int(i == label) - int(i == other)) for i in range(classes)]
        margins.append(exact_minimum(model, center - radius, center + radius, row))
    return min(margins)


def assert_not_wrong(result: Result, truth: Fraction, note: str = "", i: int = 0) -> None:
    verdict = result.verdict[i]
    if verdict is Verdict.VERIFIED:
        assert truth > 0, f"VERIFIED by {result.decided_by[i]}, but the exact margin is {float(truth):.3e} {note}"
    if verdict is Verdict.FALSIFIED:
        assert truth < 0, f"FALSIFIED, but the exact margin is {float(truth):.3e} {note}"


def linear(weight: Any, bias: Any = None, dtype: torch.dtype = torch.float32) -> nn.Linear:
    weight = torch.as_tensor(weight, dtype=dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.as_tensor(bias, dtype=dtype))
    return layer


Case = tuple[float, float, int]  # x, eps, label


#: of a grid of cases, which the whole ladder of stages tries one after another: every fifth, or all of them
EVERY = pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])


def check_against_truth(
    model: nn.Sequential, cases: Sequence[Case], note: str = "", every: int = 1
) -> dict[Case, list[Verdict]]:
    """Verdicts of every ladder on every case, all as one batch, each held against the truth.

    Args:
        every: the whole ladder is asked about one case of so many; single stages are asked about all.
    """
    dtype = model[0].weight.dtype
    assert isinstance(dtype, torch.dtype)
    x = torch.tensor([[c] for c, _, _ in cases], dtype=dtype)
    eps = torch.tensor([e for _, e, _ in cases], dtype=torch.float64)
    label = torch.tensor([k for _, _, k in cases])
    truths = [true_margin(model, x[i], float(eps[i]), int(label[i])) for i in range(len(x))]
    verifier = Verifier(model.eval(), x)
    verdicts: dict[Case, list[Verdict]] = {case: [] for case in cases}
    for names in LADDERS:
        verifier.ladder = Ladder([stage(n) for n in names or DEFAULT_STAGES], adapts=False)
        asked = slice(None, None, every if names is None else 1)
        result = verifier.run(LinfBall(x[asked], eps[asked]), robustness(label[asked], 2))
        for i, (case, truth) in enumerate(zip(cases[asked], truths[asked], strict=True)):
            assert_not_wrong(result, truth, f"(x, eps, label) {case} {note} stages={names}", i)
            verdicts[case].append(result.verdict[i])
    return verdicts


def test_the_exact_arithmetic_itself() -> None:
    """|x| - 1/4 as relu(x) + relu(-x), against its known minimum."""
    model = nn.Sequential(linear([[1.0], [-1.0]]), nn.ReLU(), linear([[1.0, 1.0], [0.0, 0.0]], [-0.25, 0.0]))
    row = [Fraction(1), Fraction(-1)]
    assert exact_minimum(model, Fraction(-1), Fraction(2), row) == Fraction(-1, 4)
    assert exact_minimum(model, Fraction(1), Fraction(2), row) == Fraction(3, 4)
    assert true_margin(model, torch.tensor([0.5]), 0.25, 0) == 0
    assert true_margin(model, torch.tensor([0.5]), 0.125, 0) == Fraction(1, 8)


# close calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_duplicated_output_rows_are_undecided(dtype: torch.dtype, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    last = torch.randn(3, 6, generator=generator)
    last[2] = last[0]
    last[1] = 0.0
    model = nn.Sequential(
        linear(torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator), dtype),
        nn.ReLU(),
        linear(last, [5.0, -30.0, 5.0], dtype),
    ).eval()
    for stages in LADDERS:
        result = verify(model, torch.randn(5, 4, generator=generator).to(dtype), eps, label=[0] * 5, stages=stages)
        assert set(result.verdict) == {Verdict.UNKNOWN}, stages
        if eps == 0 and stages is None:
            assert set(result.reason) == {Reason.NUMERICAL}


def permuted_copies(seed: int, dtype: torch.dtype, difference: float) -> nn.Sequential:
    """Two logits that are the same sum of the same hidden units in another order, but for `difference`."""
    generator = torch.Generator().manual_seed(seed)
    n, inputs = 24, 1
    weight, bias = torch.randn(n, inputs, generator=generator), torch.randn(n, generator=generator)
    out, order = 3 * torch.randn(n, generator=generator), torch.randperm(n, generator=generator)
    last = torch.zeros(2, 2 * n)
    last[0, :n], last[1, n:] = out, out[order]
    hidden = linear(torch.cat([weight, weight[order]]), torch.cat([bias, bias[order]]), dtype)
    return nn.Sequential(hidden, nn.ReLU(), linear(last, [difference, 0.0], dtype)).eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("difference", [0.0, 1e-12, -1e-12, 1e-9, -1e-9, 1e-6, -1e-6])
def test_permuted_copies_of_hidden_units(dtype: torch.dtype, difference: float) -> None:
    for seed in range(2):
        model = permuted_copies(seed, dtype, difference)
        cases = [(0.3 + seed, eps, 0) for eps in (0.0, 1e-7, 0.1)]
        assert true_margin(model, torch.tensor([0.3]), 0.1, 0) == fractions(model[2].bias)[0]  # type: ignore[arg-type]
        for (_, eps, _), verdicts in check_against_truth(model, cases, f"seed {seed}").items():
            if eps == 0 and abs(difference) >= 1e-9:  # far from zero for float64: decided, and rightly
                assert verdicts[0] is (Verdict.VERIFIED if difference > 0 else Verdict.FALSIFIED)
            if difference == 0:
                assert set(verdicts) == {Verdict.UNKNOWN}


@pytest.mark.parametrize("dtype", DTYPES)
def test_margins_near_zero_at_the_edge_of_the_box(dtype: torch.dtype) -> None:
    """y0 - y1 = x - t over |x| <= eps has its minimum -eps - t: t on either side of -eps."""
    for eps in (0.1, 1e-3):
        for gap in (0.0, 1e-12, -1e-12, 1e-9, -1e-9, 1e-6, -1e-6, 1e-4, -1e-4):
            model = nn.Sequential(linear([[1.0], [0.0]], [eps + gap, 0.0], dtype))
            check_against_truth(model, [(0.0, eps, 0)], f"gap {gap}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_cancellation_between_layers(dtype: torch.dtype) -> None:
    """Logits [h x + x - h x + 1/2, 0] with h so large that h + 1 rounds to h: the true margin is x + 1/2.

    At x = 0 every value of the network is zero, so nothing at the clean input hints at the cancellation.
    """
    large = 1e8 if dtype is torch.float32 else 1e17
    model = nn.Sequential(
        linear([[large], [1.0], [-large]], dtype=dtype),
        linear([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], [0.5, 0.0], dtype),
    )
    check_against_truth(model, [(x, eps, 0) for x in (0.0, 0.1, 1.0) for eps in (0.0, 0.25, 1.0, 2.0)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_cancellation_in_stable_neurons(dtype: torch.dtype) -> None:
    """Hidden pre-activations that cancel: rounding must not make an unstable ReLU look stable unnoticed."""
    large = 1e8 if dtype is torch.float32 else 1e17
    for bias in (0.5, 1e-3):
        model = nn.Sequential(
            linear([[large], [1.0], [-large]], dtype=dtype),
            linear([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], [bias, -bias], dtype),
            nn.ReLU(),
            linear([[1.0, -1.0], [0.0, 0.0]], [0.1, 0.0], dtype),
        )
        check_against_truth(model, [(0.0, eps, 0) for eps in (0.0, 0.25, 1.0, 2.0)], f"bias {bias}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [0, 8])
def test_badly_scaled_networks(dtype: torch.dtype, first: int) -> None:
    """Random chains with weights from 1e-8 to 1e8 and biases up to 1e8, at zero and elsewhere."""
    seen: set[Verdict] = set()
    for seed in range(first, first + 8):
        rng = np.random.default_rng(seed)

        def scaled(*shape: int, rng: np.random.Generator = rng) -> np.ndarray:
            return rng.normal(size=shape) * rng.choice([1e-8, 1e-3, 1.0, 1.0, 1e8], size=shape)

        h1, h2 = 4, 3
        layers = [linear(scaled(h1, 1), scaled(h1), dtype), nn.ReLU()]
        if seed % 2:
            layers += [linear(scaled(h2, h1), scaled(h2) if seed % 4 > 1 else None, dtype), nn.ReLU()]
        layers += [linear(scaled(2, h2 if seed % 2 else h1), scaled(2), dtype)]
        x = 0.0 if seed % 3 == 0 else float(rng.normal())
        cases = [(x, eps, label) for eps in (0.0, 1e-7, 0.1, 10.0) for label in (0, 1)]
        for verdicts in check_against_truth(nn.Sequential(*layers), cases, f"seed {seed}").values():
            seen.update(verdicts)
    assert {Verdict.VERIFIED, Verdict.FALSIFIED} <= seen


@pytest.mark.parametrize(
    ("huge", "dtype"), [(1e8, torch.float32), (1e30, torch.float32), (1e16, torch.float64), (1e30, torch.float64)]
)
@EVERY
def test_huge_biases_that_cancel(dtype: torch.dtype, huge: float, every: int) -> None:
    """relu(x + b) - relu(b + d) with d far below the spacing of floats at b."""
    for difference in (0.0, 1e-3, -1e-3):
        model = nn.Sequential(
            linear([[1.0], [0.0], [0.0]], [huge, huge, difference], dtype),
            nn.ReLU(),
            linear([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], None, dtype),
        )
        cases = [(x, eps, label) for x in (0.0, 0.5) for eps in (0.0, 0.01, 1.0) for label in (0, 1)]
        check_against_truth(model, cases, f"difference {difference}", every)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [nn.Sigmoid(), nn.Tanh()])
def test_saturated_smooth_activations(dtype: torch.dtype, function: nn.Module) -> None:
    """f(x) < 1 everywhere, though floats say f(x) = 1: neither side may be called wrongly."""
    model = nn.Sequential(linear([[1.0]], [0.0], dtype), function, linear([[1.0], [0.0]], [0.0, 1.0], dtype)).eval()
    grid = torch.cartesian_prod(torch.tensor([5.0, 12.0, 40.0, 200.0]), torch.tensor([0.0, 0.5, 4.0]))
    x, eps = grid[:, :1].to(dtype), grid[:, 1].double()
    verifier = Verifier(model, x)
    for names in LADDERS:
        verifier.ladder = Ladder([stage(n) for n in names or DEFAULT_STAGES], adapts=False)
        below = verifier.run(LinfBall(x, eps), robustness(torch.zeros(len(x), dtype=torch.int64), 2))  # f(x) - 1 < 0
        above = verifier.run(LinfBall(x, eps), robustness(torch.ones(len(x), dtype=torch.int64), 2))  # 1 - f(x) > 0
        assert Verdict.VERIFIED not in below.verdict, names
        assert Verdict.FALSIFIED not in above.verdict, names


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_boxes_of_a_few_floats(dtype: torch.dtype, every: int) -> None:
    """Boxes 1e-7 wide at 1000 and at 1/3, kinks inside and outside, margins of the same size."""
    for center in (1000.0, 1.0 / 3.0):
        c = float(torch.tensor(center, dtype=dtype))
        for shift in (0.0, 2e-8, -2e-8, 1e-7, -1e-7):
            model = nn.Sequential(
                linear([[1.0], [-1.0]], [-c + shift, c - shift], dtype),
                nn.ReLU(),
                linear([[1.0, -1.0], [0.0, 0.0]], [3e-8, 0.0], dtype),
            )
            check_against_truth(
                model, [(c, eps, 0) for eps in (0.0, 1e-8, 5e-8, 1e-7)], f"shift {shift}", (every + 2) // 2
            )


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_denormal_values(dtype: torch.dtype, every: int) -> None:
    """Weights, inputs and margins among the denormals, where relative error has no meaning."""
    small = 2.0**-140 if dtype is torch.float32 else 2.0**-1060
    for w0, w1, b in ((1.0, 0.0, 0.0), (small, 0.0, 0.0), (0.5, -0.5, small), (small, -small, -small)):
        model = nn.Sequential(
            linear([[w0], [w1]], [b, 0.0], dtype), nn.ReLU(), linear([[0.5, -0.5], [0.25, 0.0]], [0.0, b], dtype)
        )
        points = [(x, eps) for x in (0.0, small, -small, 1.0) for eps in (0.0, small, 0.1)]
        check_against_truth(model, [(x, e, label) for x, e in points for label in (0, 1)], f"{w0} {w1} {b}", every)


def test_bounds_in_lower_precision_than_the_model() -> None:
    """A float64 network bounded in float32: close calls are about the weights it has, not about rounded ones."""
    u = 2.0**-23
    model = nn.Sequential(linear([[1 + 0.6 * u], [1 + 1.4 * u]], [0.4 * u, 0.0], torch.float64)).eval()
    x = torch.ones(1, 1, dtype=torch.float64)
    truth = true_margin(model, x[0], 0.0, 0)
    assert truth < 0
    for stages in LADDERS:
        result = verify(model, x, 0.0, label=[0], stages=stages, dtype=torch.float32)
        assert_not_wrong(result, truth, f"stages={stages}")


# what a stage may claim ----------------------------------------------------------------------------------------------


class FakeStage(Stage):
    """Reports whatever it was told to; per precision of the query's graph where given a mapping."""

    name: ClassVar[str] = "fake"
    cost_rank: ClassVar[int] = 0

    def __init__(self, lower: Any = None, candidates: Any = None, bounds: Any = None, **fields: Any) -> None:
        self.lower, self.candidates, self.bounds, self.fields = lower, candidates, bounds, fields

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        lower = self.lower.get(query.graph.dtype) if isinstance(self.lower, dict) else self.lower
        found = Bounds() if self.bounds is None else self.bounds(query)
        trust = self.fields.get("trust", Trust.FLOAT)
        exhausted, clauses = self.fields.get("exhausted", False), self.fields.get("clauses")
        return StageReport(lower, found, self.candidates, trust, exhausted=exhausted, clauses=clauses)


def two_class(gap: float = 1.0) -> nn.Sequential:
    """Margin gap + x0 of class 0, on two inputs."""
    return nn.Sequential(linear([[1.0, 0.0], [0.0, 0.0]], [gap, 0.0]), nn.Identity()).eval()


def three_class() -> nn.Sequential:
    """Margins 1 + x0 against class 1, 2 - x0 against class 2, over class 0."""
    return nn.Sequential(linear([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], [2.0, 1.0, 0.0])).eval()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-30])
def test_useless_lower_bounds_decide_nothing(value: float) -> None:
    result = verify(two_class(), torch.zeros(2, 2), 0.5, stages=[FakeStage(torch.full((2, 1), value))])
    assert set(result.verdict) == {Verdict.UNKNOWN}
    assert all(r is not None for r in result.reason)
    assert result.certificate == (None, None) and result.trust == (None, None)


def test_one_bad_row_is_enough_to_leave_an_example_open() -> None:
    for value in (math.nan, math.inf, -math.inf, 0.0):
        fake = FakeStage(torch.tensor([[1.0, value], [1.0, 1.0]]).double())
        result = verify(three_class().double(), torch.zeros(2, 2).double(), 0.5, label=[0, 0], stages=[fake])
        assert result.verdict == (Verdict.UNKNOWN, Verdict.VERIFIED), value


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (3, 1), (1, 2), (2, 2), (3, 3), (6,), (3, 2, 1), (1, 3, 2)])
def test_lower_bounds_of_a_wrong_shape_prove_nothing(shape: tuple[int, ...]) -> None:
    """Three examples, two rows: nothing else may be broadcast into a proof."""
    try:
        result = verify(three_class(), torch.zeros(3, 2), 5.0, label=[0] * 3, stages=[FakeStage(torch.ones(shape))])
    except (VerifierError, RuntimeError, IndexError, ValueError):
        return
    assert Verdict.VERIFIED not in result.verdict


@pytest.mark.parametrize("shape", [(), (2,), (1, 2), (2, 2), (3, 1), (3, 3), (4, 2), (3, 2, 1)])
def test_candidates_of_a_wrong_shape_refute_nothing(shape: tuple[int, ...]) -> None:
    """Margin 1 + x0 against class 1: only points with x0 < -1 refute, and (-2, .) is one of the set."""
    try:
        fake = FakeStage(candidates=torch.full(shape, -2.0))
        result = verify(three_class(), torch.zeros(3, 2), 5.0, label=[0] * 3, stages=[fake])
    except (VerifierError, RuntimeError, IndexError, ValueError):
        return
    for verdict, point in zip(result.verdict, result.counterexample, strict=True):
        assert verdict is Verdict.UNKNOWN or (point is not None and point.shape == (2,) and float(point[0]) < -1)


def test_candidates_outside_or_not_misclassified_refute_nothing() -> None:
    """Candidates are projected by roundings at most; what stays outside, or is classified rightly, is no evidence."""
    for candidate in ([-3.0, 0.0], [0.0, 0.0], [0.25, -0.25], [math.nan, 0.0], [math.inf, 0.0], [-math.inf, math.nan]):
        result = verify(two_class(), torch.zeros(1, 2), 0.5, stages=[FakeStage(candidates=torch.tensor([candidate]))])
        assert result.verdict == (Verdict.UNKNOWN,), candidate
    real = verify(two_class(0.25), torch.zeros(1, 2), 0.5, stages=[FakeStage(candidates=torch.tensor([[-0.5, 0.0]]))])
    assert real.verdict == (Verdict.FALSIFIED,) and real.decided_by == ("fake",)
    assert real.attack_margin[0] == -0.25 and real.float32_agrees == (True,)


def test_a_candidate_that_stays_outside_refutes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a set that moves no point into itself, as one may that has no projection."""
    monkeypatch.setattr(LinfBall, "inside", lambda self, x, dtype: x.to(dtype, copy=True))
    fake = FakeStage(candidates=torch.tensor([[-3.0, 0.0]]))
    result = verify(two_class(), torch.zeros(1, 2), 0.5, stages=[fake])
    assert result.verdict == (Verdict.UNKNOWN,) and result.counterexample == (None,)


def test_a_tie_is_no_counterexample() -> None:
    result = verify(two_class(0.5), torch.zeros(1, 2), 0.5, stages=[FakeStage(candidates=torch.tensor([[-0.5, 0.0]]))])
    assert result.verdict == (Verdict.UNKNOWN,) and result.reason == (Reason.NUMERICAL,)
    assert result.attack_margin[0] == 0


def test_what_float64_takes_back_stays_taken_back() -> None:
    """A float32 bound inside its rounding error is a close call; where float64 then says no, it is no proof."""
    for refined in (-1.0, -1e-12, 0.0, math.nan, -math.inf):
        claims = {torch.float32: torch.tensor([[1e-9]]), torch.float64: torch.tensor([[refined]], dtype=torch.float64)}
        model, x = two_class(0.5), torch.zeros(1, 2)
        result = verify(model, x, 0.5, stages=[FakeStage(claims)])
        assert result.verdict == (Verdict.UNKNOWN,), refined
        claims[torch.float64] = torch.tensor([[1e-9]], dtype=torch.float64)
        assert verify(model, x, 0.5, stages=[FakeStage(claims)]).verdict == (Verdict.VERIFIED,)


def test_a_later_stage_inherits_no_unconfirmed_bound() -> None:
    """Row 0's float32 claim was never confirmed; a later stage's float64 look at row 1 must not promote it."""
    first = FakeStage({torch.float32: torch.tensor([[1e-9, -1.0]])})
    second = FakeStage({torch.float32: torch.tensor([[-1e-9, 1.0]]), torch.float64: torch.tensor([[-1e-9, 1.0]])})
    result = verify(three_class(), torch.zeros(1, 2), 5.0, label=[0], stages=[first, second])
    assert result.verdict == (Verdict.UNKNOWN,)


def test_trust_is_the_least_of_all_that_a_proof_rests_on() -> None:
    """Each stage proves one clause: the weaker one decides the trust, whichever came first."""
    for one, two in ((Trust.PROBABILISTIC, Trust.FLOAT), (Trust.FLOAT, Trust.PROBABILISTIC)):
        first = FakeStage(torch.tensor([[1.0, -1.0]]), trust=one)
        second = FakeStage(torch.tensor([[-1.0, 1.0]]), trust=two)
        result = verify(three_class(), torch.zeros(1, 2), 0.1, label=[0], stages=[first, second])
        assert result.verdict == (Verdict.VERIFIED,)
        assert result.trust == (Trust.PROBABILISTIC,), (one, two)


def test_trust_covers_the_intermediate_bounds() -> None:
    model = nn.Sequential(linear([[1.0, 1.0]], [0.0]), nn.ReLU(), linear([[1.0], [0.0]], [1.0, 0.0])).eval()

    def guessed(query: Query) -> Bounds:
        (node,) = query.graph.pre_activations
        one = torch.ones(query.batch, 1)
        return Bounds({node: Interval.of(-0.1 * one, 0.1 * one, Provenance("guess", Trust.PROBABILISTIC))})

    result = verify(model, torch.zeros(1, 2), 0.5, stages=[FakeStage(bounds=guessed), "dual"])
    assert result.verdict == (Verdict.VERIFIED,) and result.trust == (Trust.PROBABILISTIC,)
    assert verify(model, torch.zeros(1, 2), 0.5, stages=["dual"]).trust == (Trust.CHECKED,)


@pytest.mark.parametrize("stage", ["interval", "dual", "dual-adaptive"])
def test_nan_intermediate_bounds_prove_nothing_wrong(stage: str) -> None:
    """Margin 1/4 - relu(x0 + x1) + ... is negative inside the box: NaN bounds must not hide it."""
    model = nn.Sequential(linear([[1.0, 1.0]], [0.0]), nn.ReLU(), linear([[-1.0], [0.0]], [0.25, 0.0])).eval()

    def broken(query: Query) -> Bounds:
        (node,) = query.graph.pre_activations
        nan = torch.full((query.batch, 1), math.nan)
        return Bounds({node: Interval.of(nan, nan, Provenance("broken", Trust.FLOAT))})

    result = verify(model, torch.zeros(1, 2), 0.5, label=[0], stages=[FakeStage(bounds=broken), stage])
    assert result.verdict == (Verdict.UNKNOWN,)


def test_exhausted_stage_gives_the_reason_budget() -> None:
    result = verify(two_class(), torch.zeros(1, 2), 5.0, stages=[FakeStage(exhausted=True)])
    assert result.verdict == (Verdict.UNKNOWN,) and result.reason == (Reason.BUDGET,)


def test_budget_zero_decides_nothing() -> None:
    result = verify(two_class(), torch.zeros(3, 2), 0.1, budget=0)
    assert set(result.verdict) == {Verdict.UNKNOWN} and set(result.reason) == {Reason.BUDGET}
    assert (result.margins[:, 1] == -torch.inf).all() and result.stages == ()


# clauses of several rows ---------------------------------------------------------------------------------------------


def spec(rows: list[list[float]], offset: list[float], clause: list[int]) -> Specification:
    return Specification(
        torch.tensor([rows], dtype=torch.float64), torch.tensor([offset], dtype=torch.float64), torch.tensor(clause)
    )


def unit_ball() -> LinfBall:
    return LinfBall(torch.zeros(1, 1), 1.0)


@pytest.mark.parametrize(
    ("rows", "offset", "clause", "expected"),
    [
        ([[1.0], [-1.0]], [0.5, 0.5], [0, 0], {Verdict.UNKNOWN, Verdict.VERIFIED}),  # true, no row alone shows it
        ([[1.0], [1.0]], [0.5, 2.0], [0, 0], {Verdict.VERIFIED}),  # the second row is positive everywhere
        ([[1.0], [1.0]], [0.5, 2.0], [0, 1], {Verdict.FALSIFIED}),  # as two clauses it fails at x = -1
        ([[1.0], [-1.0]], [-0.5, -0.5], [0, 0], {Verdict.FALSIFIED}),  # both rows negative around 0
        ([[1.0], [-1.0]], [0.0, 0.0], [0, 0], {Verdict.UNKNOWN}),  # fails at 0 alone, in a tie
        ([[1.0], [1.0], [0.0]], [-2.0, 2.0, -1.0], [1, 0, 1], {Verdict.FALSIFIED}),  # clause 1 never holds
        ([[1.0], [1.0], [0.0]], [-2.0, 2.0, 1.0], [1, 0, 1], {Verdict.VERIFIED}),  # each clause has a row
        ([[0.0]], [0.0], [0], {Verdict.UNKNOWN}),  # 0 > 0 is false everywhere, but a tie
        ([[0.0]], [1e-300], [0], {Verdict.UNKNOWN, Verdict.VERIFIED}),
    ],
)
def test_clauses_of_several_rows(
    rows: list[list[float]], offset: list[float], clause: list[int], expected: set[Verdict]
) -> None:
    """On y = x over [-1, 1]: the property holds where every clause has a positive row."""
    model = nn.Sequential(linear([[1.0]])).eval()
    for stages in (None, ["dual", "attack"], ["interval", "attack", "dual-adaptive"]):
        result = verify(model, torch.zeros(1, 1), input_set=unit_ball(), spec=spec(rows, offset, clause), stages=stages)
        assert result.verdict[0] in expected, stages
        point = result.counterexample[0]
        if point is not None:
            at = [r[0] * float(point[0]) + o for r, o in zip(rows, offset, strict=True)]
            assert any(all(v <= 0 for v, c in zip(at, clause, strict=True) if c == k) for k in set(clause))


def test_fake_bounds_with_clauses_of_several_rows() -> None:
    """[1, -1 | -1] with clauses (0, 0 | 1) leaves clause 1 open; [-1, 1 | 1] proves both."""
    model = nn.Sequential(linear([[1.0]])).eval()
    three = spec([[1.0], [1.0], [1.0]], [5.0, 5.0, 5.0], [0, 0, 1])
    for lower, expected in (
        ([1.0, -1.0, -1.0], Verdict.UNKNOWN),
        ([-1.0, -1.0, 1.0], Verdict.UNKNOWN),
        ([-1.0, 1.0, 1.0], Verdict.VERIFIED),
        ([math.nan, 1.0, 1.0], Verdict.VERIFIED),
        ([1.0, 1.0, math.nan], Verdict.UNKNOWN),
    ):
        fake = FakeStage(torch.tensor([lower]))
        result = verify(model, torch.zeros(1, 1), input_set=unit_ball(), spec=three, stages=[fake])
        assert result.verdict == (expected,), lower


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-30, 1.0])
def test_a_clause_that_is_proved_as_a_whole_is_above_the_rounding_of_its_rows(value: float) -> None:
    three = spec([[1.0], [1.0], [1.0]], [5.0, 5.0, 5.0], [0, 0, 1])
    fake = FakeStage(torch.tensor([[-1.0, -1.0, 1.0]]), clauses=torch.tensor([[value, -1.0]]))
    model = nn.Sequential(linear([[1.0]])).eval()
    result = verify(model, torch.zeros(1, 1), input_set=unit_ball(), spec=three, stages=[fake])
    assert result.verdict == (Verdict.VERIFIED if value == 1 else Verdict.UNKNOWN,)


# labels, detection, errors -------------------------------------------------------------------------------------------


def test_a_wrong_label_is_falsified_by_the_clean_input() -> None:
    result = verify(two_class(), torch.zeros(1, 2), 0.1, label=[1])
    assert result.verdict == (Verdict.FALSIFIED,) and result.decided_by == ("clean",)
    assert torch.equal(result.counterexample[0], torch.zeros(2)) and result.margins[0, 1] == torch.inf  # type: ignore[arg-type]


def test_detection_has_no_false_negatives() -> None:
    """Corollary 2: an adversarial example within eps of a point of another class is never VERIFIED."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(
        linear(torch.randn(16, 5, generator=generator), torch.randn(16, generator=generator)),
        nn.ReLU(),
        linear(torch.randn(3, 16, generator=generator), torch.randn(3, generator=generator)),
    ).eval()
    x, eps = torch.randn(600, 5, generator=generator), 0.05
    points = x + eps * (2 * torch.rand(600, 5, generator=generator) - 1) * 0.999
    with torch.no_grad():
        moved = model(x).argmax(1) != model(points).argmax(1)
    assert moved.sum() >= 5, "the test needs adversarial examples"
    result = verify(model, points[moved], eps)
    assert Verdict.VERIFIED not in result.verdict
    assert torch.equal(result.label, model(points[moved]).argmax(1))
    assert Verdict.VERIFIED in verify(model, x, 1e-3).verdict


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((1, 2), math.nan)}, "NaN"),
        ({"x": torch.full((1, 2), math.inf)}, "infinite"),
        ({"x": torch.zeros(1, 3)}, "shape"),
        ({"x": torch.zeros(2)}, "batch"),
        ({"x": torch.zeros(0, 2)}, "non-empty"),
        ({"x": torch.zeros(1, 2, dtype=torch.uint8)}, "dtype"),
        ({"x": [[0.0, 0.0]]}, "tensor"),
        ({"eps": -0.1}, "eps"),
        ({"eps": math.nan}, "eps"),
        ({"eps": math.inf}, "eps"),
        ({"eps": torch.tensor([0.1, 0.2])}, "eps"),
        ({"eps": None}, "eps or input_set"),
        ({"input_set": LinfBall(torch.zeros(1, 2), 0.1)}, "eps or input_set"),
        ({"eps": None, "input_set": LinfBall(torch.zeros(1, 3), 0.1)}, "shape"),
        ({"eps": None, "input_set": LinfBall(torch.zeros(2, 2), 0.1)}, "2 input sets"),
        ({"label": [2]}, "out of range"),
        ({"label": [-1]}, "out of range"),
        ({"label": [0, 1]}, "one entry per example"),
        ({"label": [0.5]}, "class numbers"),
        ({"label": [0], "spec": robustness(torch.tensor([0]), 2)}, "label or spec"),
        ({"spec": robustness(torch.tensor([0]), 3)}, "outputs"),
        ({"spec": robustness(torch.tensor([0, 0]), 2)}, "specifications for 2"),
        ({"stages": ["nonsense"]}, "nonsense"),
        ({"stages": []}, "empty"),
        ({"stages": "dual"}, "list"),
        ({"budget": -1.0}, "budget"),
        ({"budget": math.nan}, "budget"),
        ({"clip": (0.5, 1.0)}, "valid range"),
        ({"clip": (1.0, 0.0)}, "clip"),
    ],
)
def test_unusable_arguments(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": two_class(), "x": torch.zeros(1, 2), "eps": 0.1} | change
    with pytest.raises(VerifierError, match=message):
        verify(arguments.pop("model"), arguments.pop("x"), arguments.pop("eps"), **arguments)
    if "x" not in change:
        with pytest.raises(InputError):
            verify(**({"model": two_class(), "x": torch.zeros(1, 2), "eps": 0.1} | change))


# certified radii -----------------------------------------------------------------------------------------------------


def trained(seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A small classifier fitted to which coordinate is largest, some inputs and their true labels."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        x = torch.rand(128, 4, generator=generator)
        loss = nn.functional.cross_entropy(model(x), x.argmax(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = torch.rand(24, 4, generator=generator)
    return model.eval(), x, x.argmax(1)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_the_certificate_holds_at_the_radius(clip: tuple[float, float] | None) -> None:
    model, x, label = trained()
    found = certified_radius(model, x, label=label, clip=clip, tolerance=1e-2)
    with torch.no_grad():
        right = model(x).argmax(1) == label
    assert torch.equal(found.radius > 0, right)
    verifier = Verifier(model, x, stages=["dual"])
    result = verifier.run(LinfBall(x, found.radius, clip), robustness(label, 4))
    for i in range(len(x)):
        expected = Verdict.VERIFIED if right[i] else Verdict.UNKNOWN
        assert result.verdict[i] is expected, (i, float(found.radius[i]))
        alone = verify(model, x[i : i + 1], float(found.radius[i]), label=label[i : i + 1], clip=clip, stages=["dual"])
        assert alone.verdict[0] is expected
    assert (found.radius <= found.refuted_above).all()
    finite = right & found.refuted_above.isfinite()
    assert (found.refuted_above - found.radius)[finite].div(found.refuted_above[finite]).max() <= 1.1e-2


def test_no_attack_inside_the_radius() -> None:
    """Sandwich: a strong attack fails at the radius; far beyond it, it succeeds."""
    model, x, label = trained(1)
    found = certified_radius(model, x, label=label)
    right = found.radius > 0
    attack = ["clean", AttackStage(steps=100, restarts=10)]
    verifier = Verifier(model, x, stages=attack)
    inside = verifier.run(LinfBall(x[right], found.radius[right]), robustness(label[right], 4))
    assert Verdict.FALSIFIED not in inside.verdict
    beyond = verifier.run(LinfBall(x, 0.8), robustness(label, 4))
    assert set(beyond.verdict) == {Verdict.FALSIFIED}
    assert (found.radius < 0.8).all()


def test_a_misclassified_input_has_radius_zero() -> None:
    model, x, label = trained(2)
    wrong = (label + 1) % 4
    with torch.no_grad():
        wrong = torch.where(model(x).argmax(1) == wrong, label, wrong)
    found = certified_radius(model, x, label=wrong)
    assert (found.radius == 0).all() and (found.refuted_above == 0).all()


def test_a_linear_network_has_its_exact_radius() -> None:
    """Margin 1 + x0 over |x0| <= eps: certified up to 1."""
    found = certified_radius(two_class(), torch.zeros(1, 2), tolerance=1e-4)
    assert 1 - 2e-4 <= float(found.radius) < 1 and 1 <= float(found.refuted_above) < 1 + 2e-4


def test_a_constant_network_is_certified_to_the_largest_eps_tried() -> None:
    model = nn.Sequential(linear([[0.0], [0.0]], [1.0, 0.0])).eval()
    found = certified_radius(model, torch.zeros(1, 1), most=50.0)
    assert float(found.radius) == 50.0 and math.isinf(float(found.refuted_above))


@pytest.mark.parametrize("bad", [{"tolerance": 0.0}, {"tolerance": 1.0}, {"most": 0.0}, {"steps": 0}, {"label": [7]}])
def test_unusable_arguments_of_the_radius(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        certified_radius(two_class(), torch.zeros(1, 2), **bad)


def test_a_box_with_a_nominal_point_outside_it() -> None:
    """The clean input is only a candidate: outside its set it refutes nothing."""
    box = Box(torch.full((1, 2), 0.5), torch.ones(1, 2), nominal=torch.full((1, 2), -9.0))
    result = verify(two_class(), torch.zeros(1, 2), input_set=box, label=[0], stages=["clean"])
    assert result.verdict == (Verdict.UNKNOWN,)
    assert verify(two_class(), torch.zeros(1, 2), input_set=box, label=[0]).verdict == (Verdict.VERIFIED,)


def wide_cancelling_network(width: int, weight: float, x: float, clean: float) -> tuple[nn.Module, Tensor]:
    """One input, `width` equal hidden units whose sum cancels against a large offset: a margin of `clean` at x."""
    net = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 2)).eval()
    point = torch.tensor([[x]])
    with torch.no_grad():
        net[0].weight.fill_(weight)
        net[0].bias.fill_(-x * weight + 0.5)
        net[2].weight.zero_()
        net[2].weight[0] = 1.0 / width
        net[2].bias.zero_()
        y = copy.deepcopy(net).double()(point.double())[0]
        net[2].bias[1] = float(y[0] - y[1]) - clean
    return net, point


@pytest.mark.parametrize(("width", "weight", "x", "clean", "eps"), [
    (20_000, 0.9, 1e4, 0.05, 0.3),
    (2000, 0.781, 255.0, 1e-5, 4e-5 / 0.781),
    (200, 0.337, 255.0, 1e-5, 4e-5 / 0.337),
])  # fmt: skip
def test_rounding_of_the_backward_pass(width: int, weight: float, x: float, clean: float, eps: float) -> None:
    """The bound sums over a layer's outputs, where evaluation sums over its inputs: both must be in the threshold."""
    net, point = wide_cancelling_network(width, weight, x, clean)
    result = verify(net, point, eps=eps, label=[0])
    with torch.no_grad():
        y = copy.deepcopy(net).double()(point.double() - eps)[0]
    assert float(y[0] - y[1]) < 0, "the network is not what this test is about"
    assert result.verdict[0] is not Verdict.VERIFIED


def test_a_pool_in_ceil_mode_below_a_convolution() -> None:
    """Its last windows hang over the padding: bounds must see exactly the pool's outputs."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        net = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)
        ).eval()
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
            x = torch.rand(1, 1, 3, 3, generator=generator)
            label = net(x).argmax(1)
            bound = float(verify(net, x, eps=0.3, label=label, stages=["dual"]).margins.min())
            points = x + 0.3 * (2 * torch.rand(4000, 1, 3, 3, generator=generator) - 1)
            y = net(points)
        assert float((y[:, label] - y[:, 1 - label]).min()) >= bound - 1e-4


def test_reduced_precision_stays_outside() -> None:
    """Autocast around the call changes no verdict, and the caller's settings come back."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)).eval(), torch.rand(30, 4)
    plain = verify(net, x, eps=1e-3)
    before = torch.backends.cuda.matmul.fp32_precision
    with torch.autocast("cpu", torch.bfloat16):
        inside = verify(net, x, eps=1e-3)
        assert torch.is_autocast_enabled("cpu")
    assert inside.verdict == plain.verdict and torch.equal(inside.margins, plain.margins)
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_products_with_constants_are_rounded() -> None:
    """A chain of sixty products in float64, one rounding each: its sign within their error is nobody's business."""
    constants = [1 + k / 997 for k in range(60)]

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.ParameterList([nn.Parameter(torch.tensor([c, 1.0], dtype=torch.float64)) for c in constants])
            self.k = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            for c in self.c:
                x = x * c
            return x - self.k

    net, x = Chain().eval(), torch.ones(1, 2, dtype=torch.float64)
    exact = Fraction(1)
    for c in constants:
        exact *= Fraction(c)
    with torch.no_grad():
        net.k[0] = float(exact)
        net.k[1] = 1.0
    truth = exact - Fraction(float(net.k[0]))  # the margin of class 0 over class 1
    verdict = verify(net, x, eps=0.0, label=[0]).verdict[0]
    assert verdict is Verdict.UNKNOWN, f"{verdict} with a margin of {float(truth)}"


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_float32_interval_proofs_recompute(eps: float) -> None:
    """Bounds that float32 rounded are taken as they are, not held against those of float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3)).eval()
    result = verify(model, torch.randn(40, 6), eps, stages=["interval"])
    assert result.verified.any()
    for certificate in result.certificate:
        if certificate is not None:
            torch.testing.assert_close(certificate.recompute(), certificate.lower, atol=1e-5, rtol=0)


def test_a_radius_is_not_spoiled_by_what_float32_loses() -> None:
    """Two normalisations one after another: errors of float32 add up to a share of the margin that would be felt."""
    torch.manual_seed(0)
    layers = [[nn.Linear(a, 16), nn.LayerNorm(16), nn.GELU()] for a in (8, 16)]
    model, x = nn.Sequential(*layers[0], *layers[1], nn.Linear(16, 3)).eval(), torch.rand(2, 8)
    narrow, wide = (certified_radius(model, x, dtype=dtype).radius for dtype in (None, torch.float64))
    assert (wide > 0).all() and ((narrow - wide).abs() < 3e-3 * wide).all()
