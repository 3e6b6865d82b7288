"""How far floating-point evaluation of a graph can be from its real-valued function.

Running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3): a sum of n products, in any
order, errs by at most gamma_n = n u / (1 - n u) times the sum of the products' magnitudes, u the unit roundoff.
"""

from __future__ import annotations

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


def output_error(graph: Graph, x: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Outputs at x and a bound on the rounding error of evaluating them, each [B, *output] float64.

    Args:
        graph: in float64.
        x: [B, *input] float64, exactly the input that is evaluated.
        unit: unit roundoff of the arithmetic in question; any order of summation is covered.
    """
    values, errors = [x], [torch.zeros_like(x)]
    tiny = torch.finfo(torch.float32 if unit > 1e-10 else torch.float64).tiny  # gradual underflow, once per term
    for node in graph.nodes[1:]:
        ins, errs = [values[p] for p in node.parents], [errors[p] for p in node.parents]
        op = node.op
        assert op is not None
        value = op.apply(*ins)
        if isinstance(op, Activation):
            error = op.lipschitz * errs[0] + (op.ulps + 2) * unit * (value.abs() + op.lipschitz * errs[0]) + tiny
        else:
            assert isinstance(op, Affine)
            shapes = [graph.nodes[p].shape for p in node.parents]
            terms = op.terms(shapes)
            if terms <= 1:  # nothing is rounded: a copy
                error = op.apply_abs(*errs)
            else:
                bias = op.bias_size(shapes, x)
                size = op.apply_abs(*(v.abs() + e for v, e in zip(ins, errs, strict=True)))
                size = size if bias is None else size + bias
                # the factor covers the rounding of this very computation, which is far below it
                error = op.apply_abs(*errs) + 1.01 * gamma(terms + 1, unit) * size + terms * tiny
        values.append(value)
        errors.append(error)
    return values[-1], errors[-1] * 1.01


def row_error(graph: Graph, spec: Specification, x: Tensor, unit: float) -> Tensor:
    """Bound [B, S] on the error of evaluating the specification's rows at x (see `output_error`)."""
    y, error = output_error(graph, x, unit)
    y, error, rows = y.flatten(1), error.flatten(1), spec.rows.abs()
    size = torch.einsum("bso,bo->bs", rows, y.abs() + error) + spec.offset.abs()
    return torch.einsum("bso,bo->bs", rows, error) + 1.01 * gamma(rows.shape[2] + 2, unit) * size
