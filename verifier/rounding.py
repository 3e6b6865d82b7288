"""How far floating-point evaluation of a graph can be from its real-valued function.

Running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3): a sum of n products, in any
order, errs by at most gamma_n = n u / (1 - n u) times the sum of the products' magnitudes, u the unit roundoff.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from properties import Specification
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine, Nonlinear, SlopeRule
from verifier.ops.elementwise import Add, Subtract
from verifier.ops.product import Product
from verifier.ops.relu import ReLU
from verifier.query import Query
from verifier.verdict import Semantics

#: how far from a jump integer programs have both of its sides, or more
BESIDE_JUMPS = 1e-4

#: bounds of nodes 0, 1, 2, ...: (lower, upper), each [B, *shape]
Ranges = Mapping[int, tuple[Tensor, Tensor]]


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def gamma(terms: int, unit: float) -> float:
    """Higham's gamma_n for sums of `terms` products; infinite where the analysis breaks down."""
    return terms * unit / (1 - terms * unit) if terms * unit < 1 else float("inf")


def gamma_typical(terms: int, unit: float) -> float:
    """What gamma_n is for roundings that fall at random: 4 sqrt(n) u (Higham & Mary 2019), never above gamma_n."""
    return min(gamma(terms, unit), 4 * terms**0.5 * unit)


def sizes_over(ranges: Ranges) -> list[Tensor]:  # [B, *shape] each
    """Largest |value| of every node, from its bounds: ranges of nodes 0, 1, 2, ..."""
    return [torch.maximum(low.abs(), high.abs()) for _, (low, high) in sorted(ranges.items())]


def evaluation_error(graph: Graph, values: Sequence[Tensor], unit: float) -> Tensor:
    """Bound on the rounding error of evaluating the outputs, [B, *output], for any order of summation.

    Args:
        values: of every node, [B, *shape], at the point evaluated.
        unit: unit roundoff of the arithmetic in question.
    """

    def activation(i: int, op: Activation, error: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        at = values[graph.nodes[i].parents[0]]
        return op.moved(at, at, error)

    def affine(i: int, op: Affine) -> float:
        return 0.0 if op.exact else gamma(op.terms(graph.parent_shapes(i)) + 1, unit)

    return _propagated(graph, [v.abs() for v in values], unit, affine, activation)


def bound_error(graph: Graph, ranges: Ranges, unit: float, more: int = 0) -> Tensor:
    """Estimate of the rounding error of *bounding* the outputs over a set, [B, *output].

    A bound is computed backwards: coefficients are summed over a node's outputs, then multiplied with its values. The
    absolute values of those coefficients are at most what the forward analysis multiplies with, so that the same
    recursion covers them, with longer sums: those of the layer and of its adjoint, and the products of coefficients
    with the node's values and its parents'. Where an intermediate bound that is off by e leaves an activation
    undecided, it moves the relaxation by at most e times the slope: a factor of 2 there, of less where the slopes of a
    smooth function over the interval are nearly one (verifier.ops.curves). Clearly stable neurons pass
    errors on with their one slope. The products with whole nodes, the longest sums, are taken with `gamma_typical`;
    that makes it an estimate.

    Args:
        ranges: bounds of nodes 0, 1, 2, ... over the set.
        more: terms to add to every sum.
    """

    def affine(i: int, op: Affine) -> float:
        if op.exact and op.diagonal:  # one reader for each entry: coefficients are copied as well
            return 0.0
        node, shapes = graph.nodes[i], graph.parent_shapes(i)
        sums = op.terms(shapes) + op.adjoint_terms(shapes, node.size)
        products = node.size + sum(graph.nodes[p].size for p in node.parents)
        return gamma(sums + more, unit) + gamma_typical(products, unit)

    def activation(i: int, op: Activation, error: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        low, high = ranges[graph.nodes[i].parents[0]]
        low, high = low - error, high + error
        lines = op.relax(low, high, SlopeRule.FIXED)
        slope = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs())
        return torch.where(op.unstable(low, high), op.lines_moved(low, high, error), slope * error)

    return _propagated(graph, sizes_over(ranges), unit, affine, activation)


def _propagated(
    graph: Graph,
    sizes: Sequence[Tensor],
    unit: float,
    affine: Callable[[int, Affine], float],
    activation: Callable[[int, Activation, Tensor], Tensor],
) -> Tensor:
    """Errors of all nodes in order: new ones of `affine`(node) times the summed magnitudes, old ones passed on.

    Args:
        sizes: per node |value|, [B, *shape].

    Returns:
        The outputs' errors, [B, *output].
    """
    errors, larger = [torch.zeros_like(sizes[0])], _larger_of_two(graph)
    tiny = torch.finfo(torch.float32 if unit > 1e-10 else torch.float64).tiny  # gradual underflow, once per term
    for i, node in enumerate(graph.nodes[1:], 1):
        given = [errors[p] for p in node.parents]
        op = node.op
        assert op is not None
        if isinstance(op, Nonlinear):
            if isinstance(op, Product):
                moved = _of_product(op, sizes[node.parents[0]], given[0])
            else:
                assert isinstance(op, Activation)
                moved = activation(i, op, given[0])
            size = sizes[i] + sizes[node.parents[0]] if op.cancels else sizes[i]
            errors.append(moved + max(op.ulps + 2, op.roundings) * unit * (size + moved) + tiny)
            continue
        assert isinstance(op, Affine)
        shapes = graph.parent_shapes(i)
        moved, factor = op.apply_abs(*given), affine(i, op)
        if i in larger:
            moved = torch.minimum(moved, _of_larger(*(errors[k] for k in larger[i])))
        if factor > 0:
            size = op.apply_abs(*(sizes[p] + errors[p] for p in node.parents))
            bias = op.bias_size(shapes, size)
            size = size if bias is None else size + bias
            # the factor covers the rounding of this very computation
            moved = moved + 1.01 * factor * size + op.terms(shapes) * tiny
        errors.append(moved)
    return 1.01 * errors[-1]


def _of_product(op: Product, size: Tensor, error: Tensor) -> Tensor:  # [B, *parent] each -> [B, M]
    """Error of a product from the magnitudes and the errors of its factors."""
    (x, y), (dx, dy) = (op.read(t).unbind(1) for t in (size, error))
    return x * dy + y * dx + dx * dy


def _larger_of_two(graph: Graph) -> dict[int, tuple[int, int, int, int]]:
    """Nodes b + ReLU(a - b), which are max(a, b): node -> the nodes a, b, a - b and ReLU(a - b)."""
    found = {}
    for i, node in enumerate(graph.nodes):
        if type(node.op) is not Add:
            continue
        b, relu = node.parents
        if type(graph.nodes[relu].op) is not ReLU:
            continue
        (difference,) = graph.nodes[relu].parents
        if type(graph.nodes[difference].op) is Subtract and graph.nodes[difference].parents[1] == b:
            found[i] = (graph.nodes[difference].parents[0], b, difference, relu)
    return found


def _of_larger(a: Tensor, b: Tensor, difference: Tensor, relu: Tensor) -> Tensor:  # [B, *shape]
    """Error of max(a, b) before the last sum is rounded, from the errors of its four nodes.

    The larger of two numbers is off by no more than the worse of them. What joins it: the roundings of the difference,
    and what the ReLU adds to the error that reaches it (roundings; a relaxation that is moved).
    """
    return torch.maximum(a, b) + (difference - (a + b)).clamp(min=0) + (relu - difference).clamp(min=0)


def row_error(spec: Specification, y: Tensor, error: Tensor, unit: float) -> Tensor:
    """Error [B, S] of the specification's rows, from the outputs' magnitudes y and errors, each [B, *output]."""
    error, y, rows = error.flatten(1), y.flatten(1), spec.rows.to(error).abs()
    size = torch.einsum("bso,bo->bs", rows, y + error) + spec.offset.to(error).abs()
    return torch.einsum("bso,bo->bs", rows, error) + 1.01 * gamma(rows.shape[2] + 2, unit) * size


def row_error_at(graph: Graph, spec: Specification, x: Tensor, unit: float) -> Tensor:
    """Error [B, S] of the specification's rows as evaluated at x [B, *input]; `unit` as of `evaluation_error`."""
    values = graph.values(x)
    return row_error(spec, values[-1].abs(), evaluation_error(graph, values, unit), unit)


def tolerance_error(query: Query, ranges: Ranges, tolerance: float, widened: Collection[int] = ()) -> Tensor:
    """How far a query's rows [B, S] may be from those of a network whose neurons are not quite what they should be.

    A solver holds rows and integers only to its tolerance. Here every neuron that takes a program to describe is off
    by `tolerance` times one plus the size of what it sums. What that does to the rows is followed through the graph.

    Args:
        ranges: bounds of nodes 0, 1, 2, ... over the query's input sets.
        widened: activations whose jumps the program has as they are, and both sides of each in `BESIDE_JUMPS` of it:
            an error less than that moves nothing.
    """
    graph = query.graph
    sizes = sizes_over(ranges)
    summed = [sizes[0]]  # what makes up each value: a row is held to the tolerance of its largest entry
    errors = [tolerance * (1 + sizes[0])]
    for i, node in enumerate(graph.nodes[1:], 1):
        given = [errors[p] for p in node.parents]
        op = node.op
        if isinstance(op, Affine):
            summed.append(op.apply_abs(*(sizes[p] for p in node.parents)))
            errors.append(op.apply_abs(*given))
            continue
        summed.append(sizes[i])
        if isinstance(op, Product):
            own = tolerance * (1 + sizes[i])
            errors.append(_of_product(op, sizes[node.parents[0]], given[0]) + own)
            continue
        assert isinstance(op, Activation)
        low, high = ranges[node.parents[0]]
        own = tolerance * (1 + sizes[i] + summed[node.parents[0]])
        moved = op.moved(low, high, given[0])
        walked = op.polyline(low, high) if i in widened and op.facts.jumps else None
        if walked is not None:
            moved = torch.where(walked.x.isfinite().all(0) & (given[0] < BESIDE_JUMPS), 0.0, moved)
        errors.append(moved + torch.where(op.unstable(low, high), own, 0.0))
    rows = query.spec.rows.to(errors[-1]).abs()
    return torch.einsum("bso,bo->bs", rows, errors[-1].flatten(1)) + tolerance


def margin_error(query: Query, ranges: Ranges, more: int = 0) -> Tensor:
    """Estimated rounding error [B, S] of a query's margins as bounds compute them (see `bound_error`).

    In float32 semantics, of the network's own evaluation as well. Infinite where it is not known: an error may reach
    the end of a function's domain, or a range be endless, whatever is multiplied with it.

    Args:
        ranges: bounds of nodes 0, 1, 2, ... over the query's input sets.
        more: terms to add to every sum.
    """
    narrow = query.semantics is Semantics.FLOAT32
    unit = unit_roundoff(torch.float32 if narrow else query.graph.dtype)
    output = sizes_over({0: ranges[query.graph.output]})[0]
    found = row_error(query.spec, output, bound_error(query.graph, ranges, unit, more), unit)
    return found.nan_to_num(nan=torch.inf, posinf=torch.inf)  # 0 times infinity is not known either
