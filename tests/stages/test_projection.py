"""Random projections: estimators, the pass, dual training by them, and the dual bound with a stated probability."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.differences import slope
from helpers.oracle import exact_minimum, random_tiny
from helpers.tiny_torch import TinyModule
from torch import Tensor, nn

from properties import Box, InputSet, L1Ball, L2Ball, LinfBall, robustness
from properties.specification import other_classes
from training import DualTraining, robust_loss
from training.method import Progress
from training.network import NetworkInTraining
from verifier import Trust, Verdict, Verifier, verify
from verifier.api import DEFAULT_STAGES
from verifier.bound_map import Bounds, Interval, Provenance
from verifier.budget import Budget
from verifier.errors import InputError
from verifier.graph.torch_import import import_torch
from verifier.projection import Draws, cauchy_factor, cauchy_scale, estimated_margins, normal_factor, normal_scale
from verifier.projection.evidence import SeedEvidence
from verifier.projection.probabilistic import Estimates, ProjectedPass
from verifier.query import Query
from verifier.stages.dual import DualStage
from verifier.stages.probabilistic import ProbabilisticDualStage
from verifier.stages.zonotope import ZonotopeStage
from verifier.testing.networks import random_network
from verifier.zonotope import region

NAME = "dual-probabilistic"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def asked(name: str, kind: str = "linf", seed: int = 0) -> Query:
    """Are the predictions of a random network robust? Not all of them are."""
    net = random_network(name, seed)
    label = net.model(net.x).argmax(1)
    ball: InputSet = LinfBall(net.x, net.eps) if kind == "linf" else L2Ball(net.x, 3 * net.eps)
    return Query.of(import_torch(net.model, net.x[:1]), ball, robustness(label, 4))


# estimators ----------------------------------------------------------------------------------------------------------


def test_medians_of_few_and_of_many_samples_are_torchs_with_its_gradient() -> None:
    for rows in (2, 3, 4, 7, 10, 33, 50, 64, 65, 100):
        samples = torch.randn(rows, 3, 4, generator=seeded(rows), dtype=torch.float64).requires_grad_()
        weights = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
        found, expected = cauchy_scale(samples), samples.abs().median(0).values
        ratio = found / expected  # what makes it unbiased
        assert torch.allclose(ratio, ratio[0, 0].expand(3, 4), rtol=1e-12)
        (mine,) = torch.autograd.grad((found * weights).sum(), samples)
        (theirs,) = torch.autograd.grad((expected * weights).sum(), samples)
        assert torch.allclose(mine, theirs * ratio[0, 0].detach())


@pytest.mark.parametrize("rows", [9, 10, 50, 100])
def test_the_median_estimates_an_l1_norm(rows: int) -> None:
    """Without bias, and with the standard deviation of Li et al. (2007), pi / (2 sqrt(r)): figure 6 of Wong et al."""
    coefficients = torch.randn(7, dtype=torch.float64, generator=seeded())
    cauchy = torch.empty(rows, 20000, 7, dtype=torch.float64).cauchy_(generator=seeded(1))
    found = cauchy_scale(cauchy @ coefficients) / coefficients.abs().sum()
    deviation = math.pi / 2 / math.sqrt(rows)
    assert abs(float(found.mean()) - 1) < 5 * deviation / math.sqrt(20000)
    assert float(found.std()) == pytest.approx(deviation, rel=0.02 + 2 / rows)


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_the_mean_square_estimates_an_l2_norm(rows: int) -> None:
    coefficients = torch.randn(7, dtype=torch.float64, generator=seeded())
    normal = torch.randn(rows, 20000, 7, dtype=torch.float64, generator=seeded(1))
    found = normal_scale(normal @ coefficients) / coefficients.norm()
    assert abs(float(found.mean()) - 1) < 5 / math.sqrt(2 * rows * 10000)
    assert float(found.std()) == pytest.approx(1 / math.sqrt(2 * rows), rel=0.25 if rows < 10 else 0.05)


def test_one_sample_has_no_median() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        cauchy_scale(torch.ones(1, 3))


@pytest.mark.parametrize(("rows", "failure"), [(1, 0.2), (10, 0.3), (40, 0.05), (200, 0.02)])
def test_upper_bounds_fail_as_rarely_as_promised(rows: int, failure: float) -> None:
    """Not more often than promised, by Chernoff's bound, nor so rarely that the bound were no use."""
    trials = 20000
    cauchy = torch.empty(rows, trials, dtype=torch.float64).cauchy_(generator=seeded(2))
    geometric = cauchy.abs().log().mean(0).exp() * cauchy_factor(rows, failure)
    quadratic = torch.randn(rows, trials, dtype=torch.float64, generator=seeded(3)).square().mean(0).sqrt()
    for bound in (geometric, quadratic * normal_factor(rows, failure)):
        failed = float((bound < 1).double().mean())
        assert failure / 20 < failed < failure + 3 * math.sqrt(failure / trials)


def test_the_factor_is_that_of_the_paper() -> None:
    """exp(-k eps^2 / G) of eq. 55. Its example has k = 200 and epsilon = 0.22 for a tail of 0.26; 0.17 will do."""
    assert 1 - 1 / cauchy_factor(200, (0.01 / 6572) ** 0.1) == pytest.approx(0.167, abs=0.001)
    for epsilon in (0.05, 0.3, 0.9):
        log = math.log(1 - epsilon)
        inverse = -0.5 * math.log(1 + (2 / math.pi * log) ** 2) + 2 / math.pi * math.atan(2 / math.pi * log) * log
        assert cauchy_factor(50, math.exp(-50 * inverse)) == pytest.approx(1 / (1 - epsilon), rel=1e-9)


# the pass ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linf", "l2"])
@pytest.mark.parametrize("name", ["dense", "skip", "residual", "concat", "average pool", "tanh", "hardtanh"])
def test_many_projections_reach_the_exact_bound(name: str, kind: str) -> None:
    query = asked(name, kind)
    exact = ZonotopeStage().run(query, Bounds(), Budget()).lower
    assert exact is not None
    rows = 2001
    found = estimated_margins(query, Draws(rows, seeded()))
    center = query.spec.values(query.graph.forward(query.inputs.center()).flatten(1))
    error = ((found - exact) / (center - exact)).detach()
    assert float(error.abs().max()) < 8 * math.pi / 2 / math.sqrt(rows)  # errors of several layers add up
    assert float(error.abs().max()) > 0


@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_the_estimate_at_radius_zero_is_the_value(kind: str) -> None:
    net = random_network("residual")
    ball = LinfBall(net.x, 0.0) if kind == "linf" else L2Ball(net.x, 0.0)
    graph, label = import_torch(net.model, net.x[:1]), net.model(net.x).argmax(1)
    query = Query.of(graph, ball, robustness(label, 4))
    values = query.spec.values(graph.forward(net.x))
    found = estimated_margins(query, Draws(4, seeded()))
    assert torch.allclose(found, values)
    found.sum().backward()
    gradients = [p.grad for p in net.model.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("kind", ["linf", "l2"])
@pytest.mark.parametrize("name", ["residual", "skip"])
def test_gradients_are_those_of_finite_differences(name: str, kind: str) -> None:
    query = asked(name, kind)
    parameters = sorted({t for n in query.graph.nodes[1:] for _, t in n.op.parameters()}, key=lambda t: t.numel())

    def value() -> Tensor:
        return estimated_margins(query, Draws(6, seeded(5))).sin().sum()

    gradients = torch.autograd.grad(value(), parameters)
    generator = seeded(6)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        expected = float(slope(value, [parameter], [direction]))
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_no_example_depends_on_its_neighbours() -> None:
    query = asked("residual")
    together = estimated_margins(query, Draws(10, seeded()))
    alone = estimated_margins(query.select(torch.tensor([2])), Draws(10, seeded()))
    assert torch.allclose(together[2:], alone)


def test_rows_over_bounds_that_need_no_estimate_are_exact() -> None:
    """Bounds of one hidden layer over a box are exact by intervals, and rows are pulled back: nothing is random."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)).double().eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    query = Query.of(import_torch(model, x[:1]), LinfBall(x, 0.3), robustness(torch.tensor([0, 1, 2]), 4))
    exact = DualStage().plain(query, Bounds(), Budget()).lower
    assert exact is not None
    assert torch.allclose(estimated_margins(query, Draws(2, seeded())), exact, rtol=1e-12)


@pytest.mark.parametrize("ball", [L1Ball(torch.zeros(1, 5), 0.1), L2Ball(torch.zeros(1, 5), 0.1, (0, 1))])
def test_other_sets_are_refused(ball: InputSet) -> None:
    net = random_network("dense", dtype=torch.float32)
    query = Query.of(import_torch(net.model, net.x[:1]), ball, robustness(torch.tensor([0]), 4))
    with pytest.raises(InputError, match=r"l2 balls without clip, not l[12]"):
        estimated_margins(query, Draws(10, seeded()))
    assert not ProbabilisticDualStage().supports(query)


# training ------------------------------------------------------------------------------------------------------------


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        DualTraining(eps=0.1, projections=1)
    net = random_network("dense", dtype=torch.float32)
    for threat in ("l1", "linf+2*l2"):
        with pytest.raises(InputError, match="random projections know"):
            DualTraining(eps=0.1, threat=threat, clip=(-9, 9)).begin(NetworkInTraining(net.model, net.x), seeded())
    DualTraining(eps=0.1, threat="l2", clip=(-9, 9)).begin(NetworkInTraining(net.model, net.x), seeded())
    DualTraining(eps=0.1, threat="l1", projections=None).begin(NetworkInTraining(net.model, net.x), seeded())


def test_the_loss_is_that_of_the_exact_bound_or_close() -> None:
    net = random_network("residual")
    label, network = torch.tensor([0, 1, 2]), NetworkInTraining(net.model, net.x)
    exact, _ = robust_loss(network.graph, LinfBall(net.x, 0.02), label)
    late = Progress(1, 0, 1, 2)  # past the ramp
    for projections, close in ((None, 1e-9), (2001, 0.1)):
        method = DualTraining(eps=0.02, clip=None, projections=projections)
        loss = method.begin(network, seeded()).loss(net.x, label, late)
        assert float(loss.value) == pytest.approx(float(exact), rel=close)
        assert 0 <= float(loss.figures["error"]) <= float(loss.figures["robust_error"]) <= 1


@pytest.mark.parametrize("projections", [None, 10])
def test_training_makes_a_network_provable(projections: int | None) -> None:
    """Two blobs that plain training would separate by any line between them."""
    torch.manual_seed(0)
    label = torch.arange(64) % 2
    x = torch.randn(64, 2, generator=seeded()) * 0.2 + label.unsqueeze(1) * 2.0 - 1
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    method = DualTraining(eps=0.3, clip=None, projections=projections)
    run = method.begin(NetworkInTraining(model, x), seeded())
    steps = torch.optim.Adam(model.parameters(), lr=1e-2)

    def proved() -> int:
        return verify(model, x, 0.3, label=label, stages=["dual"]).summary()["verified"]

    before = proved()
    for epoch in range(40):
        steps.zero_grad()
        run.loss(x, label, Progress(epoch, 0, 1, 40)).value.backward()
        steps.step()
    assert before < 48 and proved() >= 60


def test_a_generator_in_the_same_state_gives_the_same_loss() -> None:
    net = random_network("residual", dtype=torch.float32)
    method, label = DualTraining(eps=0.1, clip=None), torch.tensor([0, 1, 2])
    first, second, other = (method.begin(NetworkInTraining(net.model, net.x), seeded(s)) for s in (3, 3, 4))
    values = [float(c.loss(net.x, label, Progress(0, 0, 1, 1)).value) for c in (first, second, other)]
    assert values[0] == values[1] != values[2]


# the bound with a probability ----------------------------------------------------------------------------------------


def test_it_is_in_no_ladder_that_nobody_asked_for() -> None:
    assert NAME not in DEFAULT_STAGES and "dual" in DEFAULT_STAGES
    net = random_network("dense")
    assert NAME not in Verifier(net.model, net.x).stage_names


@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_it_is_the_exact_bound_made_wider(kind: str) -> None:
    """Wider by no more than what the factor, and widening layer upon layer, can do."""
    query = asked("residual", kind)
    exact = ZonotopeStage().run(query, Bounds(), Budget()).lower
    few, many = (ProbabilisticDualStage(rows=r).run(query, Bounds(), Budget()).lower for r in (200, 4000))
    assert exact is not None and few is not None and many is not None
    assert bool((few < many).all()) and bool((many < exact).all())
    center = query.spec.values(query.graph.forward(query.inputs.center()).flatten(1))
    assert bool((center - many < 1.8 * (center - exact)).all())


def test_every_bound_holds_with_the_promised_probability() -> None:
    """Counted over seeds, at a large failure: layer by layer, each against the exact width over the same intervals."""
    query = asked("skip")
    graph, failed, trials, failure = query.graph, 0, 60, 0.5
    with torch.no_grad():
        for seed in range(trials):
            projected = ProjectedPass(Estimates(failure, rows=20, groups=1, seed=seed), query, Budget())
            assert projected.tighten()
            source = Provenance("test", Trust.PROBABILISTIC)
            bounds = Bounds({i: Interval.of(*projected.ranges[i], source) for i in graph.pre_activations})
            wrong = torch.zeros(query.batch, dtype=torch.bool)
            for node in graph.pre_activations[1:]:
                low, high = region(graph, query.inputs, bounds, node).interval()
                mine = projected.ranges[node]
                unsure = (mine[0] < 0) & (mine[1] > 0)  # what is settled was left to intervals, or is right anyway
                wrong |= (unsure & ((mine[0] > low + 1e-9) & (mine[1] < high - 1e-9))).flatten(1).any(1)
            exact = region(graph, query.inputs, bounds, graph.output).minimum(query.spec.rows)
            wrong |= (projected.row_bounds() > exact + query.spec.offset + 1e-9).any(1)
            failed += int(wrong.sum())
    share = failed / (trials * query.batch)
    assert 0 < share < failure  # Chernoff's bound, and the union's, are not tight


@pytest.mark.parametrize("groups", [1, 2, 10])
def test_one_group_is_tightest(groups: int) -> None:
    query = asked("dense")
    one, some = (ProbabilisticDualStage(rows=500, groups=g).run(query, Bounds(), Budget()).lower for g in (1, groups))
    assert one is not None and some is not None
    assert bool((some <= one + 1e-9).all()) and bool((some < one).all()) == (groups > 1)


def test_what_it_verifies_is_true() -> None:
    generator, proved = np.random.default_rng(0), 0
    for _ in range(18):
        network = random_tiny(generator)
        center = generator.normal(size=network.inputs)
        label = int(network.forward(center).argmax())
        low, high = center - 0.05, center + 0.05
        box = Box(torch.from_numpy(low)[None], torch.from_numpy(high)[None])
        x = torch.from_numpy(center)[None]
        spec = robustness(torch.tensor([label]), 3)
        result = verify(TinyModule(network).eval(), x, input_set=box, spec=spec, stages=[NAME])
        costs = np.eye(3)[label] - np.eye(3)[other_classes(torch.tensor([label]), 3)[0].numpy()]
        truth = [exact_minimum(network, cost, 0.0, low, high).value for cost in costs]
        assert bool((np.delete(result.margins[0].numpy(), label) <= np.array(truth) + 1e-9).all())
        if result.verdict[0] is Verdict.VERIFIED:
            assert result.trust == (Trust.PROBABILISTIC,) and min(truth) > 0
            proved += 1
    assert proved >= 5


def test_nothing_that_rests_on_it_is_trusted_further() -> None:
    """Alone, before and after other stages: FLOAT only for what it had no part in."""
    net = random_network("dense")
    label = net.model(net.x).argmax(1)
    wide = [ProbabilisticDualStage(rows=20), "dual"]
    for eps in (0.01, 0.03, 0.06, 0.1):
        alone = verify(net.model, net.x, eps, label=label, stages=["dual"])
        for stages in ([NAME, "dual"], ["dual", NAME], ["interval", NAME, "lp"], wide):
            result = verify(net.model, net.x, eps, label=label, stages=stages)
            for i, certificate in enumerate(result.certificate):
                if certificate is None:
                    continue
                used = {proof.stage for proof in certificate.proofs}
                assert (result.trust[i] is Trust.PROBABILISTIC) == (NAME in used)
                assert certificate.trust is result.trust[i]
                if used == {"dual"}:  # the bounds below it are its own: the very margins of the stage alone
                    assert torch.allclose(result.margins[i], alone.margins[i])
                    assert all(NAME not in interval.rules() for interval in certificate.bounds.values())


def test_the_certificate_recomputes_from_the_seed() -> None:
    net = random_network("residual")
    result = verify(net.model, net.x, 0.005, stages=[ProbabilisticDualStage(rows=500, seed=7)])
    assert result.summary()["verified"] > 0
    for certificate in result.certificate:
        if certificate is None:
            continue
        evidence = certificate.proofs[0].evidence
        assert isinstance(evidence, SeedEvidence)
        assert (evidence.estimates.failure, evidence.estimates.rows, evidence.estimates.seed) == (0.001, 500, 7)
        assert torch.allclose(certificate.recompute(), certificate.lower, atol=1e-12)
        assert certificate.dual_variables() == {}
        with pytest.raises(InputError, match="left no bounds"):
            certificate.slopes()


def test_other_seeds_other_numbers_and_other_chunks_the_same() -> None:
    query = asked("conv")
    first, same, other = (
        stage.run(query, Bounds(), Budget()).lower
        for stage in (
            ProbabilisticDualStage(rows=100),
            ProbabilisticDualStage(rows=100, memory=1),
            ProbabilisticDualStage(rows=100, seed=1),
        )
    )
    assert first is not None and same is not None and other is not None
    assert torch.allclose(first, same) and bool((first != other).all())


def test_closed_rows_and_spent_budgets() -> None:
    query = asked("dense")
    some = replace(query, open=torch.arange(3).expand(query.batch, 3) != 1)
    report = ProbabilisticDualStage(rows=50).run(some, Bounds(), Budget())
    assert report.lower is not None and len(report.bounds) == 0
    assert bool((report.lower[:, 1] == -torch.inf).all()) and bool(report.lower[:, [0, 2]].isfinite().all())
    late = ProbabilisticDualStage(rows=50).run(query, Bounds(), Budget(0))
    assert late.exhausted and late.lower is not None and bool((late.lower == -torch.inf).all())


@pytest.mark.parametrize("options", [{"failure": 0.0}, {"failure": 1.0}, {"rows": 10, "groups": 3}, {"groups": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        ProbabilisticDualStage(**options)  # type: ignore[arg-type]
