"""Simplification passes keep the function and do shorten the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from verifier.graph import Graph, GraphBuilder
from verifier.graph.passes import drop_identities, fold_scalings, merge_linear, merge_reshapes, simplify
from verifier.ops.base import Operator, Shape
from verifier.ops.clip import Clip
from verifier.ops.conv import Conv1d, Conv2d
from verifier.ops.elementwise import Add, Divide, Multiply, Shift
from verifier.ops.linear import Linear
from verifier.ops.norm import BatchNorm
from verifier.ops.pad import Pad
from verifier.ops.relu import ReLU
from verifier.ops.shape import Gather, Permute, Reshape

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def chain(shape: Shape, *ops: Operator) -> Graph:
    builder = GraphBuilder(shape)
    for op in ops:
        builder.add(op, (len(builder.nodes) - 1,))
    return builder.build()


def norm(channels: int) -> BatchNorm:
    return BatchNorm(random(channels), random(channels), random(channels), random(channels).abs() + 0.1, 1e-5)


def same(a: Graph, b: Graph) -> None:
    x = random(5, *a.input_shape)
    assert torch.allclose(a.forward(x), b.forward(x), rtol=1e-10, atol=1e-10)
    assert a.output_shape == b.output_shape


def kinds(graph: Graph) -> list[str]:
    return [type(n.op).__name__ for n in graph.nodes[1:]]


def test_identities_are_dropped() -> None:
    identities = [
        Reshape((2, 3)),
        Permute((0, 1)),
        Gather(torch.arange(6).reshape(2, 3)),
        Pad((0, 0)),
        Clip(None, None),
        Multiply(1.0),
        Divide(1.0),
        Shift(0.0),
    ]
    graph = chain((2, 3), *identities, ReLU(), *identities)
    short = drop_identities(graph)
    assert kinds(short) == ["ReLU"]
    same(graph, short)


@pytest.mark.parametrize(
    "op",
    [
        Reshape((3, 2)),
        Permute((1, 0)),
        Gather(torch.arange(6).flip(0).reshape(2, 3)),
        Pad((1, 0)),
        Clip(-1.0, None),
        Multiply(-1.0),
        Shift(1e-12),
        Multiply(torch.ones(3).double()),
    ],
)
def test_what_is_not_an_identity_stays(op: Operator) -> None:
    assert len(drop_identities(chain((2, 3), op)).nodes) == 2


def test_reshapes_merge() -> None:
    graph = chain((2, 3), Reshape((6,)), Reshape((3, 2)), Reshape((1, 6)), ReLU())
    short = simplify(graph)
    assert kinds(short) == ["Reshape", "ReLU"]
    same(graph, short)
    assert len(merge_reshapes(graph).nodes) < len(graph.nodes)


LAYERS: list[tuple[Shape, Callable[[], Operator], int]] = [
    ((4,), lambda: Linear(random(3, 4), random(3)), 3),
    ((4,), lambda: Linear(random(3, 4)), 3),
    ((2, 6), lambda: Conv1d(random(3, 2, 3), random(3), (1,), (1,)), 3),
    ((2, 5, 5), lambda: Conv2d(random(4, 1, 3, 3), random(4), (2, 1), (1, 1), (1, 1), 2), 4),
    ((2, 5, 5), lambda: Conv2d(random(4, 2, 3, 3)), 4),
]


@pytest.mark.parametrize("shape, layer, channels", LAYERS)
def test_scalings_fold_into_the_layer_before(shape: Shape, layer: Callable[[], Operator], channels: int) -> None:
    per_channel = random(channels, *(1,) * (len(shape) - 1))
    for scaling in (
        norm(channels),
        Multiply(per_channel),
        Divide(3.0),
        Shift(per_channel),
        Shift(0.5),
        Multiply(random(1)),
    ):
        graph = chain(shape, layer(), scaling, ReLU())
        short = fold_scalings(graph)
        assert len(short.nodes) == 3, scaling
        same(graph, short)
    graph = chain(shape, layer(), norm(channels), Multiply(2.0), Shift(per_channel), ReLU())
    assert len(simplify(graph).nodes) == 3
    same(graph, simplify(graph))


def test_scalings_that_differ_by_position_stay() -> None:
    graph = chain((2, 4, 4), Conv2d(random(3, 2, 3, 3)), Multiply(random(3, 2, 2)))
    assert len(fold_scalings(graph).nodes) == 3
    graph = chain((3, 4), Linear(random(4, 4)), norm(3))  # channels are rows here, not the layer's outputs
    assert len(fold_scalings(graph).nodes) == 3
    same(graph, fold_scalings(graph))


def test_a_layer_with_two_readers_is_left_alone() -> None:
    builder = GraphBuilder((4,))
    layer = builder.add(Linear(random(4, 4), random(4)), (0,))
    scaled = builder.add(Multiply(2.0), (layer,))
    second = builder.add(Linear(random(4, 4)), (layer,))
    builder.add(Add(), (scaled, second))
    graph = builder.build()
    assert kinds(simplify(graph)) == kinds(graph)
    same(graph, simplify(graph))


def test_linear_layers_merge_unless_a_bottleneck() -> None:
    graph = chain((4,), Linear(random(5, 4), random(5)), Linear(random(3, 5), random(3)), Linear(random(2, 3)), ReLU())
    short = simplify(graph)
    assert kinds(short) == ["Linear", "ReLU"]
    same(graph, short)
    assert len(merge_linear(graph).nodes) < len(graph.nodes)
    thin = chain((20,), Linear(random(2, 20)), Linear(random(20, 2)))
    assert len(simplify(thin).nodes) == 3


def test_gradients_pass_through_folding() -> None:
    weight, factor = random(3, 4).requires_grad_(), random(3).requires_grad_()
    short = simplify(chain((4,), Linear(weight), Multiply(factor)))
    assert len(short.nodes) == 2
    short.forward(random(2, 4)).sum().backward()
    assert weight.grad is not None and factor.grad is not None and factor.grad.abs().sum() > 0
