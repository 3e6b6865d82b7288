"""How far floating-point evaluation of a graph can be from its real-valued function.

Running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3): a sum of n products, in any
order, errs by at most gamma_n = n u / (1 - n u) times the sum of the products' magnitudes, u the unit roundoff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from properties import Specification
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def gamma(terms: int, unit: float) -> float:
    """Higham's gamma_n for sums of `terms` products; infinite where the analysis breaks down."""
    return terms * unit / (1 - terms * unit) if terms * unit < 1 else float("inf")


def sizes_at(graph: Graph, x: Tensor) -> list[Tensor]:
    """|value| of every node at x [B, *input]."""
    return [value.abs() for value in graph.values(x)]


def sizes_over(ranges: Mapping[int, tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Largest |value| of every node, from its bounds: ranges of nodes 0, 1, 2, ..."""
    return [torch.maximum(low.abs(), high.abs()) for _, (low, high) in sorted(ranges.items())]


def output_error(graph: Graph, sizes: Sequence[Tensor], unit: float) -> Tensor:
    """Bound on the rounding error of evaluating the outputs, [B, *output].

    Args:
        sizes: per node |value|, [B, *shape], at the point evaluated or the largest over a set of points.
        unit: unit roundoff of the arithmetic in question; any order of summation is covered.
    """
    errors = [torch.zeros_like(sizes[0])]
    tiny = torch.finfo(torch.float32 if unit > 1e-10 else torch.float64).tiny  # gradual underflow, once per term
    for i, node in enumerate(graph.nodes[1:], 1):
        given = [errors[p] for p in node.parents]
        op = node.op
        assert op is not None
        if isinstance(op, Activation):
            moved = op.lipschitz * given[0]
            errors.append(moved + (op.ulps + 2) * unit * (sizes[i] + moved) + tiny)
            continue
        assert isinstance(op, Affine)
        shapes = graph.parent_shapes(i)
        terms, moved = op.terms(shapes), op.apply_abs(*given)
        if terms > 1:  # otherwise nothing is rounded: a copy
            size = op.apply_abs(*(sizes[p] + errors[p] for p in node.parents))
            bias = op.bias_size(shapes, size)
            size = size if bias is None else size + bias
            # the factor covers the rounding of this very computation
            moved = moved + 1.01 * gamma(terms + 1, unit) * size + terms * tiny
        errors.append(moved)
    return 1.01 * errors[-1]


def row_error(graph: Graph, spec: Specification, sizes: Sequence[Tensor], unit: float) -> Tensor:
    """Bound [B, S] on the rounding error of evaluating the specification's rows (see `output_error`)."""
    error = output_error(graph, sizes, unit).flatten(1)
    rows, y = spec.rows.to(error).abs(), sizes[-1].flatten(1)
    size = torch.einsum("bso,bo->bs", rows, y + error) + spec.offset.to(error).abs()
    return torch.einsum("bso,bo->bs", rows, error) + 1.01 * gamma(rows.shape[2] + 2, unit) * size
