"""Where activations and products are in a program: the sides of their hulls, and the columns and rows of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verifier.encoding.value import ColumnForm, Indices, Mask, Vector


@dataclass(frozen=True)
class NeuronBatch:
    """Some neurons of one activation, with what is known of each."""

    node: int  #: the activation
    index: Indices  # [k]: which entries of it, ascending
    z: ColumnForm  #: their pre-activations, k rows
    x: Vector  # [K, k]: points whose convex hull holds the graph over the interval of each
    y: Vector  # [K, k]
    exact: bool  #: the graph is the polyline through the points, in their order


@dataclass(frozen=True)
class Facet:
    """One side of each neuron's hull: y >= slope x + bias where `below`, else y <= slope x + bias."""

    below: bool
    valid: Mask  # [k]
    slope: Vector  # [k]
    bias: Vector  # [k]


@dataclass(frozen=True)
class Placement:
    """Where the hulls of some neurons are in the program."""

    neurons: NeuronBatch
    out: Indices  # [k]: columns of the outputs y
    gap: Indices  # [k]: columns of the distance to the steepest side; -1 where all sides are flat
    sides: Sequence[Facet]
    steepest: Indices  # [k]: number of that side
    tied: Indices  # [k]: the equalities that hold z; -1 where all sides are flat
    rows: Indices  # [sides, k]: the rows of the other sides; -1 where there is none


@dataclass(frozen=True)
class PlacedProducts:
    """Where McCormick's hulls of some products are in the program."""

    node: int
    index: Indices  # [k]: which entries of it, ascending
    left: ColumnForm  #: their left factors, k rows
    right: ColumnForm
    out: Indices  # [k]: columns of the products
    slopes: Vector  # [4, 2, k]: of the planes, two below and two above
    rows: Indices  # [4, k]: the row of each plane
