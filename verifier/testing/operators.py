"""Conformance of operators: laws of all of them, and of affine ones against matrices found by differences."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.forms import Dense, Diagonal, Identity, LinearForm, Patches, PatchGrid, Runs, Selected, Windows
from verifier.graph import GraphBuilder
from verifier.ops.base import Activation, Affine, Operator, OperatorExample, Shape
from verifier.ops.product import Product
from verifier.ops.shape import Gather
from verifier.testing.activations import ACTIVATION_LAWS
from verifier.testing.laws import Law, hold, named
from verifier.testing.products import PRODUCT_LAWS


def check_operator(kind: type[Operator]) -> None:
    """Every law of operators, and of the operator's kind, on all its examples.

    Raises:
        AssertionError: one is broken; its notes say which.
    """
    assert kind.__doc__, f"{kind.__name__} has no documentation"
    examples = kind.examples()
    assert examples, f"{kind.__name__} has no examples"
    for number, example in enumerate(examples):
        laws = [*LAWS, *laws_of(example.op)]
        hold(f"{named(kind)}, example {number} ({example.op})", laws, example)


def laws_of(op: Operator) -> tuple[Law, ...]:
    """The laws of the operator's kind."""
    if isinstance(op, Affine):
        return AFFINE_LAWS
    if isinstance(op, Product):
        return PRODUCT_LAWS
    return ACTIVATION_LAWS if isinstance(op, Activation) else ()


def double(example: OperatorExample) -> Affine:
    """The example's operator with its parameters in float64."""
    op = example.op.map_tensors(lambda t: t.double() if t.is_floating_point() else t)
    assert isinstance(op, Affine)
    return op


def inputs(shapes: tuple[Shape, ...], batch: int = 3, seed: int = 1) -> list[Tensor]:
    """Normal inputs, [batch, *shape] each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *s, generator=generator, dtype=torch.float64) for s in shapes]


def size_of(shape: Shape) -> int:
    return int(torch.Size(shape).numel())


def matrices(op: Affine, shapes: tuple[Shape, ...]) -> list[Tensor]:
    """A_i per parent, [outputs, inputs], from differences of apply at unit vectors."""
    zeros = [torch.zeros(1, *s, dtype=torch.float64) for s in shapes]
    origin = op.apply(*zeros)
    found = []
    for i, shape in enumerate(shapes):
        n = size_of(shape)
        units = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
        others = [units if j == i else z.expand(n, *z.shape[1:]) for j, z in enumerate(zeros)]
        found.append((op.apply(*others) - origin).reshape(n, -1).T)
    return found


def forms(shape: Shape) -> list[LinearForm]:
    """One form of each structure on a node of this shape."""
    generator = torch.Generator().manual_seed(5)

    def random(*size: int) -> Tensor:  # [*size]
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    like, n = random(1), size_of(shape)
    index = torch.randint(n, (2, 3), generator=generator)
    built: list[LinearForm] = [Dense(random(2, 3, *shape)), Dense(random(1, 2, *shape))]
    if not shape:
        return built  # the other structures need a dimension
    built += [Runs(random(2, 3, n // shape[-1]), shape), Runs(random(1, 3, n), shape)]
    built += [Identity(shape, like), Diagonal(random(2, *shape)), Selected(index, shape, like)]
    if len(shape) == 3:
        positions = (max(shape[1] - 1, 1), max(shape[2] - 1, 1))
        grid = PatchGrid(positions, (2, 2), (1, 1), (0, 0))
        count = positions[0] * positions[1]
        built.append(Patches(random(1, 1, 2, shape[0], 2, 2), grid, shape))
        built.append(Patches(random(1, 1, 2, shape[0], 2, 2), grid, shape, random(2, *shape)))
        built.append(Patches(random(2, count, 2, shape[0], 2, 2), grid, shape))
        corner = torch.stack([torch.randint(-1, n, (2, 3), generator=generator) for n in shape[1:]], 2)
        built.append(Windows.within(random(2, 3, shape[0], 2, 2), corner, shape))
        built.append(Windows.within(random(1, 3, shape[0], 3, 2), corner[:1], shape))
        built.append(Windows.selected(index, shape, like))
        padded = PatchGrid((shape[1], shape[2]), (3, 3), (1, 1), (1, 1))
        built.append(Patches(random(1, 1, 2, shape[0], 3, 3), padded, shape, random(1, *shape)))
    return built


def builder_finds_the_shape(example: OperatorExample) -> None:
    """A graph with the operator computes what the operator does, and knows its shape."""
    shapes = example.shapes
    builder = GraphBuilder((sum(map(size_of, shapes)),))
    parents, start = [], 0
    for shape in shapes:
        n = size_of(shape)
        parents.append(builder.add(Gather(torch.arange(start, start + n).reshape(shape)), (0,)))
        start += n
    last = builder.add(example.op, parents)
    xs = [x.float() for x in inputs(shapes)]
    assert builder.nodes[last].shape == tuple(example.op.apply(*xs).shape[1:])
    assert builder.build().forward(torch.zeros(3, start)).shape[1:] == builder.nodes[last].shape


def linear_and_bias(example: OperatorExample) -> None:
    """`linear` is linear, and `bias` is what is left at zero."""
    op, shapes = double(example), example.shapes
    xs, ys = inputs(shapes), inputs(shapes, seed=2)
    both = op.linear(*(2 * x - y for x, y in zip(xs, ys, strict=True)))
    assert torch.allclose(both, 2 * op.linear(*xs) - op.linear(*ys), rtol=1e-10, atol=1e-10)
    zero = op.apply(*(torch.zeros_like(x) for x in xs))
    bias = op.bias(shapes, xs[0])
    if bias is None:
        assert (zero == 0).all()
    else:
        assert bias.shape == zero[:1].shape
        assert torch.allclose(bias.expand_as(zero), zero, rtol=1e-10, atol=1e-10)
    assert torch.allclose(op.linear(*xs) + zero, op.apply(*xs), rtol=1e-10, atol=1e-10)


def apply_abs_is_by_magnitudes(example: OperatorExample) -> None:
    """`apply_abs` multiplies by the magnitudes of the matrix's entries."""
    op, shapes = double(example), example.shapes
    radii = [x.abs() for x in inputs(shapes)]
    expected = torch.stack(
        [r.reshape(len(r), -1) @ a.abs().T for r, a in zip(radii, matrices(op, shapes), strict=True)]
    ).sum(0)
    assert torch.allclose(op.apply_abs(*radii).reshape(expected.shape), expected, rtol=1e-10, atol=1e-10)


def terms_and_diagonal_claims(example: OperatorExample) -> None:
    """`terms` counts the products of an output, and `diagonal` is said only where it is so."""
    op, shapes = double(example), example.shapes
    entries = [a.abs() > 1e-12 for a in matrices(op, shapes)]
    per_output = torch.stack([e.sum(1) for e in entries]).sum(0)
    assert op.terms(shapes) >= max(int(per_output.max()), 1)
    if op.diagonal:
        assert per_output.max() <= 1
        assert all(e.sum(0).max() <= 1 for e in entries)
    if len(shapes) > 1:
        assert not op.diagonal


def adjoint_is_the_transpose(example: OperatorExample) -> None:
    """`adjoint` multiplies forms of every structure by the matrix, and keeps patches where it says so."""
    op, shapes = double(example), example.shapes
    xs = inputs(shapes)
    output = tuple(op.apply(*xs).shape[1:])
    columns = matrices(op, shapes)
    for form in forms(output):
        coefficients = form.dense()
        for parent, matrix in enumerate(columns):
            pulled = op.adjoint(form, shapes, parent)
            assert pulled.shape == shapes[parent] and pulled.rows == form.rows
            got = pulled.dense()
            expected = coefficients.reshape(*coefficients.shape[:2], size_of(output)) @ matrix
            flat = got.reshape(*got.shape[:2], size_of(shapes[parent]))
            assert torch.allclose(flat.expand_as(expected), expected, rtol=1e-9, atol=1e-9), type(form).__name__
            if isinstance(form, Patches | Diagonal) and op.keeps_patches and len(shapes[parent]) == 3:
                assert not isinstance(pulled, Dense)


def adjoint_reaches_the_parameters(example: OperatorExample) -> None:
    """Gradients of the adjoint and of the bias reach every parameter."""
    op, shapes = double(example), example.shapes
    live = op.map_tensors(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t)
    leaves = [t for _, t in live.parameters() if t.is_floating_point()]
    if not leaves:
        return
    output = tuple(op.apply(*inputs(shapes)).shape[1:])
    form = Dense(torch.ones(1, 2, *output, dtype=torch.float64))
    total = torch.stack([live.adjoint(form, shapes, i).dense().sum() for i in range(len(shapes))]).sum()
    bias = live.bias(shapes, form.coefficients)
    if bias is not None:
        total = total + bias.sum()
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    assert all(g is not None and g.abs().sum() > 0 for g in grads)


LAWS: tuple[Law, ...] = (builder_finds_the_shape,)
AFFINE_LAWS: tuple[Law, ...] = (
    linear_and_bias,
    apply_abs_is_by_magnitudes,
    terms_and_diagonal_claims,
    adjoint_is_the_transpose,
    adjoint_reaches_the_parameters,
)
