"""Products inside a program: McCormick's hull, a column and four rows for each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array

from verifier.bound_map import Bounds
from verifier.encoding.activation import EncodingError
from verifier.encoding.builder import ProgramBuilder
from verifier.encoding.placement import PlacedProducts
from verifier.encoding.value import ColumnForm, Indices, Mask, Vector, merged, product, widened
from verifier.ops.base import LinearRelaxation, SlopeRule
from verifier.ops.product import Product


@dataclass(frozen=True)
class EncodedProducts:
    """Products as the program has them: affine in their factors where one of them does not vary, else columns."""

    slopes: Vector  # [2, size]: 0 where the product has a column
    bias: Vector  # [size]
    columns: csr_array  # [size, n]
    left: csr_array  # [size, size of the parent]: which entry is the left factor
    right: csr_array

    def pulled(self, rows: csr_array, total: int) -> tuple[csr_array, csr_array, Vector]:
        """Functionals [r, size] of the output: as functionals of the parent, on columns [r, total], and constants."""
        sides = zip((self.left, self.right), self.slopes, strict=True)
        first, second = (rows @ csr_array(diags_array(slope)) @ reads for reads, slope in sides)
        return csr_array(first + second), product(rows, widened(self.columns, total)), rows @ self.bias


@dataclass(frozen=True)
class Products:
    """What the bounds say of the products of one node."""

    node: int
    treated: Mask  # [size]: those of which both factors vary
    slopes: Vector  # [2, size]: of all products, as if one factor were constant
    bias: Vector  # [size]
    planes: tuple[LinearRelaxation, LinearRelaxation]  #: the ends of the family: four planes
    range: tuple[Vector, Vector]  # [size]
    left: csr_array  # [size, size of the parent]
    right: csr_array

    @classmethod
    def of(cls, op: Product, node: int, parent: int, bounds: Bounds) -> Products:
        """Raises EncodingError where the bounds do not do."""
        if parent not in bounds:
            raise EncodingError(f"no bounds of node {parent}, before the product {node}")
        lower, upper = (b.detach().double().cpu() for b in (bounds[parent].lower, bounds[parent].upper))
        if not bool((lower.isfinite() & upper.isfinite() & (lower <= upper)).all()):
            raise EncodingError(f"bounds of node {parent} are not finite intervals")
        lines = op.relax(lower, upper, SlopeRule.ADAPTIVE)
        ends = [op.relax(lower, upper, torch.full_like(lines.lower_bias, t)) for t in (0.0, 1.0)]
        low, high = (t.numpy().ravel() for t in op.range(lower, upper))
        size, width = len(op.left), lower[0].numel()
        units = (
            csr_array((np.ones(size), index.cpu().numpy().astype(np.int32), np.arange(size + 1, dtype=np.int32)),
                      shape=(size, width))
            for index in (op.left, op.right)
        )  # fmt: skip
        treated = op.varies(lower, upper).numpy().ravel()
        slopes, bias = lines.lower_slope[0].numpy(), lines.lower_bias[0].numpy()
        return cls(node, treated, slopes, bias, (ends[0], ends[1]), (low, high), *units)

    @property
    def kept(self) -> Mask:
        """No interval is a constraint of its own: every product's hull has its box."""
        return np.zeros(len(self.treated), dtype=bool)

    def reads(self, wanted: Mask) -> Mask:  # [size] -> [size of the parent]
        """The entries of the parent that these products depend on."""
        marked = wanted.astype(np.float64)
        return np.asarray(self.left.T @ marked + self.right.T @ marked > 0)

    def entries(self, index: Indices) -> Indices:
        """The left factors of these products, then the right ones."""
        return np.concatenate([self.left.indices[index], self.right.indices[index]]).astype(np.int64)

    def add(self, builder: ProgramBuilder, index: Indices, z: ColumnForm) -> EncodedProducts:
        """Adds the products `index` [k] (ascending), whose factors are z, 2 k rows."""
        free = self.treated
        slopes, bias = np.where(free, 0.0, self.slopes), np.where(free, 0.0, self.bias)
        columns = csr_array((len(free), builder.columns))
        if len(index):
            placed = self._hull(builder, index, z)
            builder.hulls.append(placed)
            columns = merged([(index, builder.unit(placed.out).matrix)], len(free), builder.columns)
        return EncodedProducts(slopes, bias, columns, self.left, self.right)

    def _hull(self, builder: ProgramBuilder, index: Indices, z: ColumnForm) -> PlacedProducts:
        k = len(index)
        left, right = z.rows(np.arange(k)), z.rows(np.arange(k, 2 * k))
        out = builder.add_columns(self.range[0][index], self.range[1][index])
        none, slopes, rows = np.full(k, np.inf), [], []
        sides = [(p.lower_slope, p.lower_bias, True) for p in self.planes]
        sides += [(p.upper_slope, p.upper_bias, False) for p in self.planes]
        for slope, bias, below in sides:
            a, limit = slope[0].numpy()[:, index], bias[0].numpy()[index]
            factors = _combined(left, right, -a)
            low, high = (limit, none) if below else (-none, limit)
            row = builder.add_rows(low, high, [(out, 1.0)], factors)
            builder.share(self.node, index, row, -a[0])
            builder.share(self.node, len(self.treated) + index, row, -a[1])
            slopes.append(a)
            rows.append(row)
        return PlacedProducts(self.node, index, left, right, out, np.stack(slopes), np.stack(rows))


def _combined(left: ColumnForm, right: ColumnForm, factors: Vector) -> ColumnForm:
    """factors[0] * left + factors[1] * right, row by row."""
    first, second = (csr_array(diags_array(f)) @ v.matrix for f, v in zip(factors, (left, right), strict=True))
    total = csr_array(first + second)
    total.sort_indices()
    return replace(left, matrix=total, bias=factors[0] * left.bias + factors[1] * right.bias)
