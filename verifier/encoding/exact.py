"""Chosen neurons exactly, by integer columns: Tjeng, Xiao & Tedrake (2019), section 4, for any polyline.

A neuron whose graph is a polyline walks along it: one column per segment says how much of the segment is behind it, and
one binary per inner corner says whether the corner has been passed (the incremental formulation, Markowitz & Manne
1957). For a ReLU over [l, u] that is the usual big-M encoding with one dense row instead of two:

    z = l + s + y,   0 <= s <= -l,   0 <= y <= u,   y <= u d,   s >= -l d,   d binary.

Without the integrality its projection is the convex hull of the graph, so no relaxation is tighter.

A jump is a vertical part of the polyline: a binary of its own says whether it is behind, once all before it is. At the
jump itself the program so has both limits, and the value; and because a solver holds rows to a tolerance only, it has
them a little beside the jump as well (`verifier.rounding.BESIDE_JUMPS`): what it says is true of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from solvers import Program
from verifier.bound_map import Bounds
from verifier.encoding.builder import ProgramBuilder
from verifier.encoding.encoder import Encoder, Encoding, ProgramSource
from verifier.encoding.hull import Hull
from verifier.encoding.placement import NeuronBatch, PlacedProducts
from verifier.encoding.value import ColumnForm, Indices, Mask, Vector, numbers
from verifier.ops.base import Activation
from verifier.rounding import BESIDE_JUMPS


@dataclass(frozen=True)
class Placed:
    """The columns of some neurons, and what they hold where the pre-activations are z [k]."""

    neurons: NeuronBatch
    columns: Indices  # [c, k]
    switches: Indices  # [c, k]: the binary of the corner before each segment; -1 where there is none
    steps: Mask  # [c, k]: segments that are jumps, whose columns are binaries

    def fill(self, z: Vector, y: Vector, point: Vector) -> None:
        """Set the neurons' columns in a point [n] of the program; z and y [k] are what they read and return."""
        start, length = self.neurons.x[:-1], np.diff(self.neurons.x, axis=0)
        behind = (z > start) | ((z == start) & (y >= self.neurons.y[1:]))
        passed = np.where(self.steps, behind, np.clip(z - start, 0.0, length))  # [c, k]
        point[self.columns] = passed
        there = self.switches >= 0
        point[self.switches[there]] = (passed > 0)[there]


@dataclass
class Segments:
    """Neurons as they are: a column per segment of their polyline, a binary per inner corner."""

    polyline: ClassVar[bool] = True
    placed: list[Placed] = field(default_factory=list)

    def add(self, builder: ProgramBuilder, neurons: NeuronBatch) -> ColumnForm:
        if not neurons.exact:
            raise ValueError("a function that is no polyline has no exact encoding")
        x, y = neurons.x, neurons.y
        length, rise = np.diff(x, axis=0), np.diff(y, axis=0)  # [c, k]
        steps = (length <= 0) & (rise != 0)
        slope = rise / np.where(length > 0, length, 1.0)
        columns = np.stack([builder.add_columns(np.zeros(x.shape[1]), row) for row in length])
        beside = np.where(steps.any(0), BESIDE_JUMPS * (1 + np.abs(x).max(0)), 0.0)
        builder.add_rows(x[0] - beside, x[0] + beside, [(c, -1.0) for c in columns], neurons.z)
        switches = np.full(columns.shape, -1, dtype=np.int64)
        before = np.full(x.shape[1], -1)  # the segment behind each corner: those of no length are no segments
        for i in range(len(length)):
            here = np.flatnonzero(steps[i])
            if len(here):
                columns[i, here] = _binaries(builder, len(here))
            segment = (length[i] > 0) | steps[i]
            at = np.flatnonzero(segment & (before >= 0))
            if len(at):
                self._corner(builder, i, before[at], at, columns, np.where(steps, 1.0, length), switches, steps)
            before = np.where(segment, i, before)
        self.placed.append(Placed(neurons, columns, switches, steps))
        number = np.broadcast_to(np.arange(x.shape[1]), columns.shape)
        steep = slope != 0
        entries = (slope[steep], (number[steep], columns[steep]))
        return ColumnForm(csr_array(entries, shape=(x.shape[1], builder.columns)), y[0].copy())

    @staticmethod
    def _corner(
        builder: ProgramBuilder,
        i: int,
        last: Indices,
        at: Indices,
        columns: Indices,
        length: Vector,
        switches: Indices,
        steps: Mask,
    ) -> None:
        """Of neurons `at`: nothing of segment i before all of the segment `last` is behind.

        A binary says so: that of a jump, where one of the two is one, or one of the corner's own.
        """
        switch = np.where(steps[last, at], columns[last, at], columns[i, at])
        own = np.flatnonzero(~steps[last, at] & ~steps[i, at])
        if len(own):
            switches[i, at[own]] = switch[own] = _binaries(builder, len(own))
        switch = np.where(steps[i, at], columns[i, at], switch)
        line = np.flatnonzero(~steps[i, at])
        if len(line):
            nothing, infinite = np.zeros(len(line)), np.full(len(line), np.inf)
            builder.add_rows(-infinite, nothing, [(columns[i, at[line]], 1.0), (switch[line], -length[i, at[line]])])
        full = np.flatnonzero(~steps[last, at] | steps[i, at])
        if len(full):
            nothing, infinite = np.zeros(len(full)), np.full(len(full), np.inf)
            behind, most = columns[last[full], at[full]], length[last[full], at[full]]
            builder.add_rows(nothing, infinite, [(behind, 1.0), (switch[full], -most)])


def _binaries(builder: ProgramBuilder, count: int) -> Indices:
    return builder.add_columns(np.zeros(count), np.ones(count), integer=True)


@dataclass(frozen=True)
class ExactEncoding:
    """The program of one example in which some neurons are exact."""

    encoding: Encoding
    placed: Sequence[Placed]

    @property
    def program(self) -> Program:
        return self.encoding.program

    def point(self, start: Vector, values: Sequence[Tensor]) -> Vector:
        """The point [n] of the program that the network itself is at one input.

        Args:
            start: the source's columns. values: of every node there, [1, *shape] float64.
        """
        point = np.zeros(self.program.columns)
        point[self.encoding.inputs] = start
        for own in self.placed:
            y = numbers(values[own.neurons.node])[own.neurons.index]
            own.fill(self._before(own.neurons, values), y, point)
        for hull in self.encoding.hulls:
            if isinstance(hull, PlacedProducts):
                point[hull.out] = numbers(values[hull.node])[hull.index]
                continue
            y = numbers(values[hull.neurons.node])[hull.neurons.index]
            Hull.fill(hull.neurons, hull.out, self._before(hull.neurons, values), y, point)
        return point

    def _before(self, neurons: NeuronBatch, values: Sequence[Tensor]) -> Vector:
        """The pre-activations of some neurons, [k]."""
        return numbers(values[self.encoding.graph.nodes[neurons.node].parents[0]])[neurons.index]


def encode(
    encoder: Encoder, source: ProgramSource, bounds: Bounds, exact: Mapping[int, Mask], until: int | None = None
) -> ExactEncoding:
    """The program of one example from `source` to node `until` (default: the output).

    Args:
        bounds: of every pre-activation in between, a batch of 1: they are the program's big-M.
        exact: activation node -> [size], the neurons to encode exactly where they are unstable; the others get their
            hull. All of them must be piecewise linear.

    Raises:
        EncodingError: a bound that is needed is missing, infinite, NaN or crossed.
        ValueError: a smooth activation is asked for exactly.
    """
    segments = Segments()
    encoding = encoder.encode(source, bounds, until, {i: [(mask, segments)] for i, mask in exact.items()})
    return ExactEncoding(encoding, segments.placed)


def unstable(encoder: Encoder, bounds: Bounds, nodes: Sequence[int]) -> dict[int, Mask]:
    """Per activation of `nodes`: its unstable neurons [size], where these can be encoded exactly."""
    found = {}
    for i in nodes:
        op, interval = encoder.graph.nodes[i].op, bounds[encoder.graph.nodes[i].parents[0]]
        if not isinstance(op, Activation):
            continue
        low, high = interval.lower.double().cpu(), interval.upper.double().cpu()
        walked = op.polyline(low, high)
        if walked is not None:
            short = walked.x.isfinite().all(0)
            found[i] = (op.unstable(low, high) & short).numpy().ravel()
    return found
