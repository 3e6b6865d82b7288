"""The ladder and its order, the seconds of each example, precisions kept apart, and evidence carried to the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from helpers.evidence import multipliers_of, tree_of
from helpers.models import labelled, small_image_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier import Reason, Trust, Verdict, Verifier, verify
from verifier.api import DEFAULT_STAGES
from verifier.bound_map import Bounds, Interval, Provenance
from verifier.branching.evidence import SubdomainEvidence
from verifier.budget import Budget
from verifier.certificate import ExampleProof
from verifier.evidence import NO_EVIDENCE, Evidence, SolverEvidence
from verifier.graph import Graph
from verifier.policy import NEGLIGIBLE, PATIENCE, Ladder
from verifier.query import Query
from verifier.relaxation.evidence import MultiplierEvidence
from verifier.result import Result
from verifier.stages import Stage, StageReport, stage
from verifier.verdict import StageCost

SHAPE = (1, 3, 4)


# the ladder ----------------------------------------------------------------------------------------------------------


class Named(Stage):
    """Does nothing."""

    cost_rank = 0

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        return StageReport()


def ladder(names: str, *, adapts: bool = True) -> Ladder:
    return Ladder([Named(name) for name in names], adapts=adapts)


def order(ladder_: Ladder) -> str:
    return "".join(stage.name for stage in ladder_.order())


def cost(name: str, decided: int, attempted: int, seconds: float) -> StageCost:
    return StageCost(name, decided, attempted, seconds)


def test_the_order_is_as_given_and_nothing_has_been_done() -> None:
    rungs = ladder("cab").rungs()
    assert [r.stage.name for r in rungs] == ["c", "a", "b"]
    assert all((r.attempted, r.decided, r.seconds, r.price, r.moved_back) == (0, 0, 0.0, 0.0, False) for r in rungs)


def test_records_add_up() -> None:
    tried = ladder("ab")
    tried.record([cost("a", 1, 4, 2.0), cost("b", 2, 3, 1.0)])
    tried.record([cost("a", 0, 6, 1.0)])
    a, b = tried.rungs()
    assert (a.decided, a.attempted, a.seconds, a.price) == (1, 10, 3.0, pytest.approx(0.3))
    assert (b.decided, b.attempted, b.seconds) == (2, 3, 1.0)


#: the run that each test of the rule changes in one respect: b is dear and decides nothing that c does not decide
USELESS = (cost("a", 10, 50, 1.0), cost("b", 0, 40, 10.0), cost("c", 40, 40, 5.0))


def with_b(decided: int, attempted: int, seconds: float) -> list[StageCost]:
    a, _, c = USELESS
    left = attempted - decided
    return [a, cost("b", decided, attempted, seconds), replace(c, decided=left, attempted=left)]


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        pytest.param(with_b(0, 40, 10.0), "acb", id="dear and useless"),
        # c would have taken 5 s for the 36 that b passed on, so 0.56 s for the 4 that b decided
        pytest.param(with_b(4, 40, 10.0), "acb", id="dearer than what it saves"),
        pytest.param(with_b(4, 40, 0.5), "abc", id="cheaper than what it saves"),
        pytest.param(with_b(20, 40, 4.9), "abc", id="just worth it"),
        pytest.param(with_b(40, 40, 1000.0), "abc", id="decides everything: nothing to compare with"),
        pytest.param(with_b(0, PATIENCE - 1, 10.0), "abc", id="too few examples"),
        pytest.param(with_b(0, PATIENCE, 10.0), "acb", id="just enough examples"),
        pytest.param(with_b(0, 40, 0.9 * NEGLIGIBLE * 6.0), "abc", id="useless and cheap"),
        pytest.param([*USELESS[:2], cost("c", 0, 40, 50.0)], "abc", id="nobody behind does better"),
        pytest.param([*USELESS[:2], cost("c", 30, 40, 1e4)], "abc", id="useless, and next to nothing beside the next"),
        pytest.param([*USELESS[:2], cost("c", 30, 40, 150.0)], "acb", id="useless, before a dear one that is not"),
        pytest.param([cost("a", 0, 50, 10.0), *USELESS[1:]], "bca", id="the first of two is moved"),
        pytest.param([], "abc", id="nothing happened"),
    ],
)
def test_a_stage_that_costs_more_than_it_saves_moves_back(costs: list[StageCost], expected: str) -> None:
    tried = ladder("abc")
    tried.record(costs)
    assert order(tried) == expected
    assert [r.stage.name for r in tried.rungs()] == list(expected)
    assert {r.stage.name for r in tried.rungs() if r.moved_back} == (set() if expected == "abc" else {expected[-1]})


def test_what_looks_for_counterexamples_stays() -> None:
    """An example that it decides is not like the others: nothing behind it would have decided it as cheaply."""
    tried = ladder("abc")
    tried.stages[1].trust = None  # type: ignore[misc]
    tried.record(USELESS)
    assert order(tried) == "abc"


def test_one_moves_at_a_time_and_none_comes_back() -> None:
    tried = ladder("abc")
    tried.record([cost("a", 0, 50, 10.0), *USELESS[1:]])
    assert order(tried) == "bca"
    tried.record([])
    assert order(tried) == "cab"
    tried.record([cost("c", 0, 1000, 1.0), cost("a", 500, 1000, 0.1)])
    assert order(tried) == "cab"


def test_the_last_stage_never_moves() -> None:
    tried = ladder("ab")
    tried.record([cost("a", 10, 50, 1.0), cost("b", 0, 40, 1e6)])
    assert order(tried) == "ab"


def test_an_order_that_was_given_stays() -> None:
    tried = ladder("abc", adapts=False)
    for _ in range(5):
        tried.record(USELESS)
    assert order(tried) == "abc"
    assert tried.rungs()[1].attempted == 200, "but it is known what happened"


counts = st.integers(0, 200)
some_costs = st.lists(
    st.tuples(st.sampled_from("abcde"), counts, counts, st.floats(0, 1e6)).map(
        lambda t: cost(t[0], min(t[1], t[2]), t[2], t[3])
    ),
    max_size=12,
)


@given(runs=st.lists(some_costs, max_size=8))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_whatever_happens_the_order_is_one_of_the_same_stages(runs: list[list[StageCost]]) -> None:
    """Those that were not moved keep their order, those that were are behind them, and the last one was not moved."""
    tried = ladder("abcde")
    for costs in runs:
        tried.record(costs)
    rungs = tried.rungs()
    assert sorted(order(tried)) == list("abcde")
    kept = [r.stage.name for r in rungs if not r.moved_back]
    assert kept == sorted(kept) and kept[-1] == "e"
    assert [r.moved_back for r in rungs] == sorted(r.moved_back for r in rungs)


def test_only_the_default_order_adapts() -> None:
    model = small_image_mlp(SHAPE)
    x = torch.zeros(1, *SHAPE)
    assert Verifier(model, x).ladder.adapts
    given_ = Verifier(model, x, stages=["dual", "interval"])
    assert not given_.ladder.adapts and [s.name for s in given_.ladder.order()] == ["dual", "interval"]
    assert [s.name for s in Verifier(model, x).ladder.order()] == list(DEFAULT_STAGES)


def test_a_run_is_recorded() -> None:
    model = small_image_mlp(SHAPE)
    x, label = labelled(model, SHAPE, 6)
    verifier = Verifier(model, x, stages=["interval", "dual"])
    results = [verifier.run(LinfBall(x, 0.02), robustness(label, verifier.classes)) for _ in range(2)]
    for rung in verifier.ladder.rungs():
        costs = [c for r in results for c in r.stages if c.name == rung.stage.name]
        assert rung.attempted == sum(c.attempted for c in costs) and rung.decided == sum(c.decided for c in costs)
        assert rung.seconds == pytest.approx(sum(c.seconds for c in costs))


# stages that watch and claim -----------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What a probe was given at one call."""

    query: Query
    bounds: Bounds
    left: list[float]

    @property
    def centers(self) -> list[float]:
        return self.query.inputs.center().flatten(1)[:, 0].tolist()


@dataclass
class Probe(Stage):
    """Claims what it is told to claim, and keeps what it was given."""

    name: str = "probe"  # type: ignore[misc]
    cost_rank = 0
    precision: torch.dtype | None = None  # type: ignore[misc]
    lower: float = -math.inf  #: of every row
    rows: slice = field(default_factory=lambda: slice(None))  #: only these; -inf for the others
    trust: Trust = Trust.FLOAT  # type: ignore[misc]
    evidence: Evidence = NO_EVIDENCE
    rule: str = ""  #: of intervals around the clean values, where it claims any
    bounds_trust: Trust = Trust.FLOAT
    seconds: Sequence[float] | None = None  #: of the first examples; the others take none
    seen: list[Seen] = field(default_factory=list)

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        self.seen.append(Seen(query, bounds, [budget.example(i) for i in range(query.batch)]))
        lower = torch.full(query.open.shape, -math.inf, dtype=query.graph.dtype)
        lower[:, self.rows] = self.lower
        seconds = None if self.seconds is None else [*self.seconds, *[0.0] * query.batch][: query.batch]
        return StageReport(lower, self._bounds(query), trust=self.trust, evidence=self.evidence, seconds=seconds)

    def _bounds(self, query: Query) -> Bounds:
        if not self.rule:
            return Bounds()
        values = query.graph.values(query.inputs.center().to(query.graph.dtype))
        source = Provenance(self.rule, self.bounds_trust)
        return Bounds({i: Interval.of(values[i] - 9, values[i] + 9, source) for i in query.graph.pre_activations})


def run(*stages: Stage | str, n: int = 4, eps: float = 0.3, **options: object) -> Result:
    """n examples of a small network; example i has i / 100 as its first entry."""
    model = small_image_mlp(SHAPE)
    x, label = labelled(model, SHAPE, n)
    x.flatten(1)[:, 0] = torch.arange(n) / 100
    return verify(model, x, eps, label=label, stages=list(stages), **options)


# budgets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [None, *([name] for name in DEFAULT_STAGES)], ids=lambda s: s[0] if s else "all")
@pytest.mark.parametrize("option", ["budget", "example_budget"])
def test_no_seconds_at_all(option: str, stages: list[str] | None) -> None:
    model = small_image_mlp(SHAPE)
    x, label = labelled(model, SHAPE, 3)
    result = verify(model, x, 0.01, label=label, stages=stages, **{option: 0})
    assert set(result.verdict) == {Verdict.UNKNOWN} and set(result.reason) == {Reason.BUDGET}
    assert result.stages == () and result.certificate == (None,) * 3
    assert bool((result.margins == -math.inf).any(1).all())


def test_an_example_out_of_seconds_is_seen_no_more() -> None:
    slow, after, last = Probe("slow", seconds=[1.0, 100.0]), Probe("after", rule="after"), Probe("last")
    result = run(slow, after, last, example_budget=10)
    assert [len(p.seen[0].centers) for p in (slow, after, last)] == [4, 3, 3]
    assert after.seen[0].centers == pytest.approx([0.0, 0.02, 0.03])
    assert result.reason == (Reason.BOUNDS, Reason.BUDGET, Reason.BOUNDS, Reason.BOUNDS)
    assert [(c.name, c.attempted) for c in result.stages] == [("slow", 4), ("after", 3), ("last", 3)]


def test_what_an_example_has_left() -> None:
    slow, after, last = Probe("slow", seconds=[4.0, 0.0]), Probe("after", seconds=[3.0]), Probe("last")
    run(slow, after, last, n=2, example_budget=10)
    assert [p.seen[0].left[0] for p in (slow, after, last)] == pytest.approx([10, 6, 3], abs=0.1)
    assert [p.seen[0].left[1] for p in (slow, after, last)] == pytest.approx([10, 10, 10], abs=0.1)


def test_a_close_call_gets_no_fresh_seconds() -> None:
    """The second look in float64 has what the example had left before the stage, not its whole budget again."""
    close = Probe("close", lower=1e-9)
    run(Probe("slow", seconds=[8.0]), close, n=1, example_budget=10)
    assert [s.query.graph.dtype for s in close.seen] == [torch.float32, torch.float64]
    assert all(s.left[0] <= 2 for s in close.seen)


def test_all_out_of_seconds_ends_the_run() -> None:
    after = Probe("after")
    result = run(Probe("slow", seconds=[100.0] * 4), after, example_budget=10)
    assert after.seen == [] and set(result.reason) == {Reason.BUDGET}


def test_seconds_are_never_negative() -> None:
    """Also where examples that ran side by side took more together than the run did."""
    result = run(Probe("parallel", seconds=[100.0, 50.0]))
    assert bool((result.seconds >= 0).all()) and result.seconds[0] >= 100 and result.seconds[2] < 50


def test_time_that_nobody_answers_for_is_shared() -> None:
    result = run(Probe("one", seconds=None), Probe("two"), n=4)
    assert result.seconds.min() == result.seconds.max() > 0


def test_a_decided_example_stays_decided_when_its_seconds_are_over() -> None:
    result = run(Probe("claims", lower=1e6, seconds=[100.0]), Probe("after"), example_budget=10)
    assert set(result.verdict) == {Verdict.VERIFIED}


def test_bounds_follow_their_examples() -> None:
    """Those of an example that is out of seconds are dropped, those of the others are theirs."""
    before, slow, after = Probe("before", rule="before"), Probe("slow", seconds=[100.0]), Probe("after")
    run(before, slow, after, example_budget=10)
    seen = after.seen[0]
    values = seen.query.graph.values(seen.query.inputs.center().to(seen.query.graph.dtype))
    assert set(seen.bounds) == set(seen.query.graph.pre_activations)
    for node, interval in seen.bounds.items():
        assert interval.rules() == {"before"}
        assert torch.allclose((interval.lower + interval.upper) / 2, values[node], atol=1e-4)


# precisions ----------------------------------------------------------------------------------------------------------


def test_float64_stages_have_graph_and_bounds_of_their_own() -> None:
    precisions = {"s1": None, "d1": torch.float64, "s2": None, "d2": torch.float64}
    probes = [Probe(name, rule=name, precision=precision) for name, precision in precisions.items()]
    run(*probes)
    assert [p.seen[0].query.graph.dtype for p in probes] == [torch.float32, torch.float64] * 2
    assert [rules(p.seen[0].bounds) for p in probes] == [set(), set(), {"s1"}, {"d1"}]
    for p in probes[2:]:
        dtypes = {i.lower.dtype for i in p.seen[0].bounds.values()}
        assert dtypes == {p.seen[0].query.graph.dtype}


def test_the_float64_graph_has_the_model_s_own_weights() -> None:
    """Also where the graph of the others has been rounded to float32."""
    model = small_image_mlp(SHAPE).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-12)  # lost in float32
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    probes = [Probe("single"), Probe("double", precision=torch.float64)]
    verify(model, x, 0.3, stages=probes, dtype=torch.float32)
    graphs: list[Graph] = [p.seen[0].query.graph for p in probes]
    assert torch.equal(graphs[1].forward(x), model(x))
    assert not torch.equal(graphs[0].forward(x.float()).double(), model(x))


def test_one_precision_shares_its_bounds() -> None:
    model = small_image_mlp(SHAPE).double()
    probes = [Probe("any", rule="any"), Probe("double", precision=torch.float64)]
    verify(model, torch.zeros(1, *SHAPE, dtype=torch.float64), 0.3, stages=probes)
    assert rules(probes[1].seen[0].bounds) == {"any"}


def test_bounds_of_a_real_float32_stage_never_reach_a_float64_one() -> None:
    first, single, last = (
        Probe(name, rule=name, precision=precision)
        for name, precision in {"first": torch.float64, "single": None, "last": torch.float64}.items()
    )
    run(first, "dual", single, last)
    assert rules(single.seen[0].bounds) == {"interval"}
    assert rules(last.seen[0].bounds) == {"first"}


def rules(bounds: Bounds) -> set[str]:
    return set().union(*(i.rules() for i in bounds.values()))


# evidence ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [Trust.SOLVER, Trust.PROBABILISTIC])
@pytest.mark.parametrize("precision", [None, torch.float64])
def test_a_claim_without_proof_is_labelled_and_recomputes_to_nothing(
    trust: Trust, precision: torch.dtype | None
) -> None:
    liar = Probe("liar", precision=precision, lower=1e6, trust=trust, evidence=SolverEvidence("none", {}), rule="mine")
    result = run(liar)
    assert set(result.verdict) == {Verdict.VERIFIED} and set(result.trust) == {trust}
    for certificate in result.certificate:
        assert certificate is not None and certificate.trust is trust
        assert bool((certificate.recompute() == -math.inf).all())
        assert certificate.dual_variables() == {} and all(p.evidence.kind == "solver" for p in certificate.proofs)


def test_rows_that_only_a_solver_vouches_for_are_known_by_it() -> None:
    """One row is proved by intervals, the others by a liar: the whole has the liar's trust, the one row recomputes."""
    liar = Probe("liar", lower=1e6, trust=Trust.SOLVER, evidence=SolverEvidence("none", {}), rule="mine")
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, -1.0], [0.0, 0.5]]))
        model[3].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [1.5, -0.5, 0.0], [0.0, 0.0, 0.1]]))
    x = torch.tensor([[[[1.0, 0.9]]]])
    result = verify(model, x, 0.2, label=[0], stages=["interval", liar])
    assert result.verdict == (Verdict.VERIFIED,) and result.trust == (Trust.SOLVER,)
    assert result.decided_by == ("liar",)
    (certificate,) = result.certificate
    assert certificate is not None and {p.stage for p in certificate.proofs} == {"interval", "liar"}
    again = certificate.recompute()
    by_intervals = next(p.rows for p in certificate.proofs if p.stage == "interval")
    assert len(by_intervals) == 1 and bool((again[by_intervals] > 0).all())
    assert int((again == -math.inf).sum()) == 1


def test_bounds_of_a_solver_lower_the_trust_of_what_rests_on_them() -> None:
    tight = Probe("tight", rule="made up", bounds_trust=Trust.SOLVER)
    ours = Probe("ours", lower=1e6, trust=Trust.FLOAT)
    result = run(tight, ours)
    assert set(result.decided_by) == {"ours"} and set(result.trust) == {Trust.SOLVER}


def test_a_claim_of_more_than_numbers_proves_nothing() -> None:
    for lower in (math.nan, math.inf):
        assert set(run(Probe("liar", lower=lower)).verdict) == {Verdict.UNKNOWN}


@pytest.fixture(scope="module")
def hard() -> tuple[nn.Module, Tensor, Tensor, float]:
    """A network, and examples that slopes by a rule leave open and branching proves."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    (x, label), eps = labelled(model, (1, 2, 3), 40), 0.2
    result = verify(model, x, eps, label=label, stages=["clean", "attack", "dual", "dual-adaptive"])
    left = [i for i, v in enumerate(result.verdict) if v is Verdict.UNKNOWN]
    assert len(left) >= 2
    return model, x[left], label[left], eps


@pytest.mark.parametrize("stage", ["dual-optimised", "dual-free", "zonotope-learned", "lp", "lp-refine", "branch"])
def test_multipliers_and_trees_end_in_the_certificate(
    hard: tuple[nn.Module, Tensor, Tensor, float], stage: str
) -> None:
    """And prove the same bounds again, from the network, the set and the certificate alone."""
    model, x, label, eps = hard
    result = verify(model, x, eps, label=label, stages=[stage])
    assert result.verified.any(), "no example shows anything"
    for certificate in filter(None, result.certificate):
        (proof,) = certificate.proofs
        assert proof.stage == stage and certificate.trust is Trust.CHECKED
        assert proof.evidence.kind == ("subdomains" if stage == "branch" else "multipliers")
        again = certificate.recompute()
        assert bool((again[proof.rows] > 0).all())
        kept = certificate.lower[proof.rows]
        assert bool((again[proof.rows] >= kept - 1e-4 * (1 + kept.abs())).all())


def broken(proof: ExampleProof, **changes: object) -> ExampleProof:
    return replace(proof, run=replace(proof.run, **changes))


def test_other_multipliers_prove_no_more_than_is_true(hard: tuple[nn.Module, Tensor, Tensor, float]) -> None:
    """Noise in them costs strength, never soundness, and NaN proves nothing."""
    model, x, label, eps = hard
    result = verify(model, x, eps, label=label, stages=["dual-free"])
    proof = next(c for c in result.certificate if c is not None).proofs[0]
    multipliers, query = multipliers_of(proof.run.evidence), proof.run.query
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([proof.inputs.sample(generator) for _ in range(500)])
    graph = proof.run.graph.to(points.device, torch.float64)
    outputs = graph.forward(points.double()).flatten(1)
    spec = query.spec.select(torch.full((len(points),), proof.index))
    sampled = spec.values(outputs).amin(0)
    for scale in (0.0, 0.01, 1.0, 100.0):
        noisy = {i: m + scale * torch.randn(m.shape, generator=generator) for i, m in multipliers.items()}
        assert bool((broken(proof, evidence=MultiplierEvidence(noisy)).recompute() <= sampled).all())
    nothing = {i: torch.full_like(m, torch.nan) for i, m in multipliers.items()}
    assert not bool((broken(proof, evidence=MultiplierEvidence(nothing)).recompute() > 0).any())


def test_a_tree_with_an_open_leaf_proves_nothing(hard: tuple[nn.Module, Tensor, Tensor, float]) -> None:
    model, x, label, eps = hard
    result = verify(model, x, eps, label=label, stages=["branch"])
    certificate = max(filter(None, result.certificate), key=lambda c: len(tree_of(c.proofs[0].evidence).slope))
    (proof,) = certificate.proofs
    tree, index = tree_of(proof.evidence), proof.index
    assert isinstance(proof.run.evidence, SubdomainEvidence)
    closed = (tree.proof >= 0).nonzero().squeeze(1)
    assert len(closed) > len(tree.roots), "nothing was split"
    for leaf in closed[:3]:
        cut = tree.proof.clone()
        cut[leaf] = -1
        trees = [*proof.run.evidence.trees]
        trees[index] = replace(tree, proof=cut)
        again = broken(proof, evidence=SubdomainEvidence(trees)).recompute()
        assert int((again == -math.inf).sum()) == 1
    trees[index] = replace(tree, weight=torch.full_like(tree.weight, torch.nan))
    assert not bool((broken(proof, evidence=SubdomainEvidence(trees)).recompute() > 0).any())


# who may take all the time -------------------------------------------------------------------------------------------


@dataclass
class Sharer(Probe):
    """Keeps for which examples it may take all the time."""

    alone: list[list[bool]] = field(default_factory=list)

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        self.alone.append([budget.alone(i) for i in range(query.batch)])
        return super().run(query, bounds, budget)


@dataclass
class Hopes(Probe):
    """Expects to decide the examples whose first entry is among these."""

    about: Sequence[float] = ()

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        first = query.inputs.center().flatten(1)[:, 0].tolist()
        return torch.tensor([any(abs(value - one) < 1e-6 for one in self.about) for value in first])


def shared(*stages: Stage, adapts: bool = True) -> None:
    """Run stages on four examples as a ladder that adapts or does not."""
    model = small_image_mlp(SHAPE)
    x, label = labelled(model, SHAPE, 4)
    x.flatten(1)[:, 0] = torch.arange(4) / 100
    verifier = Verifier(model, x[:1])
    verifier.ladder = Ladder(stages, adapts=adapts)
    verifier.run(LinfBall(x, 0.3), robustness(label, verifier.classes))


def test_what_nobody_behind_hopes_for_may_have_all_the_time() -> None:
    first = Sharer("first")
    shared(first, Hopes("a", about=[0.01]), Hopes("b", about=[0.03]))
    assert first.alone == [[True, False, True, False]]


def test_in_an_order_that_was_given_only_the_last_stage_is_alone() -> None:
    first, last = Sharer("first"), Sharer("last")
    shared(first, Hopes("between"), last, adapts=False)
    assert first.alone == [[False] * 4] and last.alone == [[True] * 4]


def test_a_stage_that_does_not_support_a_question_is_not_waited_for() -> None:
    first, mute = Sharer("first"), Probe("mute")
    mute.supports = lambda query: False  # type: ignore[method-assign]
    shared(first, mute)
    assert first.alone == [[True] * 4]


@pytest.mark.parametrize(("width", "expected"), [(8, False), (400, True)])
def test_many_unstable_neurons_are_for_branch_alone(width: int, expected: bool) -> None:
    """Programs over few neurons may decide what a tree does not; over many of them they do not end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 3)).eval()
    x, label = labelled(model, SHAPE, 1)
    verifier, first = Verifier(model, x), Sharer("first", precision=torch.float64, seconds=[100.0])
    bounded = Probe("bounded", rule="bounded", precision=torch.float64)  # no neuron is stable
    behind = [stage(name) for name in DEFAULT_STAGES[DEFAULT_STAGES.index("branch") :] if name != "sdp"]
    verifier.ladder = Ladder([bounded, first, *behind], adapts=True)
    verifier.run(LinfBall(x, 5.0), robustness(label, verifier.classes), example_budget=10)
    assert first.alone == [[expected]]
