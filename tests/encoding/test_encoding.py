"""Networks as programs: every affine operator's matrix, hulls, and the relaxation against one written out densely."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import block_array, csr_array, eye_array, kron
from torch import Tensor

from properties import Box, LinfBall, Specification
from solvers import Program, backend
from verifier.bound_map import Bounds, Interval, Provenance
from verifier.budget import Budget
from verifier.encoding import Encoder, Encoding, EncodingError, ProgramSource
from verifier.encoding.hull import Hull, facets
from verifier.graph import Graph, GraphBuilder
from verifier.graph.torch_import import import_torch
from verifier.ops.base import REGISTRY as OPERATORS
from verifier.ops.base import Activation, Affine, OperatorExample, SlopeRule
from verifier.ops.clip import Clip
from verifier.ops.linear import Linear
from verifier.ops.relu import ReLU
from verifier.ops.sparse import triplets
from verifier.query import Query
from verifier.relaxation.multipliers import corner_minimum, dual_bound
from verifier.stages.dual import DualStage
from verifier.testing.networks import random_network
from verifier.verdict import Trust

Array = NDArray[np.float64]
AFFINE = [
    pytest.param(example, id=f"{name}-{i}")
    for name, kind in sorted(OPERATORS.items())
    if not inspect.isabstract(kind) and issubclass(kind, Affine)
    for i, example in enumerate(kind.examples())
]
ACTIVATIONS = [
    pytest.param(example.op, id=f"{name}-{i}")
    for name, kind in sorted(OPERATORS.items())
    if not inspect.isabstract(kind) and issubclass(kind, Activation)
    for i, example in enumerate(kind.examples())
]
#: one of each structure: plain, several slopes, several kinks, concave, smooth, skips, pools, concatenation, branches
NETWORKS = [
    "dense",
    "leaky",
    "relu6",
    "hardtanh",
    "abs",
    "sigmoid",
    "skip",
    "strided",
    "max pool",
    "concat",
    "branches",
]


@pytest.mark.parametrize("example", AFFINE)
def test_matrices_of_affine_operators(example: OperatorExample) -> None:
    op = example.op.map_tensors(lambda t: t.double() if t.is_floating_point() else t)
    assert isinstance(op, Affine)
    generator = torch.Generator().manual_seed(3)
    xs = [torch.randn(4, *s, generator=generator, dtype=torch.float64) for s in example.shapes]
    matrices = op.to_sparse(example.shapes)
    assert len(matrices) == len(xs)
    total = op.apply(*(torch.zeros_like(x) for x in xs)).reshape(4, -1).numpy()
    for matrix, x in zip(matrices, xs, strict=True):
        assert matrix.dtype == np.float64 and matrix.has_canonical_format
        total = total + (matrix @ x.reshape(4, -1).numpy().T).T
    np.testing.assert_allclose(total, op.apply(*xs).reshape(4, -1).numpy(), rtol=1e-10, atol=1e-10)
    for name, expected in triplets(matrices).items():
        found = op.triplets(example.shapes)[name]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_matrices_hold_what_the_operator_reads_and_no_more() -> None:
    from verifier.ops.conv import Conv2d
    from verifier.ops.pool import AveragePool
    from verifier.ops.shape import Permute

    (conv,) = Conv2d(torch.ones(3, 2, 3, 3), None, (2, 2), (1, 1)).to_sparse([(2, 8, 8)])
    assert conv.shape == (48, 128) and conv.nnz == 3 * 2 * 11 * 11  # 3 * 4 - 1 taps per axis lie inside
    (pool,) = AveragePool((2, 2)).to_sparse([(3, 4, 4)])
    assert pool.nnz == 48
    (moved,) = Permute((1, 0)).to_sparse([(3, 5)])
    assert moved.nnz == 15


def intervals(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """[1, count]: intervals of all sizes around zero, some narrow, some on one side."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randn(2, count, generator=generator, dtype=torch.float64)
    ends = ends * 10.0 ** torch.randint(-3, 2, (2, count), generator=generator)
    return ends.amin(0)[None], ends.amax(0)[None]


def inside(op: Activation) -> tuple[float, float]:
    """The domain, but for where the function may be infinitely steep."""
    first, last = op.facts.domain
    return first + 0.05, last - 0.05


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_sides_hold_the_corners_and_touch_them(op: Activation) -> None:
    lower, upper = (t.clamp(*inside(op)) for t in intervals(200))
    pieces = op.pieces(lower, upper)
    x, y = pieces.x[:, 0].numpy(), pieces.y[:, 0].numpy()
    scale = 1 + np.abs(y).max(0) + np.abs(x).max(0)
    for side in facets(x, y):
        above = y - side.slope * x - side.bias
        worst = (above if side.below else -above).min(0) / scale
        assert worst.min() > -1e-12 and np.abs(worst).max() < 1e-12


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_hull_is_the_polygon_of_the_corners(op: Activation) -> None:
    """One neuron whose input is the program's only column: any functional of (z, y) has the corners' minimum."""
    lower, upper = (t.clamp(*inside(op)) for t in intervals(12, seed=1))
    generator = torch.Generator().manual_seed(2)
    nu_hat, nu = (torch.randn(1, 3, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = corner_minimum(op.pieces(lower, upper), nu_hat, nu)
    unstable = op.unstable(lower, upper)[0]
    graph = single(op)
    for k in range(12):
        low, high = lower[:, k : k + 1], upper[:, k : k + 1]
        if not unstable[k] or high - low < 1e-2:
            continue  # tolerances of the solver are absolute
        source = ProgramSource.of_inputs(Box(low - 1, high + 1))
        encoding = Encoder(graph).encode(source, Bounds({0: Interval.of(low, high, Provenance("test", Trust.FLOAT))}))
        cost = encoding.cost(nu_hat[0, :, k : k + 1].numpy(), np.zeros(3))[0]
        cost[:, 0] -= nu[0, :, k].numpy()
        found = [solve(encoding.program, c) for c in cost]
        np.testing.assert_allclose(found, expected[0, :, k].numpy(), rtol=1e-6, atol=1e-6)


def single(op: Activation) -> Graph:
    builder = GraphBuilder((1,))
    builder.add(op, (0,))
    return builder.build().to(dtype=torch.float64)


def solve(program: Program, cost: Array) -> float:
    with backend("highs").load(program) as session:
        return session.minimise(cost).dual_bound


def query_of(name: str, seed: int = 0) -> tuple[Query, Bounds]:
    """Two examples, a few random rows, and the adaptive dual's bounds."""
    net = random_network(name, seed, batch=2)
    graph = import_torch(net.model, net.x[:1]).to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, 3, graph.nodes[-1].size, generator=generator, dtype=torch.float64)
    spec = Specification(rows, torch.randn(2, 3, generator=generator, dtype=torch.float64), torch.arange(3))
    query = Query.of(graph, LinfBall(net.x, net.eps), spec)
    with torch.no_grad():
        return query, DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget()).bounds


def encoded(query: Query, bounds: Bounds, example: int) -> tuple[Query, Bounds, Encoding]:
    one = torch.tensor([example])
    query, bounds = query.select(one), bounds.select(one)
    return query, bounds, Encoder(query.graph).relaxed(query.inputs, bounds)


def costs_of(query: Query, encoding: Encoding) -> tuple[Array, Array]:
    return encoding.cost(query.spec.rows[0].numpy(), query.spec.offset[0].numpy())


def written_out(query: Query, bounds: Bounds) -> Array:
    """The same relaxation as one equality per node, each unstable neuron a convex combination of its corners."""
    graph, nodes = query.graph, query.graph.nodes
    sizes = [n.size for n in nodes]
    start = np.concatenate([[0], np.cumsum(sizes)])
    low, high = (b.flatten().numpy() for b in query.inputs.box(torch.float64))
    limits = [np.stack([low, high], 1), np.tile([-np.inf, np.inf], (start[-1] - sizes[0], 1))]
    equalities, right, weights = [], [], []
    for i in range(1, len(nodes)):
        op, shapes = nodes[i].op, graph.parent_shapes(i)
        block = [csr_array((sizes[i], n)) for n in sizes]
        block[i] = eye_array(sizes[i], format="csr")
        if isinstance(op, Affine):
            for parent, matrix in zip(nodes[i].parents, matrices(op, shapes), strict=True):
                block[parent] = block[parent] - csr_array(matrix)
            equalities.append((block, None))
            right.append(op.apply(*(torch.zeros(1, *s, dtype=torch.float64) for s in shapes)).flatten().numpy())
            continue
        assert isinstance(op, Activation)
        interval = bounds[nodes[i].parents[0]]
        pieces, unstable = op.pieces(interval.lower, interval.upper), op.unstable(interval.lower, interval.upper)
        lines = op.relax(interval.lower, interval.upper, SlopeRule.ADAPTIVE)
        free = np.flatnonzero(unstable.numpy().ravel())
        slope = np.where(unstable, 0.0, lines.lower_slope).ravel()
        bias = np.where(unstable, 0.0, lines.lower_bias).ravel()
        block[nodes[i].parents[0]] = csr_array(np.diag(-slope))
        pick = eye_array(sizes[i], format="csr")[free]
        x, y = (p.flatten(1).numpy()[:, free] for p in (pieces.x, pieces.y))
        at = len(weights)
        weights.append(x.size)
        equalities.append((block, (at, spread_out(y, free, sizes[i]))))
        right.append(bias)
        block = [csr_array((len(free), n)) for n in sizes]
        block[nodes[i].parents[0]] = pick
        equalities.append((block, (at, spread_out(x, np.arange(len(free)), len(free)))))
        right.append(np.zeros(len(free)))
        block = [csr_array((len(free), n)) for n in sizes]
        equalities.append((block, (at, -kron(np.ones((1, len(x))), eye_array(len(free)), format="csr"))))
        right.append(np.ones(len(free)))
    table = []
    for block, own in equalities:
        extra = [csr_array((block[0].shape[0], n)) for n in weights]
        if own is not None:
            extra[own[0]] = -own[1]
        table.append([*block, *extra])
    limits.append(np.tile([0.0, np.inf], (sum(weights), 1)))
    matrix, found = block_array(table, format="csr"), []
    for row, offset in zip(query.spec.rows[0].numpy(), query.spec.offset[0].numpy(), strict=True):
        cost = np.zeros(matrix.shape[1])
        cost[start[-2] : start[-1]] = row
        result = linprog(cost, A_eq=matrix, b_eq=np.concatenate(right), bounds=np.concatenate(limits), method="highs")
        assert result.status == 0, result.message
        found.append(result.fun + offset)
    return np.array(found)


def spread_out(corners: Array, rows: Array, size: int) -> csr_array:
    """[size, K * k]: corner j of neuron i in row rows[i], column j * k + i."""
    count, k = corners.shape
    entries = (corners.ravel(), (np.tile(rows, count), np.arange(count * k)))
    return csr_array(entries, shape=(size, count * k))


def matrices(op: Affine, shapes: list[tuple[int, ...]]) -> list[Array]:
    zeros = [torch.zeros(1, *s, dtype=torch.float64) for s in shapes]
    origin, found = op.apply(*zeros), []
    for i, zero in enumerate(zeros):
        n = zero.numel()
        units = torch.eye(n, dtype=torch.float64).reshape(n, *zero.shape[1:])
        others = [units if j == i else z.expand(n, *z.shape[1:]) for j, z in enumerate(zeros)]
        found.append((op.apply(*others) - origin).reshape(n, -1).T.numpy())
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_the_program_is_the_relaxation(name: str) -> None:
    """Its optimum is that of the relaxation written out, and its duals recompute it: strong duality."""
    query, bounds, encoding = encoded(*query_of(name), 0)
    costs, constants = costs_of(query, encoding)
    duals, found = [], []
    with backend("highs").load(encoding.program) as session:
        for cost in costs:
            answer = session.minimise(cost)
            assert answer.row_duals is not None
            duals.append(answer.row_duals)
            found.append(answer.dual_bound)
    found = np.array(found) + constants
    expected = written_out(query, bounds)
    scale = 1 + np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-6 * scale
    recomputed = dual_bound(query, bounds, encoding.multipliers(np.stack(duals)))[0].numpy()
    assert np.abs(recomputed - expected).max() < 1e-6 * scale
    assert (recomputed <= expected + 1e-6 * scale).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_program_holds_the_network(name: str) -> None:
    query, _, encoding = encoded(*query_of(name, seed=1), 1)
    generator = torch.Generator().manual_seed(0)
    costs, constants = costs_of(query, encoding)
    for _ in range(5):
        x = query.inputs.sample(generator)
        values = [v.flatten().numpy() for v in query.graph.values(x)]
        point = np.zeros(encoding.program.columns)
        point[encoding.inputs] = x.flatten().numpy()
        for hull in encoding.hulls:
            own = hull.neurons
            parent = query.graph.nodes[own.node].parents[0]
            Hull.fill(own, hull.out, values[parent][own.index], values[own.node][own.index], point)
        scale = 1 + np.abs(point).max()
        assert encoding.program.violation(point) < 1e-9 * scale
        expected = query.spec.values(torch.from_numpy(values[-1])[None])[0].numpy()
        np.testing.assert_allclose(costs @ point + constants, expected, rtol=1e-9, atol=1e-9 * scale)
        torch.testing.assert_close(encoding.input_of(point), x[0])


@pytest.mark.parametrize("name", ["dense", "hardtanh", "max pool", "sigmoid"])
def test_starts_are_bases_and_change_no_answer(name: str) -> None:
    query, _, encoding = encoded(*query_of(name), 0)
    costs, _ = costs_of(query, encoding)
    steps = []
    for cost, start in zip(costs, encoding.starts(costs), strict=True):
        assert (start.columns == 0).sum() + (start.rows == 0).sum() == encoding.program.rows
        with backend("highs").load(encoding.program) as cold, backend("highs").load(encoding.program) as session:
            session.start(start)
            plain, answer = cold.minimise(cost), session.minimise(cost)
        assert answer.dual_bound == pytest.approx(plain.dual_bound, rel=1e-7, abs=1e-7)
        steps.append((answer.iterations, plain.iterations))
    assert sum(a for a, _ in steps) <= sum(b for _, b in steps)


def test_no_entry_is_dropped_for_being_small() -> None:
    weight = torch.tensor([[1e-11, 1.0], [1.0, -1.0]], dtype=torch.float64)
    builder = GraphBuilder((2,))
    builder.add(Linear(weight), (builder.add(ReLU(), (builder.add(Linear(weight), (0,)),)),))
    graph = builder.build()
    low = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    bounds = Bounds({1: Interval.of(2 * low, -2 * low, Provenance("test", Trust.FLOAT))})
    program = Encoder(graph).relaxed(Box(low, -low), bounds).program
    assert (np.abs(program.matrix.data) == 1e-11).any()


def test_inputs_that_cannot_move_have_no_column() -> None:
    query, bounds = query_of("dense")
    x = query.inputs.center().clone()
    x[:, 2:] = 0.7
    fixed = Box(torch.where(x == 0.7, x, x - 0.1), torch.where(x == 0.7, x, x + 0.1))
    query = Query.of(query.graph, fixed, query.spec)
    bounds = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget()).bounds
    one, known, encoding = encoded(query, bounds, 0)
    assert len(encoding.source.lower) == 2
    costs, constants = costs_of(one, encoding)
    found = np.array([solve(encoding.program, c) for c in costs]) + constants
    np.testing.assert_allclose(found, written_out(one, known), rtol=1e-6, atol=1e-6)
    assert encoding.input_of(np.zeros(encoding.program.columns))[2:].eq(0.7).all()


@pytest.mark.parametrize("name", ["dense", "skip", "max pool"])
def test_programs_that_end_before_the_output(name: str) -> None:
    """A bound of a pre-activation from a prefix is between the dual's and what points reach."""
    query, bounds = query_of(name)
    query, bounds = query.select(torch.tensor([0])), bounds.select(torch.tensor([0]))
    node = query.graph.pre_activations[-1]
    encoding = Encoder(query.graph).encode(ProgramSource.of_inputs(query.inputs), bounds, node)
    size = query.graph.nodes[node].size
    costs, constants = encoding.cost(np.eye(size), np.zeros(size))
    reached = torch.stack(
        [query.graph.values(query.inputs.sample(torch.Generator().manual_seed(i)))[node][0] for i in range(50)]
    )
    for j, (cost, constant) in enumerate(zip(costs, constants, strict=True)):
        low, high = solve(encoding.program, cost) + constant, -solve(encoding.program, -cost) + constant
        assert bounds[node].lower.flatten()[j] - 1e-7 <= low <= reached[:, :].flatten(1)[:, j].min() + 1e-7
        assert reached.flatten(1)[:, j].max() - 1e-7 <= high <= bounds[node].upper.flatten()[j] + 1e-7


def test_a_mask_of_wanted_entries_leaves_out_what_they_do_not_need() -> None:
    query, bounds, whole = encoded(*query_of("strided"), 0)
    node = query.graph.pre_activations[-1]
    wanted = np.zeros(query.graph.nodes[node].size, dtype=bool)
    wanted[3] = True
    encoder = Encoder(query.graph)
    part = encoder.encode(ProgramSource.of_inputs(query.inputs), bounds, node, wanted=wanted)
    full = encoder.encode(ProgramSource.of_inputs(query.inputs), bounds, node)
    assert part.program.rows <= full.program.rows <= whole.program.rows
    asked = ((e, *e.cost(wanted[None], np.zeros(1))) for e in (part, full))
    found = [solve(e.program, cost[0]) + constant[0] for e, cost, constant in asked]
    assert found[0] == pytest.approx(found[1], rel=1e-7, abs=1e-7)


def test_programs_that_start_at_a_region() -> None:
    """With the values of a node as center + generators . e, rows are at most what they are at points of the region."""
    query, bounds = query_of("dense")
    query, bounds = query.select(torch.tensor([0])), bounds.select(torch.tensor([0]))
    node = query.graph.pre_activations[-1]
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(query.graph.nodes[node].shape, generator=generator, dtype=torch.float64)
    errors = 0.3 * torch.randn(6, *query.graph.nodes[node].shape, generator=generator, dtype=torch.float64)
    radius = errors.abs().sum(0)
    source_bounds = Provenance("test", Trust.FLOAT)
    known = Bounds({node: Interval.of((center - radius)[None], (center + radius)[None], source_bounds)})
    encoding = Encoder(query.graph).encode(ProgramSource.of_region(node, center, errors), known)
    assert encoding.inputs == slice(0, 6)
    costs, constants = costs_of(query, encoding)
    lower = np.array([solve(encoding.program, c) for c in costs]) + constants
    e = 2 * torch.rand(200, 6, generator=generator, dtype=torch.float64) - 1
    values = {node: center + e @ errors}
    for i in range(node + 1, len(query.graph.nodes)):
        own = query.graph.nodes[i]
        assert own.op is not None
        values[i] = own.op.apply(*(values[p] for p in own.parents))
    reached = query.spec.rows[0] @ values[query.graph.output].T + query.spec.offset[0][:, None]
    assert (lower <= reached.amin(1).numpy() + 1e-7).all()
    with pytest.raises(EncodingError, match="input"):
        Encoder(query.graph).encode(
            ProgramSource.of_region(node, center, errors), bounds, query.graph.pre_activations[0]
        )


def test_kept_intervals_are_constraints() -> None:
    """A split that makes a neuron stable counts where it is kept, and only there."""
    builder = GraphBuilder((1,))
    builder.add(Clip(0.0, None), (0,))
    graph = builder.build().to(dtype=torch.float64)
    inputs = Box(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    for low, high, minimum, maximum in ((0.25, 1.0, 0.25, 1.0), (-1.0, -0.5, 0.0, 0.0)):
        interval = Interval.of(torch.tensor([[low]]).double(), torch.tensor([[high]]).double(),
                               Provenance("split", Trust.FLOAT))  # fmt: skip
        bounds, kept = Bounds({0: interval}), {1: torch.ones(1, 1, dtype=torch.bool)}
        free, held = (Encoder(graph).relaxed(inputs, bounds, kept=k) for k in (None, kept))
        cost = held.cost(np.array([[1.0], [-1.0]]), np.zeros(2))[0]
        assert [solve(held.program, c) for c in cost] == pytest.approx([minimum, -maximum])
        assert solve(free.program, free.cost(np.array([[1.0]]), np.zeros(1))[0][0]) <= minimum
        # the input itself is held
        z = np.zeros(held.program.columns)
        z[0] = 1.0
        assert [solve(held.program, z), solve(held.program, -z)] == pytest.approx([low, -high])
        query = Query.of(graph, inputs, Specification(torch.tensor([[[1.0], [-1.0]]]).double(),
                                                      torch.zeros(1, 2).double(), torch.arange(2)))  # fmt: skip
        with backend("highs").load(held.program) as session:
            duals = np.stack([session.minimise(c).row_duals for c in cost])
        lower = dual_bound(query, bounds, held.multipliers(duals), kept)
        assert lower[0].tolist() == pytest.approx([minimum, -maximum], abs=1e-5)  # float32 pays for its roundings


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_unknown_bounds_are_an_error(bad: float) -> None:
    query, bounds = query_of("dense")
    node = query.graph.pre_activations[0]
    upper = bounds[node].upper.clone()
    upper[0, 0] = bad
    broken = Interval.of(bounds[node].lower, upper, Provenance("test", Trust.FLOAT))
    with pytest.raises(EncodingError, match="finite"):
        encoded(query, Bounds({**dict(bounds.items()), node: broken}), 0)
    with pytest.raises(EncodingError, match="no bounds"):
        encoded(query, Bounds(), 0)
