"""One activation of one example: which of its neurons are lines, and how the others are treated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from verifier.bound_map import Bounds
from verifier.encoding.builder import ProgramBuilder
from verifier.encoding.hull import Hull, Treatment
from verifier.encoding.placement import NeuronBatch
from verifier.encoding.value import ColumnForm, Indices, Mask, Vector, merged, product, scaled, widened
from verifier.ops.base import Activation, Pieces, SlopeRule


class EncodingError(ValueError):
    """The bounds do not allow a program: a neuron's interval is unknown, infinite or empty."""


@dataclass(frozen=True)
class Encoded:
    """An activation as the program has it: output = slope * input + bias on lines, columns for the treated neurons."""

    slope: Vector  # [size]: 0 where the neuron is treated, or its output is constant
    bias: Vector  # [size]
    columns: csr_array  # [size, n]: rows of the treated neurons

    def pulled(self, rows: csr_array, total: int) -> tuple[csr_array, csr_array, Vector]:
        """Functionals [r, size] of the output: as functionals of the input, on columns [r, total], and constants."""
        return scaled(rows, self.slope), product(rows, widened(self.columns, total)), rows @ self.bias


@dataclass(frozen=True)
class Neuronwise:
    """What the bounds say of an activation's neurons."""

    node: int
    slope: Vector  # [size]: of all neurons, as if they were lines
    bias: Vector  # [size]
    kept: Mask  # [size]: stable neurons whose interval is a constraint
    varying: Mask  # [size]: neurons whose output depends on their input
    groups: Sequence[tuple[Mask, Treatment]]  #: disjoint; neurons in none of them are lines
    x: Vector  # [K, size]: corners
    y: Vector  # [K, size]
    polyline: tuple[Vector, Vector] | None  # [K', size] each: corners of the graph itself, where it is a polyline

    @classmethod
    def of(
        cls,
        op: Activation,
        node: int,
        parent: int,
        bounds: Bounds,
        treatments: Sequence[tuple[Mask, Treatment]] = (),
        kept: Mask | None = None,
    ) -> Neuronwise:
        """See `Encoder.encode`. Raises EncodingError where the bounds do not do."""
        if parent not in bounds:
            raise EncodingError(f"no bounds of node {parent}, before the activation {node}")
        lower, upper = (b.detach().double().cpu() for b in (bounds[parent].lower, bounds[parent].upper))
        if not bool((lower.isfinite() & upper.isfinite() & (lower <= upper)).all()):
            raise EncodingError(f"bounds of node {parent} are not finite intervals")
        lines = op.relax(lower, upper, SlopeRule.ADAPTIVE)
        slope, bias = (t.numpy().ravel() for t in (lines.lower_slope, lines.lower_bias))
        unstable = op.unstable(lower, upper).numpy().ravel()
        held = np.zeros_like(unstable) if kept is None else kept & ~unstable
        free, groups = unstable | held, []
        for mask, treatment in treatments:
            groups.append((free & mask, treatment))
            free = free & ~mask
        groups.append((free, Hull()))
        pieces = op.pieces(lower, upper)
        if not bool(pieces.x.isfinite().all() and pieces.y.isfinite().all()):
            raise EncodingError(f"node {parent} reaches beyond what activation {node} is defined on")
        x, y = _flat(pieces)
        walked = op.polyline(lower, upper) if any(t.polyline for _, t in groups) else None
        polyline = None if walked is None else _flat(walked)
        return cls(node, slope, bias, held, unstable | held | (slope != 0), groups, x, y, polyline)

    @property
    def treated(self) -> Mask:
        """Neurons that are not lines, [size]."""
        mask = np.zeros(len(self.slope), dtype=bool)
        for group, _ in self.groups:
            mask |= group
        return mask

    def reads(self, wanted: Mask) -> Mask:  # [size] -> [size of the parent]
        """The entries of the parent that these outputs depend on."""
        return wanted & self.varying

    def entries(self, index: Indices) -> Indices:
        """The entries of the parent that the treated neurons `index` read, in the order that `add` wants them in."""
        return index

    def add(self, builder: ProgramBuilder, index: Indices, z: ColumnForm) -> Encoded:
        """Adds the treated neurons `index` [k] (ascending), whose pre-activations are z, k rows."""
        slope, bias = np.where(self.treated, 0.0, self.slope), np.where(self.treated, 0.0, self.bias)
        blocks = []
        for mask, treatment in self.groups:
            at = np.flatnonzero(mask[index])
            if len(at) == 0:
                continue
            own, part = index[at], z if len(at) == len(index) else z.rows(at)
            walked = self.polyline if treatment.polyline else None
            x, y = walked or (self.x, self.y)
            batch = NeuronBatch(self.node, own, part, x[:, own], y[:, own], walked is not None)
            out = treatment.add(builder, batch)
            bias[own] = out.bias
            blocks.append((own, out.matrix))
        return Encoded(slope, bias, merged(blocks, len(slope), builder.columns))


def _flat(pieces: Pieces) -> tuple[Vector, Vector]:
    """Corners x and y, [K, size] each."""
    x, y = (p.reshape(len(p), -1).numpy() for p in (pieces.x, pieces.y))
    return x, y
