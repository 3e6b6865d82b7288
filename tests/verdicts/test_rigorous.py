"""Bounds that account for every rounding: against exact arithmetic, and against float32 in other orders of sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from properties import Box, InputSet, L1Ball, L2Ball, LinfBall, Polytope, robustness
from verifier import InputError, Reason, Trust, Verdict, verify
from verifier.arithmetic import precise_arithmetic
from verifier.bound_map import Bounds, Interval, Provenance
from verifier.budget import Budget
from verifier.certification import certify
from verifier.errors import ModelError, StoreError
from verifier.forms import Dense, Patches, PatchGrid
from verifier.graph import Graph
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.backward import OneSided, Relaxation, bound
from verifier.relaxation.dual import start_form
from verifier.relaxation.multipliers import dual_bound
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.roundoff import Roundoffs, rounded_outward
from verifier.stages import stage
from verifier.stages.dual import DualStage
from verifier.testing.networks import random_network
from verifier.verdict import Semantics

RIGOROUS = ["interval", "dual", "dual-adaptive", "zonotope"]


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight), layer.bias.copy_(bias)
    return layer


def cancelling(seed: int, width: int = 6, layers: int = 3) -> nn.Sequential:
    """Layers with weights of very different sizes, whose sums cancel; all neurons are active on [0, 1]^width."""
    g = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for k in range(layers):
        scale = 10.0 ** torch.randint(0, 5, (width, 1), generator=g)
        weight = torch.randn(width, width, generator=g) * scale
        weight = torch.cat([weight[:, : width // 2], -weight[:, : width // 2] + 0.01 * weight[:, width // 2 :]], 1)
        # the bias lifts the sums above zero: they cancel against it
        parts.append(
            linear(weight, 1.001 * weight.abs().sum(1) * 10.0 ** (5 * k) if k < layers - 1 else torch.zeros(width))
        )
        parts.append(nn.ReLU())
    return nn.Sequential(*parts[:-1]).eval()


@cache
def traced(seed: int) -> tuple[nn.Sequential, Graph]:
    model = cancelling(seed)
    return model, import_torch(model, torch.zeros(1, 6))


def exact_value(model: nn.Sequential, x: Sequence[Fraction]) -> list[Fraction]:
    values = list(x)
    for layer in model:
        if isinstance(layer, nn.Linear):
            rows = [[Fraction(w) for w in row] for row in layer.weight.detach().double().tolist()]
            biases = [Fraction(b) for b in layer.bias.detach().double().tolist()]
            products = (zip(row, values, strict=True) for row in rows)
            values = [sum((w * v for w, v in p), b) for p, b in zip(products, biases, strict=True)]
        else:
            values = [max(v, Fraction(0)) for v in values]
    return values


def exact_minima(model: nn.Sequential, low: Tensor, high: Tensor) -> list[Fraction]:
    """min of y_0 - y_j, j > 0, over the box, of a model that is affine on it: by its values at the unit steps."""
    ends = [[Fraction(v) for v in t.double().tolist()] for t in (low, high)]
    base = exact_value(model, ends[0])
    minima = [base[0] - y for y in base[1:]]
    for i, top in enumerate(ends[1]):
        moved = exact_value(model, [*ends[0][:i], top, *ends[0][i + 1 :]])
        for j in range(len(minima)):
            minima[j] += min(Fraction(0), (moved[0] - moved[j + 1]) - (base[0] - base[j + 1]))
    return minima


@pytest.mark.parametrize("name", RIGOROUS)
def test_no_bound_exceeds_the_exact_minimum_where_sums_cancel(name: str) -> None:
    """float32 bounds of networks that are affine on the box, against fractions; the plain bounds do exceed it."""
    wrong = 0
    for seed in range(6):
        model, graph = traced(seed)
        low = torch.rand(1, 6, generator=torch.Generator().manual_seed(100 + seed))
        inputs = Box(low, low + 1e-3)
        query = Query.of(graph, inputs, robustness(torch.tensor([0]), 6))
        minima = exact_minima(model, *(t[0] for t in inputs.box()))
        with torch.no_grad():
            report = stage(name).run(query, Bounds(), Budget())
            plain = DualStage().plain(query, Bounds(), Budget()).lower
        assert report.lower is not None and plain is not None and report.trust is Trust.CHECKED
        assert report.lower.isfinite().all()
        for found, exact in zip(report.lower[0].tolist(), minima, strict=True):
            assert Fraction(found) <= exact
        wrong += sum(Fraction(found) > exact for found, exact in zip(plain[0].tolist(), minima, strict=True))
    assert wrong > 0, "the networks are too easy"


NETWORKS = ["dense", "leaky", "conv", "residual", "concat", "max pool", "batch norm", "conv, badly scaled"]


@pytest.mark.parametrize("rule", list(SlopeRule))
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_paid_covers_what_rounding_did(name: str, rule: SlopeRule) -> None:
    """The same lines, pulled back in float32 with payments and in float64: rows of the output and of all neurons."""
    net = random_network(name, 3, batch=4)
    model, x = net.model.float(), net.x.float()
    graph = import_torch(model, x[:1])
    query = Query.of(graph, LinfBall(x, net.eps / 3), robustness(torch.zeros(4, dtype=torch.int64), 4))
    paid = 0
    with torch.no_grad():
        roundoffs = Roundoffs(query)
        bounds, lines = DualStage(rule).tighten(query, Bounds(), PassPlan(graph, 2**28), roundoffs)
        double = {
            i: Relaxation(*(None if t is None else t.double() for t in vars(r).values())) for i, r in lines.items()
        }
        rows = query.spec.rows.float()
        start = OneSided(start_form(graph, rows))
        cheap = bound(graph, query.inputs, lines, graph.output, start, rows, roundoffs=roundoffs).double()
        plain = bound(graph, query.inputs, lines, graph.output, start, rows).double()
        start = OneSided(start_form(graph, rows.double()))
        exact = bound(graph.to(dtype=torch.float64), query.inputs, double, graph.output, start, rows.double())
        assert (cheap <= exact).all() and ((plain - exact).abs() <= plain - cheap).all()
        assert (plain - cheap < 0.02 * (1 + exact.abs())).all(), "too much is paid"
        paid += int((plain != exact).sum())
        values = graph.to(dtype=torch.float64).values(x.double())
        for node, interval in bounds.items():
            assert (interval.lower.double() <= values[node]).all() and (values[node] <= interval.upper.double()).all()
    assert paid > 0


def test_multipliers_pay_as_well() -> None:
    net = random_network("conv", 1, batch=3)
    x = net.x.float()
    graph = import_torch(net.model.float(), x[:1])
    query = Query.of(graph, LinfBall(x, net.eps / 3), robustness(torch.zeros(3, dtype=torch.int64), 4))
    with torch.no_grad():
        bounds = stage("dual").run(query, Bounds(), Budget()).bounds
        g = torch.Generator().manual_seed(0)
        nu = {i: 100 * torch.randn(3, 3, *graph.nodes[i].shape, generator=g) for i in graph.activations}
        narrow = dual_bound(query, bounds, nu).double()
        wide = dual_bound(query.on(torch.device("cpu"), torch.float64), bounds.to(torch.float64), nu)
    assert (narrow < wide).all() and (wide - narrow < 0.01 * wide.abs()).all()


@pytest.mark.parametrize("batch", [1, 32])
def test_convolutions_are_sums(batch: int) -> None:
    """No transform mixes what a window does not see (Winograd's would): a huge entry leaves windows beside it alone."""
    g = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, 16, 3, 3, generator=g), torch.randn(batch, 16, 14, 14, generator=g)
    x[:, :, 7, 7] = 1e12
    with precise_arithmetic():
        found, exact = (F.conv2d(t, w, padding=1).double() for t, w in ((x, weight), (x.double(), weight.double())))
        size = F.conv2d(x.abs().double(), weight.abs().double(), padding=1)
    assert ((found - exact).abs() <= 2.0**-24 * 160 * size).all()


@pytest.mark.parametrize(("kernel", "factor"), [(5e4, 2e-23), (1e-23, 1e10), (1e-24, 1.0)])
def test_squares_that_underflow_lose_no_norm(kernel: float, factor: float) -> None:
    """(2e-23)^2 is zero in float32, and may be what makes a large kernel's coefficients."""
    g = torch.Generator().manual_seed(0)
    grid = PatchGrid((3, 3), (2, 2), (1, 1), (1, 0))
    weight, scale = kernel * torch.randn(1, 1, 2, 1, 2, 2, generator=g), factor * torch.rand(2, 1, 4, 4, generator=g)
    form = Patches(weight, grid, (1, 4, 4), scale)
    exact = Dense(Patches(weight.double(), grid, (1, 4, 4), scale.double()).dense()).norm(2)
    found = form.norm(2).double()
    assert (found >= (1 - 1e-6) * exact).all() and (found <= 1.001 * exact + 1e-17 * kernel * factor).all()


def test_a_leaky_slope_that_underflows_is_paid_for() -> None:
    """1e-50 is zero in float32; times -1e30 it is -1e-20 over the reals."""
    graph = import_torch(nn.Sequential(nn.LeakyReLU(1e-50), nn.Linear(2, 2)).eval(), torch.zeros(1, 2)).to()
    x = torch.full((1, 2), -1e30)
    query = Query.of(graph, Box(x, x), robustness(torch.tensor([0]), 2))
    roundoffs, true = Roundoffs(query), 1e-50 * x.double()
    for rule in SlopeRule:
        lines = roundoffs.relaxation(1, x, x, rule, (x, x))
        assert lines.spread is None or (lines.spread == 0).all()
        middle = lines.mean.double() * x.double() + lines.bias_mean.double()
        assert ((true - middle).abs() <= lines.bias_spread.double()).all()
    low, high = rounded_outward(query, Bounds(), roundoffs)[1]
    assert (low <= true).all() and (true <= high).all()


# trust ---------------------------------------------------------------------------------------------------------------


def small(activation: nn.Module | None = None, dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), activation or nn.ReLU(), nn.Linear(5, 3)).to(dtype).eval()
    return model, torch.randn(4, 3, dtype=dtype)


@pytest.mark.parametrize("name", RIGOROUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_proofs_of_relu_networks_are_checked(name: str, dtype: torch.dtype) -> None:
    model, x = small(dtype=dtype)
    result = verify(model, x, 1e-3, stages=[name])
    assert set(result.trust) == {Trust.CHECKED} and result.semantics is Semantics.REAL
    assert set(verify(model, x, 1e-3, stages=[name], threat="l2", clip=(-9, 9)).trust) == {Trust.CHECKED}


def test_what_rests_on_anything_else_is_not() -> None:
    """Bounds by themselves are not; certificates of them are."""

    def trust(model: nn.Module, x: Tensor, inputs: InputSet) -> Trust:
        graph = import_torch(model, x)
        label = graph.forward(x).argmax(1)
        return stage("dual").run(Query.of(graph, inputs, robustness(label, 3)), Bounds(), Budget()).trust

    model, x = small(nn.Tanh())
    assert trust(model, x[:1], LinfBall(x[:1], 1e-3)) is Trust.FLOAT
    assert set(verify(model, x, 1e-3, stages=["dual"]).trust) == {Trust.CHECKED}
    model, x = small()
    center = x[:1].double()
    rows, eye = torch.cat([torch.eye(3), -torch.eye(3)]).double(), torch.full((6,), 1e-3, dtype=torch.float64)
    polytope = Polytope(rows[None], (rows @ center[0] + eye)[None], center - 0.1, center + 0.1)
    assert trust(model, x[:1], polytope) is Trust.FLOAT
    assert set(verify(model, x[:1], input_set=polytope, stages=["dual"]).trust) == {Trust.CHECKED}


def test_a_graph_of_rounded_constants_is_not_the_model() -> None:
    """A product of constants that the import rounds is another than the model's, whichever stage proves it."""

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([0.1, 0.7]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(torch.relu(x), self.bias, alpha=0.3)

    x = torch.tensor([[1.0, 2.0]])
    for stages in (["dual"], ["branch"], None):
        assert verify(Rounded().eval(), x, 1e-3, stages=stages).trust == (Trust.FLOAT,)


def test_bounds_made_from_less_trusted_ones_are_less_trusted() -> None:
    """Example by example: a neighbour's bounds say nothing."""
    model, x = small()
    query = Query.of(import_torch(model, x[:1]), LinfBall(x[:2], 0.3), robustness(torch.tensor([0, 1]), 3))
    own = stage("interval").run(query, Bounds(), Budget()).bounds
    (node,) = own
    guessed = Interval.of(own[node].lower, own[node].upper, Provenance("guess", Trust.FLOAT))
    mixed = Bounds(
        {
            node: Bounds.concatenate(
                [own.select(torch.tensor([0])), Bounds({node: guessed}).select(torch.tensor([1]))]
            )[node]
        }
    )
    for name in RIGOROUS:
        found = stage(name).run(query, mixed, Budget()).bounds
        assert found.trusts(2) == [Trust.CHECKED, Trust.FLOAT]


def test_a_margin_of_a_rounding_is_numerical() -> None:
    """1e8 x - 1e8 x + 1e-9: float64 cannot tell either."""
    weight = torch.tensor([[1e8, 0.0], [0.0, 1e8]], dtype=torch.float64)
    last = linear(torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.zeros(2)).double()
    model = nn.Sequential(linear(weight, torch.tensor([1e-9, 0.0])).double(), nn.ReLU(), last).eval()
    for name in RIGOROUS:
        result = verify(model, torch.ones(1, 2, dtype=torch.float64), 0.0, label=[0], stages=[name])
        assert result.verdict == (Verdict.UNKNOWN,) and result.reason == (Reason.NUMERICAL,)


# float32 semantics ---------------------------------------------------------------------------------------------------


def summed(terms: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # [rows, terms] float32 -> [rows]
    """Sums in float32 in a random order, one by one or in blocks."""
    terms = terms[:, rng.permutation(terms.shape[1])]
    blocks = [terms] if rng.random() < 0.5 else np.array_split(terms, 3, axis=1)
    partial = [np.cumsum(b, axis=1, dtype=np.float32)[:, -1] for b in blocks if b.shape[1]]
    return np.cumsum(np.stack(partial, 1), axis=1, dtype=np.float32)[:, -1]


def executed(model: nn.Sequential, x: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The value after every layer in float32 arithmetic; layers are linear, ReLU and leaky ReLU."""
    values = []
    for layer in model:
        if isinstance(layer, nn.Linear):
            products = layer.weight.detach().numpy() * x
            x = summed(np.concatenate([products, layer.bias.detach().numpy()[:, None]], 1), rng)
        else:
            slope = np.float32(getattr(layer, "negative_slope", 0.0))
            x = np.where(x >= 0, x, slope * x)
        assert x.dtype == np.float32
        values.append(x)
    return values


def ranges_of(graph: Graph, inputs: InputSet, semantics: Semantics) -> dict[int, tuple[Tensor, Tensor]]:
    query = Query.of(graph, inputs, robustness(torch.tensor([0]), 6), semantics)
    return rounded_outward(query, Bounds(), Roundoffs(query))


@pytest.mark.parametrize("leaky", [False, True])
def test_float32_executions_stay_in_their_bounds(leaky: bool) -> None:
    rng, left = np.random.default_rng(0), 0
    for seed in range(4):
        layers = list(cancelling(seed))
        model = nn.Sequential(*(nn.LeakyReLU(0.3) if leaky and isinstance(k, nn.ReLU) else k for k in layers)).eval()
        with torch.no_grad():
            model[0].bias.mul_(0.5)  # some neurons are unstable
            x = torch.rand(1, 6, generator=torch.Generator().manual_seed(seed))
            inputs, graph = LinfBall(x, 1e-6), import_torch(model, x)
            narrow, real = (ranges_of(graph, inputs, s) for s in (Semantics.FLOAT32, Semantics.REAL))
            query = Query.of(graph, inputs, robustness(torch.tensor([0]), 6), Semantics.FLOAT32)
            precise = query.on(torch.device("cpu"), torch.float64)
            lowers = [stage(s).run(q, Bounds(), Budget()).lower for s in RIGOROUS for q in (query, precise)]
            # the narrow bounds computed in float64 know nothing of float32 but the deviations
            fine = ranges_of(precise.graph, inputs, Semantics.FLOAT32)
            thin = ranges_of(precise.graph, inputs, Semantics.REAL)
        assert all(lower is not None and lower.isfinite().all() for lower in lowers)
        low, high = (t[0].numpy() for t in inputs.box(torch.float32))
        for _ in range(40):
            point = np.float32(low + rng.integers(0, 2, 6) * (high - low))
            values = executed(model, point, rng)
            for node, value in enumerate(values, 1):
                for ranges in (narrow, fine):
                    assert (ranges[node][0][0].numpy() <= value).all() and (value <= ranges[node][1][0].numpy()).all()
                left += bool(((value < thin[node][0][0].numpy()) | (value > thin[node][1][0].numpy())).any())
            margins = values[-1][:1].astype(np.float64) - values[-1][1:]
            for lower in lowers:
                assert lower is not None and (lower[0].double().numpy() <= margins).all()
        assert all((narrow[n][0] <= real[n][0]).all() for n in narrow)
    assert left > 0, "no execution leaves the bounds of the real function: the networks are too easy"


def absorbing() -> nn.Sequential:
    """Margin (1e8 x_0 + 4) - 1e8 x_1 - 2, 2 over the reals at x = (1, 1); in float32 the 4 is lost and it is -2."""
    first = linear(torch.tensor([[1e8, 0.0], [0.0, 1e8]]), torch.tensor([4.0, 0.0]))
    return nn.Sequential(
        first, nn.ReLU(), linear(torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([0.0, 2.0]))
    ).eval()


def test_the_two_semantics_differ() -> None:
    model, x = absorbing(), torch.ones(1, 2)
    for name in RIGOROUS:
        assert verify(model, x, 0.0, label=[0], stages=[name]).verdict == (Verdict.VERIFIED,)
        narrow = verify(model, x, 0.0, label=[0], stages=[name], semantics="float32")
        assert narrow.verdict == (Verdict.UNKNOWN,) and narrow.semantics is Semantics.FLOAT32
    real, narrow = (verify(model, x, 0.0, label=[0], semantics=s) for s in ("real", "float32"))
    assert real.verdict == (Verdict.VERIFIED,) and real.trust == (Trust.CHECKED,)
    assert narrow.verdict == (Verdict.FALSIFIED,) and narrow.float32_agrees == (True,)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.function(x))


def diagonal(*values: float, bias: Sequence[float] = (0.0, 0.0)) -> nn.Linear:
    return linear(torch.diag(torch.tensor(values)), torch.tensor(bias))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        # sums that overflow: inf - inf in float32
        (Function(torch.relu, linear(torch.tensor([[1e10], [5e9]]), torch.zeros(2))), [[1e30]]),
        # constants that are zero in float32, times values so large that the product is not
        (Function(lambda x: x * 1e-50, diagonal(1e20, 0.0), diagonal(10.0, 0.0, bias=(0.0, 0.5))), [[1e30, 0.0]]),
        (
            Function(lambda x: F.leaky_relu(x, 1e-50), diagonal(-1e20, 0.0), diagonal(10.0, 0.0, bias=(0.0, 0.5))),
            [[-1e30, 0.0]],
        ),
    ],
)
def test_what_float32_cannot_hold_proves_nothing(model: nn.Module, x: list[list[float]]) -> None:
    """Over the reals each has a large margin; in float32 it is NaN or negative."""
    model, points = model.eval(), torch.tensor([[1.0] * len(x[0]), *x])
    with torch.no_grad():
        y = model(points)[1].double()
    assert not y[0] - y[1] > 0
    graph, inputs, spec = import_torch(model, points[:1]), LinfBall(points[1:], 0.0), robustness(torch.tensor([0]), 2)
    precise = graph.to(dtype=torch.float64)
    for name in RIGOROUS:
        for some in (graph, precise):
            lower = stage(name).run(Query.of(some, inputs, spec, Semantics.FLOAT32), Bounds(), Budget()).lower
            assert lower is not None and not lower[0, 0] > 0
        lower = stage(name).run(Query.of(precise, inputs, spec), Bounds(), Budget()).lower
        assert lower is not None and lower[0, 0] > 1


def test_what_is_padded_is_rounded() -> None:
    """0.7 is a little less in float32: bounds of either precision hold both."""
    model = Function(lambda x: F.pad(x, (0, 1), value=0.7), nn.Identity()).eval()
    model = nn.Sequential(diagonal(1.0, 1.0), model).eval()
    graph, inputs = import_torch(model, torch.zeros(1, 2)).to(), LinfBall(torch.zeros(1, 2), 0.1)
    numbers = Fraction(0.7), Fraction(float(np.float32(0.7)))
    assert numbers[1] < numbers[0]
    for precise in (graph, graph.to(dtype=torch.float64)):
        low, high = (Fraction(float(t[0, 2])) for t in ranges_of(precise, inputs, Semantics.FLOAT32)[graph.output])
        assert all(low <= n <= high for n in numbers)
        low, high = (Fraction(float(t[0, 2])) for t in ranges_of(precise, inputs, Semantics.REAL)[graph.output])
        assert low <= numbers[0] <= high


def test_a_negative_divisor_keeps_intervals_in_order() -> None:
    model = Function(lambda x: F.avg_pool2d(x, 2, divisor_override=-1), nn.Flatten()).eval()
    x = torch.rand(1, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    graph, inputs = import_torch(model, x).to(), LinfBall(x, 0.9)
    low, high = ranges_of(graph, inputs, Semantics.REAL)[graph.output]
    for end in inputs.box():
        value = graph.to(dtype=torch.float64).forward(end)
        assert (low <= value).all() and (value <= high).all()


def test_a_variance_that_cancels_is_refused() -> None:
    model = nn.BatchNorm1d(2).eval()
    assert model.running_var is not None
    model.running_var.fill_(-9.9999e-6)
    with pytest.raises(ModelError, match="negative variance"):
        import_torch(model, torch.zeros(1, 2))


def test_a_tie_in_float32_is_unknown() -> None:
    model = absorbing()
    with torch.no_grad():
        model[2].bias[1] = 0.0
    result = verify(model, torch.ones(1, 2), 0.0, label=[0], semantics=Semantics.FLOAT32)
    assert result.verdict == (Verdict.UNKNOWN,) and result.reason == (Reason.NUMERICAL,)


def test_stages_that_do_not_know_float32_say_nothing() -> None:
    model, x = small()
    for name in ("lp", "branch", "dual-optimised", "milp", "zonotope-learned"):
        assert stage(name).semantics == {Semantics.REAL}
        result = verify(model, x, 1e-3, stages=[name], semantics="float32")
        assert set(result.verdict) == {Verdict.UNKNOWN} and set(result.reason) == {Reason.UNSUPPORTED}
    assert set(verify(model, x, 1e-3, semantics="float32").verdict) == {Verdict.VERIFIED}


def test_unusable_semantics() -> None:
    model, x = small(dtype=torch.float64)
    with pytest.raises(InputError, match="float32 networks"):
        verify(model, x, 0.1, semantics="float32")
    with pytest.raises(InputError, match="'real' or 'float32'"):
        verify(*small(), 0.1, semantics="float16")


def test_a_store_keeps_its_semantics(tmp_path: Path) -> None:
    model, x = small()
    label, path = model(x).argmax(1), tmp_path / "run.sqlite"
    report = certify(model, x, label, 1e-3, store=path, semantics="float32", progress=False)
    assert report.meta["settings"]["semantics"] == "float32" and report.summary()["verified_accuracy"] == 1
    with pytest.raises(StoreError, match="semantics: float32 -> real"):
        certify(model, x, label, 1e-3, store=path, resume=True, progress=False)


def test_balls_of_other_norms_pay() -> None:
    """The support functions in float32 against those in float64, of forms with entries of all sizes."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 8, generator=g)
    model = nn.Sequential(linear(torch.randn(2, 8, generator=g) * 10.0 ** torch.arange(-4, 4), torch.zeros(2))).eval()
    graph, spec = import_torch(model, x[:1]), robustness(torch.zeros(3, dtype=torch.int64), 2)
    for inputs in (L2Ball(x, 0.3), L2Ball(x, 0.3, (0, 1)), L1Ball(x, 0.7), L1Ball(x, 0.7, (0, 1)), LinfBall(x, 0.2)):
        query = Query.of(graph, inputs, spec)
        with torch.no_grad():
            narrow = stage("dual").run(query, Bounds(), Budget()).lower
            wide = DualStage().plain(query.on(torch.device("cpu"), torch.float64), Bounds(), Budget()).lower
        assert narrow is not None and wide is not None
        assert (narrow.double() <= wide).all() and (wide - narrow < 1e-2 * wide.abs()).all()
