"""Conformance of stages: sound on what they bound, pure, never looser for what is known, done when time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier.api import Verifier
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.stages.base import Stage, StageReport
from verifier.testing.laws import Law, generator, hold, named
from verifier.testing.networks import RandomNetwork, random_network
from verifier.verdict import Semantics, Trust, Verdict

#: kinds of networks that a stage is asked about, where it supports them
KINDS = ("residual", "sigmoid", "gated")
EXAMPLES = 2
#: sizes of batches in which an example has to come out alike
BATCHES = (1, 7, 64)
#: seconds of a run that is given enough of them, and after which a run without any has to be over
ENOUGH, SOON = 20.0, 5.0


@dataclass
class Asked:
    """A stage, and a network that it supports."""

    stage: Stage
    net: RandomNetwork
    query: Query

    @cached_property
    def report(self) -> StageReport:
        """What it finds with nothing known: run once for all laws."""
        return self.run()

    def run(self, known: Bounds | None = None, seconds: float = ENOUGH, query: Query | None = None) -> StageReport:
        with torch.no_grad():
            return self.stage.run(query or self.query, known or Bounds(), Budget(seconds))


def check_stage(part: Callable[[], Stage], networks: Sequence[RandomNetwork] | None = None) -> None:
    """Every law of stages, on networks of several kinds.

    Args:
        part: makes the stage: its class, where its options have defaults.
        networks: to ask about, in place of our own; for a stage that supports none of those.

    Raises:
        AssertionError: a law is broken (the notes say which), or the stage supports none of the networks.
    """
    stage = part()
    hold(named(part), (it_says_what_it_is,), stage)
    asked = list(_supported(stage, networks or list(own_networks())))
    assert asked, f"{stage.name} supports none of the networks: give some that it does"
    for one in asked:
        hold(f"{stage.name} on the network {one.net.name!r}", LAWS, one)


def own_networks() -> Iterator[RandomNetwork]:
    """Small networks in float64, and one of a single hidden layer."""
    for kind in KINDS:
        yield random_network(kind, batch=EXAMPLES)
    layers = random_network("dense", batch=EXAMPLES)
    assert isinstance(layers.model, nn.Sequential)
    first: list[nn.Module] = list(layers.model)[:2]
    yield replace(layers, name="one layer", model=nn.Sequential(*first, nn.Linear(8, 4).double()).eval())


def query_of(net: RandomNetwork, eps: float | None = None) -> Query:
    """Robustness of the network's own answers within its radius, in float64."""
    label = net.model(net.x).argmax(1)
    graph = import_torch(net.model, net.x[:1]).to()
    return Query.of(graph, LinfBall(net.x, net.eps if eps is None else eps), robustness(label, 4))


def _supported(stage: Stage, networks: Sequence[RandomNetwork]) -> Iterator[Asked]:
    for net in networks:
        query = query_of(net)
        if stage.supports(query):
            yield Asked(stage, net, query)


def points_of(query: Query, count: int = 300) -> Tensor:
    """[count, B, *input]: random members, corners, and points on faces, of boxes."""
    low, high = query.inputs.box()
    u = torch.rand(count, *low.shape, generator=generator(), dtype=torch.float64)
    u[: count // 3] = u[: count // 3].round()
    third = slice(count // 3, 2 * count // 3)
    u[third] = torch.where(u[third] < 0.3, 0.0, torch.where(u[third] > 0.7, 1.0, u[third]))
    u[0], u[1] = 0.0, 1.0
    return low + u * (high - low)


def roundoff(values: Tensor, relative: float = 1e-9) -> Tensor:  # [...] -> []
    """What a bound may be beyond values, for the rounding of this test's own arithmetic."""
    return relative * (1 + values.abs().amax())


def it_says_what_it_is(stage: Stage) -> None:
    """A stage has a name, a place in the order, a line that says what it does, and an honest trust."""
    assert stage.name and isinstance(stage.name, str) and stage.name == stage.name.strip()
    assert stage.name not in stage.aliases and all(isinstance(alias, str) and alias for alias in stage.aliases)
    assert float(stage.cost_rank) >= 0 and len(stage.summary()) > 10
    assert stage.trust is None or isinstance(stage.trust, Trust)
    assert stage.semantics and set(stage.semantics) <= set(Semantics)


def bounds_are_sound(asked: Asked) -> None:
    """Pre-activations of sampled members lie in their intervals, rows and clauses above their bounds."""
    check_report(asked.stage, asked.query, asked.report)


def it_hopes_for_examples(asked: Asked) -> None:
    """What a stage expects to decide is one truth value per example, with bounds or without."""
    for bounds in (Bounds(), asked.report.bounds):
        hopes = asked.stage.hopes(asked.query, bounds)
        assert hopes.shape == (asked.query.batch,) and hopes.dtype is torch.bool and hopes.device.type == "cpu"


def check_report(stage: Stage, query: Query, report: StageReport, count: int = 300) -> None:
    """What a stage reports of `count` members of the sets, which are boxes: none is outside of a bound.

    Raises:
        AssertionError: one is, or the report has shapes or a trust that it must not have.
    """
    spec = query.spec
    points = points_of(query, count).flatten(0, 1)
    with torch.no_grad():
        values = query.graph.to(dtype=torch.float64).values(points)
    at = {node: values[node].unflatten(0, (-1, query.batch)) for node in report.bounds}
    for node, interval in report.bounds.items():
        assert (at[node].amin(0) >= interval.lower - roundoff(values[node])).all(), f"node {query.graph.nodes[node]}"
        assert (at[node].amax(0) <= interval.upper + roundoff(values[node])).all(), f"node {query.graph.nodes[node]}"
    rows = torch.stack([spec.values(y) for y in values[-1].unflatten(0, (-1, query.batch)).flatten(2)])  # [P, B, S]
    if stage.trust is None:
        assert report.lower is None and report.clauses is None, "it proves nothing, says its trust"
    if report.lower is not None:
        assert report.lower.shape == query.open.shape and not report.lower.isnan().any()
        assert (rows.amin(0) >= report.lower - roundoff(rows)).all()
        assert stage.trust is not None and report.trust <= stage.trust
    if report.clauses is not None:
        worst = torch.stack([spec.per_clause(r) for r in rows]).amin(0)
        assert report.clauses.shape == worst.shape and (worst >= report.clauses - roundoff(rows)).all()
    if report.candidates is not None:
        assert report.candidates.shape == query.inputs.center().shape


def an_attack_stays_above(asked: Asked) -> None:
    """Signed gradient steps on every row, a far better search than sampling, never get below a bound."""
    lower, query = asked.report.lower, asked.query
    if lower is None:
        return
    for s in range(query.spec.rows.shape[1]):
        x = query.inputs.center().clone()
        for step in range(12):
            x.requires_grad_()
            value = query.spec.values(query.graph.forward(x).flatten(1))[:, s]
            assert (value.detach() >= lower[:, s] - roundoff(value.detach())).all()
            (gradient,) = torch.autograd.grad(value.sum(), x)
            step_ = query.inputs.steepest_ascent(x.detach(), -gradient, 2.0 if step < 2 else 0.4)
            x = query.inputs.project(x.detach() + step_)


def at_radius_zero_it_stays_below_the_network(asked: Asked) -> None:
    """Over sets of one point no bound is above what the network computes there."""
    query = query_of(asked.net, eps=0.0)
    if not asked.stage.supports(query):
        return
    with torch.no_grad():
        rows = query.spec.values(query.graph.forward(asked.net.x).flatten(1))
    lower = asked.run(query=query).lower
    assert lower is None or (lower <= rows + roundoff(rows)).all()


def an_example_alone_is_as_in_a_batch(asked: Asked) -> None:
    """An example is bounded alike alone and beside others, where time is no matter."""
    together = asked.report.lower
    if together is None or asked.stage.trust in (Trust.PROBABILISTIC, Trust.SOLVER):
        return  # one draw for the whole batch; a solver's word, which may come from another path
    for i in range(asked.query.batch):
        alone = asked.run(query=asked.query.select(torch.tensor([i]))).lower
        assert alone is not None
        torch.testing.assert_close(
            alone[0], together[i], rtol=1e-5, atol=float(roundoff(together[i].nan_to_num(), 1e-5))
        )


def check_batches(
    part: Callable[[], Stage], sizes: Sequence[int] = BATCHES, net: RandomNetwork | None = None, checked: int = 3
) -> None:
    """Batches of several sizes: the same verdicts and bounds of an example in each, and certificates that hold.

    Args:
        part: makes the stage. sizes: of the batches, which begin with the same examples. net: to ask about, with at
            least as many examples; default one of our own. checked: certificates of the largest batch that are checked.

    Raises:
        AssertionError: a batch finds something else of an example, or a certificate is not valid.
    """
    stage = part()
    net = net or random_network("dense", batch=max(sizes))
    query = query_of(net)
    if not stage.supports(query):
        return
    verifier = Verifier(net.model, net.x, stages=[stage])
    whole = Asked(stage, net, query).report.lower
    for size in sizes:
        lower = Asked(stage, net, query.select(torch.arange(size))).report.lower
        assert (lower is None) == (whole is None)
        if lower is None or whole is None or stage.trust in (Trust.PROBABILISTIC, Trust.SOLVER):
            continue  # one draw for the whole batch; a solver's word, which may come from another path
        assert torch.equal(lower > 0, whole[:size] > 0), f"other verdicts in a batch of {size}"
        torch.testing.assert_close(lower, whole[:size], rtol=1e-5, atol=float(roundoff(whole.nan_to_num(), 1e-5)))
    result = verifier.run(LinfBall(net.x, net.eps / 5), robustness(net.model(net.x).argmax(1), 4))
    proofs = [c for c in result.certificate if c is not None and c.trust is Trust.CHECKED]
    assert all(c.check().valid for c in proofs[:checked])


def known_bounds_only_tighten(asked: Asked) -> None:
    """What it finds with bounds known fits to them, and they come out no wider; nor are they written to."""
    known = asked.report.bounds
    before = {node: (interval.lower.clone(), interval.upper.clone()) for node, interval in known.items()}
    report = asked.run(known)
    merged = known.intersect(report.bounds)
    check_report(asked.stage, asked.query, replace(report, bounds=merged))
    for node, (low, high) in before.items():
        assert torch.equal(known[node].lower, low) and torch.equal(known[node].upper, high)
        assert (merged[node].lower >= low).all() and (merged[node].upper <= high).all()


def nothing_is_written(asked: Asked) -> None:
    """The network and the query are as before, and a second run of a stage of no chance finds the same."""
    query = asked.query
    state = [t.clone() for t in (*asked.net.model.state_dict().values(), query.open, query.spec.rows)]
    digest = query.graph.digest()
    first, again = asked.report, asked.run()
    now = [*asked.net.model.state_dict().values(), query.open, query.spec.rows]
    assert digest == query.graph.digest() and all(torch.equal(a, b) for a, b in zip(state, now, strict=True))
    if first.lower is not None and again.lower is not None:
        assert ((first.lower > 0) == (again.lower > 0)).all()


def without_time_it_ends(asked: Asked) -> None:
    """With no time left it ends soon, and what it has is sound."""
    began = time.monotonic()
    report = asked.run(seconds=0.0)
    assert time.monotonic() - began < SOON
    check_report(asked.stage, asked.query, report)


def verdicts_have_their_evidence(asked: Asked) -> None:
    """A cascade of the stage alone: proofs recompute, counterexamples are members that are misclassified."""
    net = asked.net
    for eps in (net.eps / 5, 3 * net.eps):
        inputs = LinfBall(net.x, eps)
        verifier = Verifier(net.model, net.x, stages=[asked.stage])
        result = verifier.run(inputs, robustness(net.model(net.x).argmax(1), 4))
        for i, verdict in enumerate(result.verdict):
            certificate, point = result.certificate[i], result.counterexample[i]
            if verdict is Verdict.VERIFIED and certificate is not None and certificate.trust > Trust.SOLVER:
                again = certificate.recompute(verifier.graph)
                assert ((again > 0) | (again == -torch.inf)).all(), again  # -inf: that proof is not a value per row
            assert (verdict is Verdict.FALSIFIED) == (point is not None)
            if point is not None:
                assert inputs.select(torch.tensor([i])).contains(point[None]).all()
                assert net.model(point[None].double()).argmax() != net.model(net.x[i : i + 1]).argmax()
            if asked.stage.trust is None:
                assert verdict is not Verdict.VERIFIED


LAWS: tuple[Law, ...] = (
    bounds_are_sound,
    it_hopes_for_examples,
    an_attack_stays_above,
    at_radius_zero_it_stays_below_the_network,
    an_example_alone_is_as_in_a_batch,
    known_bounds_only_tighten,
    nothing_is_written,
    without_time_it_ends,
    verdicts_have_their_evidence,
)
