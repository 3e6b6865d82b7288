"""`verifier.bounds`: sound by every method, as numbers and as functions of the input, with gradients where promised."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import properties
import verifier
from verifier.graph import Graph
from verifier.sdp.norms import NORMS
from verifier.stages import REGISTRY
from verifier.verdict import Trust

EPS = 0.15
BOUNDING = [n for n in REGISTRY if (s := REGISTRY[n]()).trust is not None and s.bounding() is not None]
WITH_LINES = ("interval", "dual", "dual-adaptive", "dual-optimised", "zonotope", "zonotope-learned", "lp")


class Smooth(nn.Module):
    """A residual connection, two smooth activations and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:  # [B, 4]
        h = torch.tanh(self.first(x))
        return self.last(torch.sigmoid(self.second(h)) * h + h)


def relu_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def smooth_network() -> nn.Module:
    torch.manual_seed(1)
    return Smooth().eval()


def convolutional() -> nn.Module:
    torch.manual_seed(2)
    parts = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    return nn.Sequential(*parts).eval()


def shallow() -> nn.Module:
    """With one activation layer."""
    return nn.Sequential(*list(relu_network())[:2], nn.Linear(6, 3)).eval()


SHAPES = {relu_network: (4,), smooth_network: (4,), convolutional: (1, 4, 4), shallow: (4,)}


@cache
def graph_of(network: Callable[[], nn.Module]) -> Graph:
    """Imported once: what `bounds` takes in place of a module."""
    return verifier.import_torch(network(), inputs(*SHAPES[network]))


def inputs(*shape: int) -> Tensor:  # [2, *shape]
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(3))


def samples(x: Tensor, count: int = 400) -> Tensor:  # [B, *input] -> [count, B, *input]
    """Corners and points of the ball."""
    generator = torch.Generator().manual_seed(4)
    moves = 2 * torch.rand(count, *x.shape, generator=generator, dtype=torch.float64) - 1
    moves[: count // 2] = moves[: count // 2].sign()
    return x.double() + 0.999 * EPS * moves  # rounding takes no point out of the ball


def check(graph: Graph, x: Tensor, found: verifier.BoundsResult, rows: Tensor | None = None) -> None:
    """Every node named in `found` lies between its bounds, and between their functions, at sampled points."""
    points = samples(x)
    with torch.no_grad():
        values = graph.to(dtype=torch.float64).values(points.flatten(0, 1))
    by_name = {n.name: v.unflatten(0, points.shape[:2]) for n, v in zip(graph.nodes, values, strict=True)}
    for name, node in found.items():
        value = by_name[name] if rows is None else by_name[name] @ rows.double().T
        assert node.lower.shape == value.shape[1:]
        assert (node.lower <= value.amin(0)).all() and (value.amax(0) <= node.upper).all(), name
        if node.lines is not None:
            for point, at in zip(points[::50], value[::50], strict=True):
                low, high = node.lines.at(point)
                assert (low <= at + 1e-6).all() and (at <= high + 1e-6).all(), name


#: methods whose rows come by ways of their own; the others differ in what they put together
OFTEN = (*WITH_LINES, "milp")


@pytest.mark.parametrize(
    "method", [*OFTEN, *(pytest.param(n, marks=pytest.mark.slow) for n in BOUNDING if n not in OFTEN)]
)
def test_every_method_encloses_what_it_bounds(method: str) -> None:
    graph, x = graph_of(shallow if method in ("sdp", *NORMS) else relu_network), inputs(4)
    rows, linear = torch.tensor([[1.0, -1.0, 0.0], [0.0, 2.0, -1.0]]), method in WITH_LINES
    check(graph, x, verifier.bounds(graph, x, EPS, method, C=rows, linear=linear), rows)
    neurons = verifier.bounds(graph, x, EPS, method, of=["relu", "linear_1"], linear=linear)
    assert list(neurons) == ["relu", "linear_1"]
    check(graph, x, neurons)


@pytest.mark.parametrize(
    ("network", "method"),
    [
        *((smooth_network, method) for method in ("interval", "dual-adaptive", "zonotope")),
        *((convolutional, method) for method in ("interval", "dual", "dual-adaptive", "alpha-crown", "lp")),
    ],
)
def test_all_neurons_are_enclosed(network: Callable[[], nn.Module], method: str) -> None:
    graph, x = graph_of(network), inputs(*SHAPES[network])
    linear = method in ("interval", "dual", "dual-adaptive", "zonotope")
    found = verifier.bounds(graph, x, EPS, method, of="all", linear=linear)
    assert list(found) == [n.name for n in graph.nodes[1:]]
    assert found.lower is found[found.output].lower
    check(graph, x, found)


def test_functions_of_the_input_give_the_bounds() -> None:
    model, x = graph_of(relu_network), inputs(4)
    for method in WITH_LINES:
        found = verifier.bounds(model, x, EPS, method, linear=True, dtype=torch.float64)
        lines = found.lines
        assert lines is not None
        middle, reach = lines.at(x), EPS * lines.A_lower.abs().sum(-1)
        assert torch.allclose(middle[0] - reach, found.lower, atol=1e-6), method
        assert torch.allclose(middle[1] + EPS * lines.A_upper.abs().sum(-1), found.upper, atol=1e-6), method


@pytest.mark.parametrize("method", ["interval", "dual", "dual-adaptive", "dual-optimised", "zonotope", "lp"])
def test_rows_of_margins_are_those_of_verify(method: str) -> None:
    model, x = relu_network(), inputs(4)
    label = torch.tensor([0, 1])
    others = [[1, 2], [0, 2]]
    rows = torch.stack([torch.eye(3)[label[b]] - torch.eye(3)[others[b]] for b in range(2)])
    found = verifier.bounds(model, x, EPS, method, C=rows)
    answer = verifier.verify(model, x, EPS, label=label, stages=[method])
    margins = torch.stack([answer.margins[b, others[b]] for b in range(2)])
    undecided = ~answer.verified  # of a proved one the stages may stop early
    assert undecided.any()
    assert torch.allclose(found.lower.double()[undecided], margins[undecided], atol=1e-5)


def test_methods_keep_their_order() -> None:
    """The laws of linear relaxations: adaptive slopes, then optimised ones, then the program over the same bounds."""
    graph, x = graph_of(relu_network), inputs(4)
    of = {n: verifier.bounds(graph, x, EPS, n, dtype=torch.float64) for n in ("crown", "alpha-crown", "lp", "milp")}
    for looser, tighter in (("crown", "alpha-crown"), ("crown", "lp"), ("alpha-crown", "milp"), ("lp", "milp")):
        slack = 1e-4 if tighter == "milp" else 1e-9
        assert (of[tighter].lower >= of[looser].lower - slack).all(), (looser, tighter)
        assert (of[tighter].upper <= of[looser].upper + slack).all(), (looser, tighter)


def test_a_point_has_the_bounds_of_its_value_and_batches_do_not_matter() -> None:
    graph, x = graph_of(relu_network), inputs(4)
    found = verifier.bounds(graph, x, 0.0)
    assert torch.allclose(found.lower, graph.forward(x), atol=1e-5) and torch.allclose(
        found.upper, graph.forward(x), atol=1e-5
    )
    both, one = verifier.bounds(graph, x, EPS), verifier.bounds(graph, x[1:], EPS)
    assert torch.allclose(both.lower[1:], one.lower, atol=1e-5)


def test_neurons_of_smooth_networks_pay_for_rounding() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    net[0].bias.data += 100
    x = torch.rand(8, 4)
    found = verifier.bounds(net, x, 0.0, "crown", of="all")
    first, value = next(iter(found)), copy.deepcopy(net[0]).double()(x.double())
    assert (found[first].lower.double() <= value).all() and (value <= found[first].upper.double()).all()


@pytest.mark.parametrize("size", [3, 12])
def test_functions_of_affine_networks_pay_for_rounding(size: int) -> None:
    torch.manual_seed(0)
    x, rows = torch.rand(4, size), 10 * torch.randn(5, size, dtype=torch.float64)
    found = verifier.bounds(nn.Flatten().eval(), x, 0.0, "alpha-crown", C=rows, linear=True)
    assert found.lines is not None
    for k, example in enumerate(x):
        for j, row in enumerate(rows):
            value = sum(Fraction(c) * Fraction(v) for c, v in zip(row.tolist(), example.tolist(), strict=True))
            ends = [
                sum((Fraction(c) * Fraction(v) for c, v in zip(a.tolist(), example.tolist(), strict=True)), Fraction(b))
                for a, b in (
                    (found.lines.A_lower[k, j], found.lines.b_lower[k, j].item()),
                    (found.lines.A_upper[k, j], found.lines.b_upper[k, j].item()),
                )
            ]
            assert ends[0] <= value <= ends[1]


def test_trust_is_stated() -> None:
    graph, x = graph_of(relu_network), inputs(4)
    assert set(verifier.bounds(graph, x, EPS, "crown").trust) == {Trust.CHECKED}
    assert set(verifier.bounds(graph, x, EPS, "alpha-crown").trust) == {Trust.FLOAT}
    assert set(verifier.bounds(graph, x, EPS, "milp").trust) == {Trust.SOLVER}
    assert set(verifier.bounds(graph, x, EPS, "crown", differentiable=True).trust) == {Trust.FLOAT}
    assert not verifier.bounds(graph, x, EPS, "crown").lower.requires_grad


@pytest.mark.parametrize("method", ["interval", "dual", "dual-adaptive", "zonotope"])
def test_gradients_are_those_of_finite_differences(method: str) -> None:
    model, x = relu_network().double(), inputs(4).double()
    graph = verifier.import_torch(model, x)
    weight = next(model[2].parameters())
    x, eps = x.requires_grad_(), torch.tensor(EPS, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)

    def value() -> Tensor:
        found = verifier.bounds(graph, x, eps, method, C=rows, clip=(0, 1), differentiable=True)
        return (found.lower - 0.5 * found.upper).sum()

    value().backward()
    generator = torch.Generator().manual_seed(5)
    for tensor in (weight, x, eps):
        way = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        assert tensor.grad is not None
        step, before = 1e-6, tensor.detach().clone()
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                tensor.copy_(before + sign * step * way)
                ends.append(float(value()))
            tensor.copy_(before)
        assert math.isclose((ends[0] - ends[1]) / (2 * step), float((tensor.grad * way).sum()), rel_tol=1e-5), method


def test_other_sets() -> None:
    graph, x = graph_of(relu_network), inputs(4)
    small, round_ = (verifier.bounds(graph, x, EPS, threat=t) for t in ("l1", "l2"))
    box = verifier.bounds(graph, x, EPS)
    union = properties.Union([properties.LinfBall(x, EPS), properties.L2Ball(x, EPS)])
    either = verifier.bounds(graph, x, input_set=union)
    assert (box.lower <= round_.lower + 1e-6).all() and (round_.lower <= small.lower + 1e-6).all()
    assert torch.equal(either.lower, torch.minimum(box.lower, round_.lower))
    assert either.trust == box.trust


def test_a_budget_loosens_and_says_so() -> None:
    found = verifier.bounds(graph_of(relu_network), inputs(4), EPS, "alpha-crown", budget=0.0)
    assert found.exhausted and "budget spent" in repr(found)
    check(graph_of(relu_network), inputs(4), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "attack"}, "looks for counterexamples"),
        ({"method": "branch"}, "finds out signs"),
        ({"method": "croun"}, "crown"),
        ({"of": ["relux"]}, "did you mean 'relu'"),
        ({"of": "relu"}, r"write of=\['relu'\]"),
        ({"of": []}, "empty"),
        ({"C": torch.eye(2)}, "C must be a tensor"),
        ({"C": torch.eye(3), "of": "all"}, "C is rows on the outputs"),
        ({"C": torch.full((1, 3), math.nan)}, "NaN"),
        ({"method": "milp", "linear": True}, "without linear functions"),
        ({"method": "lp", "differentiable": True}, "keeps no gradients"),
        ({"budget": -1.0}, "budget"),
        ({"eps": None}, "give eps or input_set"),
    ],
)
def test_unusable_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(verifier.InputError, match=message):
        verifier.bounds(graph_of(relu_network), inputs(4), **{"eps": EPS, **options})  # type: ignore[arg-type]
