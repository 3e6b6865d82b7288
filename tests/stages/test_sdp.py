"""The semidefinite certificate: against exhaustion, closed forms, its own primal, and the bounds it must beat."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.oracle import AffineStep, ReluStep, TinyNetwork, exact_minimum
from helpers.sdp import MODELS, ROWS, dense, exhaustive, graph_of, is_norm_at_most
from helpers.tiny_torch import TinyModule
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from properties import Box, LinfBall, robustness
from verifier import Verdict, Verifier, verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.errors import InputError
from verifier.graph.torch_import import import_torch
from verifier.ops.base import REGISTRY as OPERATORS
from verifier.ops.base import Activation
from verifier.query import Query
from verifier.sdp import SdpBounds, SdpCertificate, TwoLayer, norm_bound
from verifier.sdp import bounds as bounds_module
from verifier.sdp.ascent import ascend, begin
from verifier.sdp.bounds import SdpEvidence
from verifier.sdp.coupling import Coupling
from verifier.stages import stage
from verifier.stages.sdp import SdpStage

#: Krivine's bound of Grothendieck's constant: the relaxation exceeds the quadratic program by no larger factor
GROTHENDIECK = math.pi / (2 * math.log(1 + math.sqrt(2)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("scale", [1.0, 1e-140, 1e140])
def test_spectral_norms_are_bounded_in_exact_arithmetic(shape: tuple[int, int], scale: float) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    for _ in range(5):
        matrix = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        bound = norm_bound(matrix)
        assert is_norm_at_most(matrix, bound)
        assert not is_norm_at_most(matrix, bound * (1 - 1e-11))


def test_spectral_norms_of_known_matrices() -> None:
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    sizes = torch.arange(1, 65, dtype=torch.float64)
    for matrix, norm in ((hadamard, 8.0), (hadamard * sizes, 8.0 * 64), (torch.diag(sizes), 64.0)):
        assert norm <= norm_bound(matrix) <= norm * (1 + 1e-10)
    rank_one = sizes.unsqueeze(1) * torch.ones(1, 9, dtype=torch.float64)
    assert float((sizes.square().sum() * 9).sqrt()) <= norm_bound(rank_one) * (1 + 1e-15)
    assert norm_bound(torch.zeros(3, 4, dtype=torch.float64)) == 0
    assert norm_bound(torch.full((1, 1), 2.0**1023, dtype=torch.float64)) >= 2.0**1023
    assert 5e-324 <= norm_bound(torch.full((1, 1), 5e-324, dtype=torch.float64)) < 1e-100
    for bad in (math.nan, math.inf):
        assert norm_bound(torch.tensor([[1.0, bad]], dtype=torch.float64)) == math.inf


@pytest.mark.parametrize("lie", ["small", "random", "nan"])
def test_wrong_eigenvectors_cost_strength_only(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    right = torch.linalg.eigh

    def wrong(gram: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = right(gram)
        if lie == "small":
            return values * 0.5, vectors
        return values, torch.randn_like(vectors) if lie == "random" else vectors * math.nan

    monkeypatch.setattr(torch.linalg, "eigh", wrong)
    assert is_norm_at_most(matrix, norm_bound(matrix))


def test_slopes_of_every_activation_stay_in_their_range() -> None:
    kinds = [kind for kind in OPERATORS.values() if issubclass(kind, Activation)]
    assert len(kinds) >= 6
    x, y = torch.randn(2, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    for kind in kinds:
        for example in kind.examples():
            op = example.op
            assert isinstance(op, Activation)
            low, high = op.slope_range
            a, b = (t.clamp(*op.facts.domain) for t in (x, y))
            quotient = ((op.apply(a) - op.apply(b)) / (a - b))[(a - b).abs() > 1e-3]
            assert low <= high <= op.lipschitz and -low <= op.lipschitz, op
            assert float(quotient.min()) >= low - 1e-9 and float(quotient.max()) <= high + 1e-9, op


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_is_its_matrices(name: str) -> None:
    graph = graph_of(name)
    network = TwoLayer.of(graph)
    x = torch.randn(7, *graph.input_shape, dtype=torch.float64)
    values = graph.values(x)
    node = graph.activations[0]
    before = values[graph.nodes[node].parents[0]].flatten(1)
    torch.testing.assert_close(before - before[:1], (x - x[:1]).flatten(1) @ network.weights.T)
    v, g = network.rows(ROWS)
    outputs = values[node].flatten(1) @ v.T + x.flatten(1) @ g.T
    wanted = values[-1].flatten(1) @ ROWS.T
    torch.testing.assert_close(outputs - outputs[:1], wanted - wanted[:1])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_no_row_moves_further_than_its_reach(name: str, seed: int) -> None:
    graph = graph_of(name, seed)
    bounds = SdpBounds(graph)
    assert bounds.solve(ROWS)
    generator = torch.Generator().manual_seed(seed)
    shape = graph.input_shape
    uneven = torch.rand(1, *shape, generator=generator, dtype=torch.float64) * 2
    uneven[0].flatten()[0] = 0.0
    for radius in (torch.full((1, *shape), 0.7, dtype=torch.float64), uneven):
        reach = bounds.reach(ROWS, radius)[0]
        program = exhaustive(bounds.network, ROWS, radius.flatten())
        assert bool((reach >= program * (1 - 1e-12)).all())
        if radius is not uneven:
            assert bool((reach <= GROTHENDIECK * program * (1 + 1e-4)).all())
        center = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
        signs = torch.randint(0, 2, (4000, *shape), generator=generator).double() * 2 - 1
        moved = (graph.forward(center + radius * signs) - graph.forward(center)).flatten(1) @ ROWS.T
        assert bool((moved.abs().amax(0) <= reach).all())
        assert bool((moved.abs().amax(0) <= program * (1 + 1e-12) + 1e-12).all())  # or the oracle is wrong


def paper_matrix(network: TwoLayer, v: Tensor) -> Tensor:
    """M(v, W) of eq. 8, of size 1 + n + m."""
    m, n = network.weights.shape
    coupled = network.weights.T * v  # [n, m]
    matrix = torch.zeros(1 + n + m, 1 + n + m, dtype=torch.float64)
    matrix[0, 1 + n :], matrix[1 : 1 + n, 1 + n :] = 0.0, coupled
    matrix[0, 1 : 1 + n] = coupled.sum(1)  # the 1 that goes with s + 1 is coupled to t: eq. 7
    return matrix + matrix.T


def test_primal_and_dual_of_the_paper_agree() -> None:
    bounds = SdpBounds(graph_of("relu", 5))
    bounds.solve(ROWS)
    network, coupling = bounds.network, Coupling.of(bounds.network, ROWS)
    m, n = network.weights.shape
    ascent = ascend(coupling, begin(coupling, 1), gain=1e-12, sweeps=5000)
    for s, row in enumerate(ROWS):
        matrix = paper_matrix(network, coupling.v[s])
        slopes = ascent.vectors[:, s]
        inputs = torch.nn.functional.normalize(coupling.transposed(ascent.vectors)[:, s], dim=1)
        factor = torch.cat([slopes[:1], inputs, slopes[1:]])
        product = factor @ factor.T
        torch.testing.assert_close(product.diagonal(), torch.ones(1 + n + m, dtype=torch.float64))
        primal = float((matrix * product).sum()) / 4
        found = bounds.certificate(row)
        assert found is not None
        reach = float(found.reach(torch.ones(1, n, dtype=torch.float64)))
        # eq. 14 at the certificate's own c, put in balance; M / 4 = [[0, B], [B^T, 0]] / 2
        a, b = found.left.square(), found.right.square()
        c = torch.cat([a[:1] / a.sum(), b / b.sum(), a[1:] / a.sum()]) * reach * 2
        top = float(torch.linalg.eigvalsh(matrix - torch.diag(c))[-1])
        dual = (len(c) * max(top, 0.0) + float(c.clamp(min=0).sum())) / 4
        assert primal <= reach <= primal * (1 + 1e-4)
        assert abs(dual - reach) <= 1e-9 * reach
        assert abs(found.value - primal) <= 1e-4 * primal


def test_closed_forms() -> None:
    """One input: the program is exact. Two: slopes that cannot agree with both inputs reach 2 sqrt(2), not 2."""
    one = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    bounds = SdpBounds(import_torch(one.eval(), torch.zeros(1, 1, dtype=torch.float64)))
    row, radius = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 0.3, dtype=torch.float64)
    bounds.solve(row)
    products = (one[2].weight[0] * one[0].weight[:, 0]).detach()
    most = 0.3 * max(float(products.clamp(min=0).sum()), -float(products.clamp(max=0).sum()))
    # (1, tau) B has one column: |B_0| + sum |B_i| is the whole range of the sum of products, one-sided
    column = 0.3 * (abs(float(products.sum())) / 2 + float(products.abs().sum()) / 2)
    reach = float(bounds.reach(row, radius))
    assert abs(most - column) < 1e-12 and column <= reach <= column * (1 + 1e-6)

    class Clauser(nn.Module):
        """B = [[1, 1], [1, -1]]: the inequality of Clauser, Horne, Shimony and Holt, with Tsirelson's bound."""

        def forward(self, x: Tensor) -> Tensor:
            return 2 * torch.relu(x[:, :1] - x[:, 1:]) + 2 * x[:, 1:]

    bounds = SdpBounds(import_torch(Clauser().eval(), torch.zeros(1, 2, dtype=torch.float64)))
    bounds.solve(row)
    two = torch.ones(1, 2, dtype=torch.float64)
    assert float(exhaustive(bounds.network, row, two[0])) == 2.0
    assert math.sqrt(8) <= float(bounds.reach(row, two)) * (1 + 1e-15) <= math.sqrt(8) * (1 + 1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_semidefinite_below_spectral_below_frobenius(name: str) -> None:
    graph = graph_of(name, 7)
    bounds = SdpBounds(graph)
    bounds.solve(ROWS)
    radius = torch.full((1, *graph.input_shape), 0.1, dtype=torch.float64)
    reach, spectral, frobenius = (f(ROWS, radius) for f in (bounds.reach, bounds.spectral, bounds.frobenius))
    assert bool((reach <= spectral * (1 + 1e-4)).all()) and bool((spectral <= frobenius * (1 + 1e-9)).all())
    assert bool((spectral >= exhaustive(bounds.network, ROWS, radius.flatten())).all())


def test_any_weights_are_valid() -> None:
    bounds = SdpBounds(graph_of("beside", 3))
    coupling = Coupling.of(bounds.network, ROWS)
    m, n = bounds.network.weights.shape
    generator = torch.Generator().manual_seed(0)
    radius = torch.rand(1, n, generator=generator, dtype=torch.float64)
    program = exhaustive(bounds.network, ROWS, radius[0])
    for attempt in range(30):
        left, right = (torch.rand(k, generator=generator, dtype=torch.float64) * 10 for k in (m + 1, n))
        if attempt == 29:
            left[2] = right[1] = 1e-160
        reach = SdpCertificate.of(coupling, attempt % 4, left, right).reach(radius)
        assert float(reach) >= float(program[attempt % 4])
    good = torch.ones(m + 1, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    for bad in (0.0, -1.0, math.nan, math.inf):
        for side in (0, 1):
            weights = [w.clone() for w in good]
            weights[side][1] = bad
            assert SdpCertificate.of(coupling, 0, *weights).reach(radius).tolist() == [math.inf]


def test_dead_neurons_and_zero_rows() -> None:
    model = dense(nn.ReLU())
    with torch.no_grad():
        model[1].weight[0], model[1].weight[:, 2], model[3].weight[:, 1] = 0.0, 0.0, 0.0  # type: ignore[index]
    bounds = SdpBounds(import_torch(model.double().eval(), torch.zeros(1, 4, dtype=torch.float64)))
    rows = torch.cat([ROWS, torch.zeros(1, 3, dtype=torch.float64)])
    assert bounds.solve(rows)
    radius = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 5, 0]], dtype=torch.float64)
    reach = bounds.reach(rows, radius)
    program = exhaustive(bounds.network, rows, radius[0])
    assert bool((reach[0] >= program * (1 - 1e-12)).all()) and bool((reach[0] <= GROTHENDIECK * program + 1e-9).all())
    assert bool((reach[1] == 0).all()) and float(reach[0, 4]) <= 1e-100 and float(reach[2].max()) <= 1e-100


def query_of(name: str, eps: float, batch: int = 4, seed: int = 0) -> Query:
    graph = graph_of(name, seed)
    x = torch.randn(batch, *graph.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Query.of(graph, LinfBall(x, eps), robustness(graph.forward(x).flatten(1).argmax(1), 3))


def test_certificates_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counting(coupling: Coupling, *args: object, **kwargs: object) -> object:
        made.append(len(coupling.v))
        return ascend(coupling, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(bounds_module, "ascend", counting)
    query, other = query_of("relu", 0.1), query_of("relu", 0.1, seed=1)
    worker = SdpStage()
    first = worker.run(query, Bounds(), Budget()).lower
    assert sum(made) <= 3  # pairs of three classes: a row and its negative share one
    known, again = sum(made), worker.run(query, Bounds(), Budget()).lower
    assert sum(made) == known and first is not None and again is not None and torch.equal(first, again)
    fresh = SdpStage().run(other, Bounds(), Budget()).lower
    mixed = worker.run(other, Bounds(), Budget()).lower  # another network: nothing of the first is used
    assert sum(made) > known and fresh is not None and mixed is not None and torch.equal(fresh, mixed)


def test_saved_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, path = graph_of("convolution"), tmp_path / "pairs.npz"
    bounds = SdpBounds(graph)
    bounds.solve(ROWS)
    bounds.save(path)
    monkeypatch.setattr(bounds_module, "ascend", None)  # loading solves nothing
    loaded = SdpBounds.load(path, graph)
    assert len(loaded) == len(bounds) and loaded.solve(ROWS)
    radius = torch.full((1, *graph.input_shape), 0.1, dtype=torch.float64)
    assert torch.equal(loaded.reach(ROWS, radius), bounds.reach(ROWS, radius))
    assert SdpBounds.load(path, graph.to(dtype=torch.float64)).digest == bounds.digest
    with pytest.raises(InputError, match="another network"):
        SdpBounds.load(path, graph_of("convolution", 1))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("text.npz", "missing.npz"):
        with pytest.raises(InputError, match="no saved certificates"):
            SdpBounds.load(tmp_path / name, graph)


def test_a_forged_file_proves_nothing_wrong(tmp_path: Path) -> None:
    graph, path = graph_of("relu"), tmp_path / "pairs.npz"
    bounds = SdpBounds(graph)
    bounds.solve(ROWS)
    bounds.save(path)
    radius = torch.full((1, 4), 0.1, dtype=torch.float64)
    program = exhaustive(bounds.network, ROWS, radius[0])
    with np.load(path) as archive:
        arrays = dict(archive)
    for change in (1e-3, 0.0, -1.0, np.nan):
        forged = {**arrays, "left": arrays["left"] * change, "right": arrays["right"] * np.linspace(0.5, 2, 4)}
        np.savez(path, **forged)
        assert bool((SdpBounds.load(path, graph).reach(ROWS, radius)[0] >= program).all())
    np.savez(path, **{**arrays, "left": arrays["left"][:, 1:]})
    with pytest.raises(InputError, match="do not fit"):
        SdpBounds.load(path, graph)


def tiny(seed: int) -> tuple[TinyNetwork, np.ndarray, float]:
    """A network of one hidden layer with weights in multiples of 1/8, a point and a radius."""
    generator = np.random.default_rng(seed)
    n, m = int(generator.integers(1, 4)), int(generator.integers(1, 5))

    def matrix(*shape: int) -> np.ndarray:
        return np.round(generator.normal(size=shape) * 8) / 8

    steps = (
        AffineStep(((0, matrix(m, n)),), matrix(m)), ReluStep(1), AffineStep(((2, matrix(3, m)),), matrix(3)),
    )  # fmt: skip
    return TinyNetwork(n, steps), matrix(n), float(np.ldexp(1.0, -int(generator.integers(0, 6))))


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_the_stage_against_exhaustion(first: int) -> None:
    verdicts, costs = [], np.eye(3)
    for seed in range(first, first + 20):
        network, center, radius = tiny(seed)
        label = int(network.forward(center).argmax())
        lower, upper = center - radius, center + radius
        least = [
            exact_minimum(network, costs[label] - costs[o], 0.0, lower, upper).value for o in range(3) if o != label
        ]
        inputs = Box(torch.from_numpy(lower)[None], torch.from_numpy(upper)[None])
        verifier = Verifier(TinyModule(network).eval(), torch.from_numpy(center)[None], stages=["sdp"])
        result = verifier.run(inputs, robustness(torch.tensor([label]), 3))
        margins = [float(m) for o, m in enumerate(result.margins[0]) if o != label]
        assert all(m <= e + 1e-12 for m, e in zip(margins, least, strict=True)), seed
        assert result.verdict[0] is not Verdict.FALSIFIED
        if result.verdict[0] is Verdict.VERIFIED:
            assert min(least) > 0
        verdicts.append((result.verdict[0], min(least) > 0))
    assert (Verdict.VERIFIED, True) in verdicts and any(v is Verdict.UNKNOWN for v, _ in verdicts)


def test_a_set_is_bounded_by_its_box() -> None:
    """Rows at every corner of a cut ball stay above their bounds; without a radius a bound is the row itself."""
    graph = graph_of("relu")
    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spec = robustness(torch.tensor([0, 1, 2]), 3)
    worker, corners = SdpStage(), torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).double()
    for inputs in (LinfBall(x, 0.4, (0.0, 1.0)), LinfBall(x, 0.0)):
        lower = worker.run(Query.of(graph, inputs, spec), Bounds(), Budget()).lower
        assert lower is not None
        low, high = inputs.box()
        for corner in corners:
            assert bool((lower <= spec.values(graph.forward(low + corner * (high - low)))).all())
    torch.testing.assert_close(lower, spec.values(graph.forward(x)), rtol=1e-12, atol=1e-12)


def test_what_is_supported() -> None:
    query = query_of("relu", 0.1)
    deep = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    linear = nn.Sequential(nn.Linear(4, 3)).double()
    assert SdpStage().supports(query) and SdpStage(entries=24).supports(query)
    assert not SdpStage(entries=23).supports(query)
    for model in (deep, linear):
        graph = import_torch(model.eval(), torch.zeros(1, 4, dtype=torch.float64))
        assert not SdpStage().supports(replace(query, graph=graph))
        with pytest.raises(InputError, match="one activation layer"):
            SdpBounds(graph)


def test_no_time_no_bounds() -> None:
    query = query_of("relu", 0.1)
    report = stage("sdp").run(query, Bounds(), Budget(0.0))
    assert report.exhausted and report.lower is not None and bool((report.lower == -torch.inf).all())
    result = verify(dense(nn.ReLU()).eval(), torch.zeros(2, 4), 0.1, stages=["sdp"], budget=0.0)
    assert all(v is Verdict.UNKNOWN for v in result.verdict)


def test_a_stopped_ascent_is_sound_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of("tanh", 2)
    bounds = SdpBounds(graph)
    radius = torch.ones(1, 4, dtype=torch.float64)
    program = exhaustive(bounds.network, ROWS, radius[0])

    def stopped(coupling: Coupling, vectors: Tensor, until: float) -> object:
        return replace(found := ascend(coupling, vectors, sweeps=1), finished=torch.zeros_like(found.finished))

    with monkeypatch.context() as patch:
        patch.setattr(bounds_module, "ascend", stopped)
        assert not bounds.solve(ROWS, 100.0)
    early = bounds.reach(ROWS, radius)[0]
    assert bool((early >= program).all()) and bool(early.isfinite().all())
    assert bounds.solve(ROWS)
    late = bounds.reach(ROWS, radius)[0]
    assert bool((late >= program * (1 - 1e-12)).all()) and bool((late <= early).all()) and bool((late < early).any())


def test_an_ascent_stops_on_time() -> None:
    coupling = Coupling.of(TwoLayer.of(graph_of("relu")), ROWS)
    assert not ascend(coupling, begin(coupling), until=0.0).finished.any()
    assert ascend(coupling, begin(coupling)).finished.all()
    assert SdpBounds(graph_of("relu")).solve(ROWS, 0.0) is False


def test_only_open_rows_are_bounded() -> None:
    query = query_of("sigmoid", 0.1)
    query = replace(query, open=torch.tensor([[True, False], [False, False], [True, True], [False, True]]))
    lower = SdpStage().run(query, Bounds(), Budget()).lower
    assert lower is not None and torch.equal(lower.isfinite(), query.open)


def test_a_certificate_proves_it_again() -> None:
    torch.manual_seed(0)
    model = dense(nn.ReLU(), neurons=12).eval()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    result = verify(model, x, 0.02, stages=["sdp"])
    assert result.verified.any()
    for certificate in filter(None, result.certificate):
        (proof,) = certificate.proofs
        assert proof.stage == "sdp" and isinstance(proof.evidence, SdpEvidence)
        again = certificate.recompute()
        torch.testing.assert_close(again[proof.rows], certificate.lower[proof.rows])
        assert bool((again[proof.rows] > 0).all()) and proof.dual_variables() == {}
        empty = replace(proof, run=replace(proof.run, evidence=replace(proof.evidence, certificates={})))
        assert bool((empty.recompute() == -torch.inf).all())
    with torch.no_grad():
        model[3].weight.mul_(2)
    with pytest.raises(InputError, match="another network"):
        next(filter(None, result.certificate)).recompute()


def test_rows_and_radii_may_be_on_another_device() -> None:
    """A device that is not there: what would mix devices fails on it as on a real one."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    bounds = SdpBounds(import_torch(model, torch.zeros(1, 4)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = torch.ones(2, 2, device="cuda")
        coupling = Coupling.of(bounds.network, rows)
        tensors = (
            coupling.v,
            coupling.g,
            coupling.first,
            coupling.rest,
            coupling.transposed(torch.ones(4, 2, 1).double()),
        )
        assert {t.device.type for t in tensors} == {"cpu"}
