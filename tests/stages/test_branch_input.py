"""Branch and bound on inputs: against exhaustion and dense grids, and every part of its evidence by itself."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.evidence import boxes_of
from helpers.oracle import exact_minimum, random_piecewise, random_tiny
from helpers.real_data import require
from helpers.tiny_torch import TinyModule
from torch import Tensor, nn

from properties import Box, L2Ball, Specification, robustness
from verifier import Trust, Verdict, verify
from verifier.bound_map import Bounds
from verifier.branching.evidence import BoxEvidence
from verifier.branching.inputs_bounds import Kernel
from verifier.branching.inputs_search import BoxSearch, OpenBoxes
from verifier.branching.inputs_tree import BoxTree
from verifier.budget import Budget
from verifier.errors import InternalError
from verifier.graph import Graph
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.dual import intermediate
from verifier.relaxation.plan import PassPlan
from verifier.stages import Stage, StageReport
from verifier.stages.branch_input import BranchInputStage
from verifier.stages.dual import DualStage


def run(query: Query, seconds: float = 20.0) -> StageReport:
    return BranchInputStage().run(query, Bounds(), Budget(seconds))


def imported(model: nn.Module, inputs: int) -> Graph:
    return import_torch(model.double().eval(), torch.zeros(1, inputs, dtype=torch.float64)).to(dtype=torch.float64)


def random_model(seed: int, inputs: int = 2, width: int = 8, outputs: int = 3, act: type = nn.ReLU) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, width), act(), nn.Linear(width, width), act(), nn.Linear(width, outputs)
    ).double()  # fmt: skip


def random_spec(seed: int, clause: list[int], outputs: int = 3, shift: float = 0.1) -> Specification:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, len(clause), outputs, generator=generator, dtype=torch.float64)
    offset = shift + 0.3 * torch.randn(1, len(clause), generator=generator, dtype=torch.float64)
    return Specification(rows, offset, torch.tensor(clause))


def grid(box: Box, points: int = 121) -> Tensor:
    sides = [
        torch.linspace(float(a), float(b), points, dtype=torch.float64)
        for a, b in zip(box.lower[0], box.upper[0], strict=True)
    ]
    return torch.cartesian_prod(*sides)


def clause_minima(query: Query, x: Tensor) -> Tensor:  # [k, n] -> [C]
    with torch.no_grad():
        y = query.graph.forward(x).flatten(1)
    values = torch.einsum("so,bo->bs", query.spec.rows[0], y) + query.spec.offset
    return query.spec.select(torch.zeros(len(x), dtype=torch.int64)).per_clause(values).amin(0)


def worst_at(query: Query, x: Tensor) -> float:
    with torch.no_grad():
        return float(query.spec.worst(query.spec.values(query.graph.forward(x).flatten(1)))[0])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", [random_tiny, random_piecewise])
def test_decides_as_the_oracle_does(kind, seed: int) -> None:
    generator = np.random.default_rng(700 + seed)
    network = kind(generator)
    center, radius = generator.normal(size=network.inputs), 0.2 + generator.random(network.inputs)
    low, high = center - radius, center + radius
    box = Box(torch.from_numpy(low).unsqueeze(0), torch.from_numpy(high).unsqueeze(0))
    graph = import_torch(TinyModule(network).eval(), box.center()).to(dtype=torch.float64)
    query = Query.of(graph, box, robustness(torch.tensor([0]), 3))
    truth = [exact_minimum(network, query.spec.rows[0, s].numpy(), 0.0, low, high).value for s in range(2)]
    report = run(query, 0.3 if abs(min(truth)) <= 1e-6 else 20.0)
    if min(truth) > 1e-6:
        assert report.clauses is not None and bool((report.clauses > 0).all())
        assert all(float(b) <= t + 1e-9 for b, t in zip(report.clauses[0], truth, strict=True))
    elif min(truth) < -1e-6:
        assert report.candidates is not None and worst_at(query, report.candidates) < 0
        assert bool(query.inputs.contains(report.candidates).all())
    else:
        assert report.clauses is None or not bool((report.clauses > 0).all())


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("seed", range(8))
def test_clauses_of_several_rows_against_a_grid(seed: int, act: type) -> None:
    clause = [[0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1, 1]][seed % 4]
    graph = imported(random_model(seed, act=act), 2)
    box = Box(torch.tensor([[-1.0, -0.8]]), torch.tensor([[0.9, 1.0]]))
    query = Query.of(graph, box, random_spec(seed, clause, shift=0.5))
    least = clause_minima(query, grid(box))
    report = run(query)
    if float(least.min()) > 0.01:
        assert report.clauses is not None
        assert bool((report.clauses[0] > 0).all()) and bool((report.clauses[0] <= least + 1e-9).all())
    elif float(least.min()) < -1e-6:
        assert report.clauses is None or not bool((report.clauses > 0).all())
        assert report.candidates is not None and worst_at(query, report.candidates) < 0


class Corner(nn.Module):
    """Two outputs on [0, 2]: one positive up to 1 and a bit, the other from there on; no mean of them all the way."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.125 - torch.relu(1 - x), 0.125 - torch.relu(x - 1)], 1)


def corner_query(shift: float = 0.0) -> Query:
    graph = imported(Corner(), 1)
    spec = Specification(
        torch.eye(2).double().unsqueeze(0), torch.full((1, 2), shift, dtype=torch.float64), torch.tensor([0, 0])
    )
    return Query.of(graph, Box(torch.tensor([[0.0]]), torch.tensor([[2.0]])), spec)


def test_parts_proved_by_different_rows() -> None:
    query = corner_query()
    report = run(query)
    assert report.lower is not None and bool((report.lower == -torch.inf).all())  # no row holds everywhere
    assert report.clauses is not None and 0 < float(report.clauses[0, 0]) <= 0.125 + 1e-12
    tree = boxes_of(report.evidence) if isinstance(report.evidence, BoxEvidence) else None
    assert tree is not None and (tree.weights > 0).any(0).all() and len(tree.side) > 1


class Straight(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.0 * x


def test_weights_prove_where_no_row_does() -> None:
    # max(x, -x) + 0.1 > 0: neither row is positive everywhere, their mean is
    graph = imported(Straight(), 1)
    sign = torch.tensor([[[1.0], [-1.0]]]).double()
    spec = Specification(sign, torch.full((1, 2), 0.1).double(), torch.tensor([0, 0]))
    query = Query.of(graph, Box(torch.tensor([[-1.0]]), torch.tensor([[1.0]])), spec)
    report = run(query)
    tree = boxes_of(report.evidence) if isinstance(report.evidence, BoxEvidence) else None
    assert tree is not None and len(tree.side) == 1 and bool((tree.weights > 0.4).all())
    assert float(tree.recompute(query, report.bounds)[0]) > 0.09


def verdict_of(query: Query, model: nn.Module, **options: object) -> tuple[Verdict, object]:
    result = verify(
        model, query.inputs.center(), input_set=query.inputs, spec=query.spec, stages=["branch-input"], **options
    )  # type: ignore[arg-type]
    return result.verdict[0], result


def test_the_cascade_takes_clauses_and_their_certificate_recomputes() -> None:
    verdict, result = verdict_of(corner_query(), Corner().eval())
    certificate = result.certificate[0]  # type: ignore[attr-defined]
    assert verdict is Verdict.VERIFIED and certificate.trust is Trust.CHECKED
    again = certificate.recompute_clauses()
    assert again.shape == (1,) and 0 < float(again[0]) <= 0.125 + 1e-6
    assert bool((certificate.recompute() == -torch.inf).all())


def test_ties_are_not_verified() -> None:
    # at x = 1 both rows are exactly zero
    verdict, result = verdict_of(corner_query(-0.125), Corner().eval(), example_budget=0.4)
    assert verdict is Verdict.UNKNOWN and result.certificate[0] is None  # type: ignore[attr-defined]
    slightly, _ = verdict_of(corner_query(-0.125 + 1e-4), Corner().eval())
    assert slightly is Verdict.VERIFIED
    broken, _ = verdict_of(corner_query(-0.125 - 1e-4), Corner().eval())
    assert broken is Verdict.FALSIFIED


class Claims(Stage):
    """Reports clause bounds that it was given."""

    name, cost_rank = "claims", 1

    def __init__(self, clauses: Tensor) -> None:
        self.clauses = clauses

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        lower = torch.full(query.open.shape, -torch.inf, dtype=torch.float64)
        return StageReport(lower, intermediate(query, bounds), trust=Trust.FLOAT, clauses=self.clauses)


@pytest.mark.parametrize("value", [0.0, 1e-18, -1.0, float("nan"), float("inf")])
def test_clause_bounds_within_rounding_prove_nothing(value: float) -> None:
    query = corner_query()
    claims = Claims(torch.tensor([[value]], dtype=torch.float64))
    result = verify(
        Corner().eval(), query.inputs.center(), input_set=query.inputs, spec=query.spec, stages=[claims]
    )  # fmt: skip
    assert result.verdict[0] is Verdict.UNKNOWN


def test_clause_bounds_of_a_wrong_shape_are_refused() -> None:
    query = corner_query()
    with pytest.raises(InternalError, match="clauses"):
        verify(
            Corner().eval(), query.inputs.center(), input_set=query.inputs, spec=query.spec,
            stages=[Claims(torch.ones(1, 2))],
        )  # fmt: skip


def test_all_examples_together_as_each_alone() -> None:
    graph, batch = imported(random_model(3), 2), 6
    lower = torch.randn(batch, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spec = random_spec(3, [0, 1, 1], shift=0.3)
    spec = spec.select(torch.zeros(batch, dtype=torch.int64))
    query = Query.of(graph, Box(lower, lower + 0.7), spec)
    together = run(query)
    decided = 0
    for b in range(batch):
        one = query.select(torch.tensor([b]))
        alone = run(one)
        proofs = [r.clauses is not None and bool((r.clauses[i] > 0).all()) for r, i in ((together, b), (alone, 0))]
        assert together.candidates is not None
        broken = worst_at(one, together.candidates[b : b + 1]) < 0
        assert proofs[0] == proofs[1] and not (proofs[0] and broken)
        decided += proofs[0] or broken
    assert decided == batch


def test_a_box_that_gets_lost_leaves_its_clauses_open(monkeypatch: pytest.MonkeyPatch) -> None:
    query, step = corner_query(), BoxSearch._step
    assert bool((run(query).clauses > 0).all())

    def losing(self: BoxSearch, *arguments: object) -> tuple[OpenBoxes, Tensor]:
        boxes, stuck = step(self, *arguments)  # type: ignore[arg-type]
        return boxes.select(torch.arange(len(boxes))[1:]), stuck

    monkeypatch.setattr(BoxSearch, "_step", losing)
    assert not bool((run(query).clauses > 0).any())


def big_proof() -> tuple[Query, StageReport, BoxTree, Tensor]:
    """A proof of some boxes with cuts, and the truth on a grid."""
    graph = imported(random_model(11, width=24, outputs=2), 2)
    box = Box(torch.tensor([[-2.0, -2.0]]), torch.tensor([[2.0, 2.0]]))
    spec = random_spec(5, [0, 0], outputs=2, shift=0.0)
    least = clause_minima(Query.of(graph, box, spec), grid(box, 301))
    spec = replace(spec, offset=spec.offset - float(least[0]) + 0.002)
    query = Query.of(graph, box, spec)
    report = run(query)
    return query, report, boxes_of(report.evidence), least - float(least[0]) + 0.002


def test_the_record_proves_again_and_corrupt_ones_do_not() -> None:
    query, report, tree, truth = big_proof()
    assert report.clauses is not None and len(tree.side) > 20, "too easy"
    assert not bool(tree.fresh.all()) and bool((tree.slopes >= 0).any()), "no cut, or no slopes of its own"
    again = tree.recompute(query, report.bounds)
    assert torch.allclose(again, report.clauses[0], atol=1e-9) and float(again[0]) > 0

    def proves(**changes: Tensor) -> float:
        return float(replace(tree, **changes).recompute(query, report.bounds)[0])

    for drop in (0, len(tree.node) // 2, len(tree.node) - 1):  # a leaf without its proof
        kept = torch.arange(len(tree.node)) != drop
        value = proves(
            node=tree.node[kept], clause=tree.clause[kept], weights=tree.weights[kept], slopes=tree.slopes[kept]
        )
        assert value == -torch.inf
    splits = (tree.side >= 0).nonzero().squeeze(1)
    slabs = [int(c) for s in splits for c in (tree.below[s], tree.above[s]) if not tree.fresh[c] and tree.side[c] < 0]
    # a cut that takes all of its box: the lines that left the box open do not prove that
    parent = int(((tree.below == slabs[0]) | (tree.above == slabs[0])).nonzero()[0])
    at = tree.at.clone()
    at[parent] = 10.0 if int(tree.below[parent]) == slabs[0] else -10.0
    assert proves(at=at) <= 0
    for split in splits[::7].tolist():  # whatever is moved: never more than what is true
        at = tree.at.clone()
        at[split] += 0.3
        assert proves(at=at) <= min(float(again[0]), float(truth[0])) + 1e-9
    below = tree.below.clone()
    below[splits[0]] = tree.above[splits[0]]  # half of the set is forgotten
    assert proves(below=below) == -torch.inf
    assert proves(weights=-tree.weights) == -torch.inf
    assert proves(weights=torch.zeros_like(tree.weights)) == -torch.inf
    for change in (  # other weights and other slopes may prove less, never more than what is true
        {"weights": tree.weights.flip(1)},
        {"levels": 255 - tree.levels},
        {"slopes": torch.where(tree.slopes >= 0, -1, tree.slopes)},
    ):
        assert proves(**change) <= float(truth[0]) + 1e-9
    assert proves(slopes=torch.full_like(tree.slopes, len(tree.levels))) == -torch.inf
    assert proves(levels=tree.levels[:, 1:]) == -torch.inf
    assert proves(side=torch.where(tree.side >= 0, tree.side + 2, tree.side)) == -torch.inf
    assert proves(at=torch.full_like(tree.at, torch.nan)) == -torch.inf
    wider = Box(query.inputs.box()[0] - 3, query.inputs.box()[1] + 3)  # another question
    other = Query.of(query.graph, wider, query.spec)
    assert float(tree.recompute(other, intermediate(other, Bounds()))[0]) < float(again[0])


def test_the_kernel_is_the_dual_stage() -> None:
    for act in (nn.ReLU, nn.Tanh):
        graph = imported(random_model(2, inputs=3, width=12, act=act), 3)
        lower = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        query = Query.of(graph, Box(lower, lower + 0.8), random_spec(1, [0, 1]).select(torch.zeros(40).long()))
        with torch.no_grad():
            tight, _ = DualStage(SlopeRule.ADAPTIVE).tighten(query, Bounds(), PassPlan(graph, 2**28))
            reference = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget()).lower
            kernel = Kernel(graph)
            found = kernel.bounds(*query.inputs.box(), {})
            forms = kernel.rows(query.spec.rows, found.relaxed).add(query.spec.offset)
        for node, known in tight.items():
            assert torch.allclose(found.ranges[node][0], known.lower, atol=1e-12)
            assert torch.allclose(found.ranges[node][1], known.upper, atol=1e-12)
        assert reference is not None and torch.allclose(forms.least(*query.inputs.box()), reference, atol=1e-12)


def test_the_budget_is_kept() -> None:
    graph = imported(random_model(0, inputs=12, width=64), 12)
    box = Box(-torch.ones(1, 12), torch.ones(1, 12))
    spec = Specification(torch.randn(1, 1, 3).double(), torch.full((1, 1), 0.7).double(), torch.tensor([0]))
    rows = spec.rows / spec.rows.norm()
    least = clause_minima(
        query := Query.of(graph, box, replace(spec, rows=rows)), 2 * torch.rand(4000, 12).double() - 1
    )
    query = replace(query, spec=replace(query.spec, offset=query.spec.offset - float(least[0]) + 0.02))
    began = time.monotonic()
    report = run(query, 0.5)
    assert time.monotonic() - began < 2.5
    done = report.clauses is not None and bool((report.clauses > 0).all())
    assert report.exhausted or done or (report.candidates is not None and worst_at(query, report.candidates) < 0)


def test_inputs_that_do_not_vary_and_smooth_ones_with_other_row_shapes() -> None:
    """Five inputs of which two vary; the output is read with the input, as properties about both need it."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = random_model(4, inputs=5, act=nn.Sigmoid)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.inner(x), x], 1)

    graph = imported(Both(), 5)
    low = torch.zeros(1, 5, dtype=torch.float64)
    box = Box(low, low + torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0]))
    query = Query.of(graph, box, random_spec(9, [0, 0, 1], outputs=8, shift=0.0))
    points = box.select(torch.zeros(5000, dtype=torch.int64)).sample(torch.Generator().manual_seed(0))
    least = clause_minima(query, points)
    held = replace(query.spec, offset=query.spec.offset - (least - 0.02)[query.spec.clause])
    report = run(replace(query, spec=held))
    assert report.clauses is not None and bool((report.clauses > 0).all())
    assert bool((report.clauses[0] <= 0.02 + 1e-9).all())
    assert set(boxes_of(report.evidence).side.tolist()) <= {-1, 1, 3}
    again = boxes_of(report.evidence).recompute(replace(query, spec=held), report.bounds)
    assert torch.allclose(again, report.clauses[0], atol=1e-9)


def test_what_it_supports() -> None:
    graph = imported(random_model(0), 2)
    spec = random_spec(0, [0])
    x = torch.zeros(1, 2)
    stage = BranchInputStage(most_inputs=1)
    assert BranchInputStage().supports(Query.of(graph, Box(x, x + 1), spec))
    assert not BranchInputStage().supports(Query.of(graph, L2Ball(x, 1.0), spec))
    assert not stage.supports(Query.of(graph, Box(x, x + 1), spec))
    assert stage.supports(Query.of(graph, Box(x, x + torch.tensor([0.0, 1.0])), spec))


ACAS = [
    ("1_5", "prop_1"),
    ("1_8", "prop_3"),
    ("1_4", "prop_4"),
    ("1_9", "prop_4"),
    ("2_9", "prop_8"),
    ("4_5", "prop_10"),
]


@pytest.mark.parametrize(("net", "name"), ACAS)
def test_acas_xu(net: str, name: str) -> None:
    """Some of the fast ones, with the answers that competitions agreed on."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from properties import vnnlib
    from properties.vnnlib_floats import batches
    from verifier.graph.onnx_model import OnnxModel

    listed = require("vnncomp", "acasxu", "instances.csv")
    lines = [x for x in listed.read_text().splitlines() if f"_{net}_batch" in x and f"{name}." in x]
    if not lines:
        pytest.skip(f"{net} {name} is not in the list")
    onnx, file, _, expected = lines[0].split(",")
    graph = OnnxModel.load(listed.parent / onnx).graph.to(dtype=torch.float64)
    (batch,) = batches(vnnlib.read(listed.parent / file))
    query = Query.of(graph, batch.box(graph.input_shape), batch.spec)
    report = run(query, 30.0)
    proved = report.clauses is not None and bool((report.clauses > 0).all())
    assert report.candidates is not None
    broken = any(
        worst_at(query.select(torch.tensor([b])), report.candidates[b : b + 1]) < 0 for b in range(query.batch)
    )
    assert (proved, broken) == (expected == "unsat", expected == "sat")
