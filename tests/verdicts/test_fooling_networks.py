"""Networks built to fool verifiers: no stage, and no ladder, says VERIFIED or FALSIFIED where that is not so.

Truth is rational arithmetic, or decimal arithmetic of hundreds of digits (helpers.fooling). UNKNOWN is always right.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.fooling import CASES, Fooling, biased, exact_minimum, exact_output, random_network

from verifier import Verdict, Verifier
from verifier.api import DEFAULT_STAGES
from verifier.policy import Ladder
from verifier.result import Result
from verifier.stages import REGISTRY, stage

DTYPES = {"float32": torch.float32, "float64": torch.float64}
PROVING = sorted(name for name in REGISTRY if stage(name).trust is not None)


@functools.cache
def case_of(name: str, dtype: torch.dtype) -> Fooling:
    return CASES[name](dtype)


@functools.cache
def prepared(name: str, dtype: str, bounds: str) -> tuple[Fooling, Verifier]:
    """The case with the network in one precision, and its bounds in another."""
    case = case_of(name, DTYPES[dtype])
    example = case.inputs.center()[:1].to(DTYPES[dtype])
    return case, Verifier(case.model, example, dtype=DTYPES[bounds])


def run(verifier: Verifier, case: Fooling, names: tuple[str, ...], seconds: float = 0.1) -> Result:
    verifier.ladder = Ladder([stage(n) for n in names], adapts=False)
    return verifier.run(case.inputs, case.spec, example_budget=seconds)


def wrong(case: Fooling, result: Result) -> list[str]:
    """Every verdict that the truth contradicts, in words."""
    found = []
    for b, (verdict, truth) in enumerate(zip(result.verdict, case.truth, strict=True)):
        if (verdict is Verdict.VERIFIED and not truth > 0) or (verdict is Verdict.FALSIFIED and not truth < 0):
            found.append(f"box {b}: {verdict.value} by {result.decided_by[b]}, the least margin is {float(truth):.3g}")
    return found


#: in turn over the cases: precision of the network, precision of its bounds
PRECISIONS = [("float32", "float32"), ("float64", "float64"), ("float64", "float32")]
#: quick on every case
QUICK = ["interval", "dual", "dual-adaptive", "zonotope", "sdp"]
#: a few cases of each kind, for what takes longer
CHOSEN = [
    "absorbed 1e+09 +1", "absorbed 1e+17 +1", "absorbed 1e+20 -1", "one sum 1e+16 +1", "switch 1e+17 9.53674e-07",
    "spike 2^-20 residual to -0.015625", "spike 2^-12 plain to 0", "trained residual", "near zero 1",
    "near zero 2", "kinks", "scaled 1e20 1", "denormal", "huge products", "differences tanh 0.015625",
]  # fmt: skip


def hold(name: str, dtype: str, bounds: str, names: Sequence[str], seconds: float = 0.1) -> None:
    case, verifier = prepared(name, dtype, bounds)
    found = wrong(case, run(verifier, case, tuple(names), seconds))
    assert not found, f"{case.name}, stages {list(names)}, bounds in {bounds}: {found}"


@pytest.mark.parametrize(("name", "turn"), [(name, k) for k, name in enumerate(CASES) if k % 4 == 0 or name in CHOSEN])
def test_quick_stages(name: str, turn: int) -> None:
    for names in {"dual", QUICK[turn % len(QUICK)]}:
        hold(name, *PRECISIONS[turn % 3], [names])


@pytest.mark.parametrize(("name", "turn"), [(name, k) for k, name in enumerate(CHOSEN) if k % 3 == 1])
def test_the_ladder(name: str, turn: int) -> None:
    hold(name, *PRECISIONS[turn % 3], DEFAULT_STAGES, 0.02)


@pytest.mark.parametrize(("names", "turn"), [(name, k) for k, name in enumerate(PROVING) if name not in QUICK])
def test_every_other_stage(names: str, turn: int) -> None:
    k = turn % len(CHOSEN)
    hold(CHOSEN[k], *PRECISIONS[k % 3], [names], 0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bounds"), PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_every_stage_on_every_case(name: str, dtype: str, bounds: str) -> None:
    for names in [DEFAULT_STAGES, *([n] for n in PROVING)]:
        hold(name, dtype, bounds, names)


def test_sums_that_round_one_way() -> None:
    """The rounding error of a long sum is not what random roundings make of it: bounds pay the worst case."""
    case = biased(18, 10)
    verifier = Verifier(case.model, case.inputs.center().float(), dtype=torch.float32)
    result = run(verifier, case, ("dual",))
    assert not wrong(case, result)
    assert Fraction(float(result.margins)) <= case.truth[0]


# -- the cases themselves ---------------------------------------------------------------------------------------------


def test_the_cases_are_hard() -> None:
    """Both truths occur, ties do, and floats alone say otherwise: some networks evaluate to the wrong sign."""
    cases = [
        case_of(name, DTYPES[PRECISIONS[k % 3][0]]) for k, name in enumerate(CASES) if k % 4 == 0 or name in CHOSEN
    ]
    truths = [t for case in cases for t in case.truth]
    assert min(sum(t > 0 for t in truths), sum(t < 0 for t in truths), sum(t == 0 for t in truths)) > 10
    fooled = 0
    for case in cases:
        with torch.no_grad():
            ends = [case.spec.values(copy.deepcopy(case.model).double()(x))[:, 0] for x in (case.lower, case.upper)]
        fooled += sum((v > 0) != (t > 0) for v, t in zip(torch.minimum(*ends).tolist(), case.truth, strict=True))
    assert fooled > 20


def test_something_is_decided() -> None:
    """A verifier that never decides would pass everything above."""
    decided = dict.fromkeys(Verdict, 0)
    for name in ("absorbed 10000 +1", "absorbed 10000 -1", "spike 2^-4 plain to -0.015625", "near zero 0"):
        case, verifier = prepared(name, "float64", "float64")
        for verdict in run(verifier, case, ("dual", "attack")).verdict:
            decided[verdict] += 1
    assert decided[Verdict.VERIFIED] > 2 and decided[Verdict.FALSIFIED] > 2


@pytest.mark.parametrize("seed", range(2))
def test_the_exact_minimum_against_a_grid(seed: int) -> None:
    """No point of a grid is below it, and some point comes close."""
    generator = np.random.default_rng(seed)
    steps = random_network(generator, 2, residual=seed % 2 == 1)
    low, high = np.array([-1.0, -0.5]), np.array([0.5, 1.0])
    least = exact_minimum(steps, low, high)[0]
    axes = [np.linspace(a, b, 17) for a, b in zip(low, high, strict=True)]
    values = [exact_output(steps, [a, b])[0] for a in axes[0] for b in axes[1]]
    assert min(values) >= least > min(values) - Fraction(1, 2)
    # the oracle, in floats, by linear programs
    assert float(least) == pytest.approx(oracle.exact_minimum(steps, np.ones(1), 0.0, low, high).value, abs=1e-9)
