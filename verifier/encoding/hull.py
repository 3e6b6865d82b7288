"""Activations inside a program: the protocol of a treatment, and the convex hull."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

import numpy as np

from verifier.encoding.builder import ProgramBuilder
from verifier.encoding.placement import Facet, NeuronBatch, Placement
from verifier.encoding.value import ColumnForm, Indices, Mask, Vector

#: points of a hull that are closer than this, relative to its size, are one point
_RESOLUTION = 1e-12
#: solvers reject larger entries
_STEEPEST = 1e12


class Treatment(Protocol):
    """How chosen neurons enter the program."""

    #: whether it reads the corners of the graph as a polyline, not those of its hull
    polyline: ClassVar[bool]

    def add(self, builder: ProgramBuilder, neurons: NeuronBatch) -> ColumnForm:
        """Adds the columns and rows that tie the neurons' outputs to `neurons.z`; returns the outputs, k rows."""


class Hull:
    """The convex hull of the graph: the linear relaxation (the triangle for a ReLU).

    Two columns per neuron: its output y and the distance p = y - (s z + t) to the steepest side of the hull, which is
    the one row that holds z written out. The other sides are rows of y and p alone, flat ones bounds of y. So a
    pre-activation with many entries is in the program once, and the basis is as small as with z substituted. Biases
    are those of the outermost corner: no corner is cut off.
    """

    polyline: ClassVar[bool] = False

    def add(self, builder: ProgramBuilder, neurons: NeuronBatch) -> ColumnForm:
        sides, steepest, sloped = _sides(neurons)
        count = len(steepest)
        out = builder.add_columns(neurons.y.min(0), neurons.y.max(0))
        gap, tied, rows = np.full(count, -1), np.full(count, -1), np.full((len(sides), count), -1)
        slope, bias = _chosen(sides, steepest)
        at = np.flatnonzero(sloped)
        if len(at):
            distance = (neurons.y - slope * neurons.x - bias)[:, at]
            gap[at] = builder.add_columns(distance.min(0), distance.max(0))
            z = neurons.z if len(at) == count else neurons.z.rows(at)
            tied[at] = builder.add_rows(bias[at], bias[at], [(out[at], 1.0), (gap[at], -1.0)], z, -slope[at])
            builder.share(neurons.node, neurons.index[at], tied[at], -slope[at])
        for number, side in enumerate(sides):
            at = np.flatnonzero(side.valid & (steepest != number))
            if len(at):
                share = side.slope[at] / slope[at]  # z = (y - p - t) / s
                limit, none = side.bias[at] - share * bias[at], np.full(len(at), np.inf)
                low, high = (limit, none) if side.below else (-none, limit)
                rows[number, at] = builder.add_rows(low, high, [(out[at], 1 - share), (gap[at], share)])
        for at, low, high in _ends(neurons.x, neurons.y):
            ends = builder.add_rows(low, high, [], neurons.z.rows(at), 1.0)
            builder.share(neurons.node, neurons.index[at], ends, 1.0)
        builder.hulls.append(Placement(neurons, out, gap, sides, steepest, tied, rows))
        return builder.unit(out)

    @staticmethod
    def fill(neurons: NeuronBatch, out: Indices, z: Vector, y: Vector, point: Vector) -> None:
        """Set the neurons' columns in a point [n] of the program; `out` [k] holds their outputs, z and y are [k]."""
        sides, steepest, sloped = _sides(neurons)
        slope, bias = _chosen(sides, steepest)
        at = np.flatnonzero(sloped)
        point[out] = y
        if len(at):
            point[out[-1] + 1 + np.arange(len(at))] = (y - slope * z - bias)[at]


def _sides(neurons: NeuronBatch) -> tuple[list[Facet], Indices, Mask]:
    """The sides of the hulls, the number of the steepest one of each neuron, and which neurons have any [k]."""
    sides = facets(neurons.x, neurons.y)
    if not sides:
        return sides, np.zeros(neurons.x.shape[1], dtype=np.int64), np.zeros(neurons.x.shape[1], dtype=bool)
    slopes = np.abs(np.stack([f.slope for f in sides]))
    return sides, slopes.argmax(0), np.asarray(slopes.any(0))


def _chosen(sides: Sequence[Facet], number: Indices) -> tuple[Vector, Vector]:
    """Slope and bias [k] of one side of each neuron."""
    if not sides:
        return np.zeros(len(number)), np.zeros(len(number))
    at = np.arange(len(number))
    return np.stack([f.slope for f in sides])[number, at], np.stack([f.bias for f in sides])[number, at]


def facets(x: Vector, y: Vector) -> list[Facet]:
    """The sides of the convex hull of points x, y [K, k] that are neither vertical nor horizontal."""
    found = []
    for below in (True, False):
        side = 1.0 if below else -1.0
        for valid, slope in _lower_chain(x, side * y):
            bias = (side * y - slope * x).min(0)
            valid = valid & (slope != 0) & (np.abs(slope) < _STEEPEST)  # a side that is left out cuts nothing off
            if valid.any():
                found.append(Facet(below, valid, np.where(valid, side * slope, 0.0), side * bias))
    return found


def _lower_chain(x: Vector, y: Vector) -> Iterator[tuple[Mask, Vector]]:
    """Slopes of the lower hull from left to right, by gift wrapping; valid [k], slope [k]."""
    near = _RESOLUTION * (np.ptp(x, axis=0) + np.finfo(float).tiny)
    here, height = _leftmost(x, y)
    for _ in range(len(x) - 1):
        step = x - here
        ahead = step > near
        slopes = np.where(ahead, (y - height) / np.where(ahead, step, 1.0), np.inf)
        slope = slopes.min(0)
        valid = np.isfinite(slope)
        if not valid.any():
            return
        yield valid, np.where(valid, slope, 0.0)
        # of the points on the line the farthest one
        reached = np.where(slopes <= slope + _RESOLUTION * (1 + np.abs(slope)), np.where(ahead, x, -np.inf), -np.inf)
        best = reached.argmax(0)
        at = np.arange(x.shape[1])
        here, height = np.where(valid, x[best, at], here), np.where(valid, y[best, at], height)


def _leftmost(x: Vector, y: Vector) -> tuple[Vector, Vector]:
    """The lowest of the leftmost points."""
    left = x.min(0)
    near = _RESOLUTION * (np.ptp(x, axis=0) + np.finfo(float).tiny)
    return left, np.where(x <= left + near, y, np.inf).min(0)


def _ends(x: Vector, y: Vector) -> Iterator[tuple[Indices, Vector, Vector]]:
    """Neurons whose hull has an end that its sides do not imply, with the limits of x there.

    That is so where the end is a vertical side, and where the hull is no more than a segment (whose two sides are one
    line): its end is implied only by y's limits, which say nothing where the segment is flat.
    """
    span = np.ptp(y, axis=0)
    tall = []
    for side in (1.0, -1.0):
        _, low = _leftmost(side * x, y)
        _, high = _leftmost(side * x, -y)
        tall.append(-high - low > _RESOLUTION * (span + np.finfo(float).tiny))
    flat = (span == 0) & (np.ptp(x, axis=0) > 0)
    for at, low, high in (
        (np.flatnonzero(tall[0] | flat), x.min(0), np.full(x.shape[1], np.inf)),
        (np.flatnonzero(tall[1] | flat), np.full(x.shape[1], -np.inf), x.max(0)),
    ):
        if len(at):
            yield at, low[at], high[at]
