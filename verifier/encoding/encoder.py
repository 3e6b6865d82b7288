"""From a graph with bounds to a program: one encoder per graph, one encoding per example."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array, hstack
from torch import Tensor

from properties import InputSet
from properties.lifted import Lifted
from solvers import Program
from solvers.base import Basis
from verifier.bound_map import Bounds
from verifier.budget import checkpoint
from verifier.device import ask_memory
from verifier.encoding.activation import Encoded, EncodingError, Neuronwise
from verifier.encoding.builder import ProgramBuilder, Shares
from verifier.encoding.hull import Treatment
from verifier.encoding.placement import PlacedProducts, Placement
from verifier.encoding.planes import Planes
from verifier.encoding.products import EncodedProducts, Products
from verifier.encoding.start import starts
from verifier.encoding.value import ColumnForm, Indices, Mask, Vector, product, spread, stacked, widened
from verifier.forms import Dense
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine
from verifier.ops.product import Product

#: share of entries from which on functionals are pulled back as dense tensors: a sparse product takes about so much
#: longer for each of its terms
_DENSE = 0.2
#: neurons whose pre-activations are pulled back at once, at first; more once that has taken no longer than a moment, in
#: seconds: so the clock is looked at in between
_AT_FIRST, _MOMENT = 1024, 0.1
#: bytes of an entry of the rows in which pre-activations are written: as they are, put together, in the program and
#: as a solver has it
_ENTRY = 4 * 12.0


@dataclass(frozen=True)
class ProgramRows:
    """Rows  lower <= matrix @ columns <= upper  of the columns that a program starts with."""

    matrix: csr_array  # [m, n]
    lower: Vector  # [m]
    upper: Vector  # [m]

    def loosened(self, share: float, width: Vector) -> ProgramRows:
        """Inequalities by that share of the largest |coefficient| times width [n] of its column: see `Planes`."""
        moved = abs(self.matrix * width[None, :]).max(axis=1).toarray().ravel() if self.matrix.nnz else 0.0
        slack = np.where(self.lower == self.upper, 0.0, share * moved)
        return ProgramRows(self.matrix, self.lower - slack, self.upper + slack)


@dataclass(frozen=True)
class ProgramSource:
    """Where a program starts: columns with bounds, and the values of some nodes on them.

    The nodes must cut the graph: whatever is encoded depends on the input through them alone.
    """

    lower: Vector  # [n]
    upper: Vector  # [n]
    values: Mapping[int, ColumnForm]
    rows: ProgramRows | None = None  #: of the columns
    tied: int = 0  #: see `properties.lifted.Lifted`
    #: whether the columns say all that there is to say of the input set: no half-space says more
    whole: bool = False

    @classmethod
    def of_set(cls, inputs: InputSet) -> ProgramSource:
        """What a linear program should start from: the set of one example where it is lifted, else its box.

        Only the proof, which asks the set itself, has to hold everywhere: roundings that are next to nothing are left
        out, and so are rows that the set's support function does not know of.
        """
        lifted = inputs.lifted()
        if lifted is None:
            return cls.of_inputs(inputs)
        return cls.of_lifted(lifted if lifted.supported else lifted.without_rows(), spare=not lifted.thin)

    @classmethod
    def of_lifted(cls, lifted: Lifted, spare: bool = True) -> ProgramSource:
        """A set by the columns that it is the image of, with a column more for each entry's `spare` where wanted."""
        matrix, lower, upper, rows = lifted.matrix, lifted.lower, lifted.upper, lifted.rows
        free = np.flatnonzero(lifted.spare > 0) if spare else np.zeros(0, dtype=np.int64)
        if len(free):
            ends = np.arange(len(free) + 1, dtype=np.int32)
            own = csr_array((np.ones(len(free)), ends[:-1], ends), shape=(len(free), len(free)))
            matrix = csr_array(hstack([matrix, spread(own, free, len(lifted.bias))], format="csr"))
            matrix.sort_indices()
            rows = widened(rows, matrix.shape[1])
            lower = np.concatenate([lower, -lifted.spare[free]])
            upper = np.concatenate([upper, lifted.spare[free]])
        said = np.diff(rows.indptr) > 0  # rows without columns hold anyhow
        known = ProgramRows(rows[said], lifted.row_lower[said], lifted.row_upper[said]) if said.any() else None
        return cls(lower, upper, {0: ColumnForm(matrix, lifted.bias)}, known, lifted.tied, whole=True)

    @classmethod
    def of_inputs(cls, inputs: InputSet) -> ProgramSource:
        """The box of one example (a batch of 1); entries that cannot move have no column.

        Of a set that is no box this is the interval hull: `Encoding.cut` says more of it.

        Raises:
            ValueError: more than one example.
        """
        if inputs.batch != 1:
            raise ValueError(f"a program starts from the box of one example, not of {inputs.batch}")
        low, high = (b.double().cpu().numpy().ravel() for b in inputs.box(torch.float64))
        free = np.flatnonzero(low < high)
        ends = np.arange(len(free) + 1, dtype=np.int32)
        units = csr_array((np.ones(len(free)), ends[:-1], ends), shape=(len(free), len(free)))
        bias = np.where(low < high, 0.0, low)
        return cls(low[free], high[free], {0: ColumnForm(spread(units, free, len(low)), bias)}, whole=inputs.is_box)

    def loosened(self, share: float) -> ProgramSource:
        """The inequalities of the columns loosened, as those of `Planes.on_columns`."""
        if self.rows is None:
            return self
        return replace(self, rows=self.rows.loosened(share, self.upper - self.lower))

    @classmethod
    def of_region(cls, node: int, center: Tensor, generators: Tensor | csr_array) -> ProgramSource:
        """center + generators . e with e in [-1, 1]^n: center [*shape] or [size], generators [n, size] or sparse."""
        if isinstance(generators, Tensor):
            generators = csr_array(generators.detach().double().cpu().flatten(1).numpy())
        count = generators.shape[0]
        value = ColumnForm(csr_array(generators.T), center.detach().double().cpu().numpy().ravel())
        return cls(-np.ones(count), np.ones(count), {node: value})


@dataclass(frozen=True)
class Encoding:
    """The program of one example, and what its columns and rows mean."""

    program: Program
    graph: Graph
    source: ProgramSource
    until: int  #: the encoded node
    wanted: Mask | None  # [size of it]: the entries that may be asked about; None: all
    pull: Callable[[csr_array], ColumnForm] = field(repr=False)
    shares: Sequence[Shares]
    activations: tuple[int, ...]  #: those between the source and the encoded node
    hulls: Sequence[Placement | PlacedProducts] = ()

    @property
    def inputs(self) -> slice:
        """The source's columns."""
        return slice(0, len(self.source.lower))

    def cost(self, rows: Vector, offset: Vector) -> tuple[Vector, Vector]:
        """Costs [S, n] and constants [S] of functionals rows [S, size of the encoded node], offset [S].

        Raises:
            ValueError: a functional asks about entries that the program was not made for.
        """
        rows = np.asarray(rows, dtype=np.float64)
        if self.wanted is not None and rows[:, ~self.wanted].any():
            raise ValueError("the program was made for other entries of the node")
        ask_memory(8.0 * len(rows) * self.program.columns)
        value = self.pull(csr_array(rows))
        return value.matrix.toarray(), value.bias + offset

    def cut(self, planes: Planes, slack: float = 0.0) -> Encoding:
        """The same program with half-spaces that hold the input set.

        Their duals are no multipliers: a bound is computed on the set itself, and what a plane has done for it is in
        the multipliers of the activations. `slack`: as of `Planes.on_columns`.
        """
        if len(planes) == 0:
            return self
        value = self.source.values[0]
        rows, limits = planes.on_columns(value.matrix, value.bias, (self.source.lower, self.source.upper), slack)
        rows = csr_array(np.pad(rows, ((0, 0), (0, self.program.columns - rows.shape[1]))))
        return replace(self, program=self.program.with_rows(rows, limits, np.full(len(limits), np.inf)))

    def starts(self, costs: Vector) -> list[Basis]:
        """A basis for each question, costs [q, n]: where the dual bound stands (verifier.encoding.start)."""
        return starts(self.program, self.hulls, costs, self.source.tied)

    def multipliers(self, row_duals: Vector) -> dict[int, Tensor]:
        """Row duals [S, m] as multipliers nu of every activation, [1, S, *its ports]."""
        duals = np.asarray(row_duals, dtype=np.float64)
        return {
            node: torch.from_numpy(np.asarray((matrix @ duals.T).T)).reshape(1, len(duals), *self.graph.ports(node))
            for node, matrix in self._shares_of.items()
        }

    @cached_property
    def _shares_of(self) -> dict[int, csr_array]:
        """Per activation node: [size, m], minus the factors of its pre-activations in the rows."""
        matrices = {}
        for node in self.activations:
            own = [s for s in self.shares if s.node == node]
            size = (prod(self.graph.ports(node)), self.program.rows)
            if not own:
                matrices[node] = csr_array(size)
                continue
            neurons, rows = (np.concatenate([getattr(s, name) for s in own]) for name in ("neurons", "rows"))
            matrices[node] = csr_array((-np.concatenate([s.factors for s in own]), (neurons, rows)), shape=size)
        return matrices

    def input_of(self, primal: Vector, node: int = 0) -> Tensor:
        """The value of a source node (the input) at a point [n] of the program, [*shape]."""
        value = self.source.values[node]
        x = value.matrix @ np.asarray(primal, dtype=np.float64)[self.inputs] + value.bias
        return torch.from_numpy(x).reshape(self.graph.nodes[node].shape)


class Encoder:
    """Programs of one graph. What does not depend on the example is computed once and kept here.

    Args:
        graph: any precision; it is encoded in float64.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph.to("cpu", torch.float64)
        self._matrices: dict[int, list[csr_array]] = {}
        self._biases: dict[int, Vector] = {}
        self._patterns: dict[int, list[csc_array]] = {}

    def relaxed(
        self, inputs: InputSet, bounds: Bounds, until: int | None = None, kept: Mapping[int, Tensor] | None = None
    ) -> Encoding:
        """The linear relaxation of one example (a batch of 1) from its set to node `until` (default: the output).

        Args:
            kept: activation node -> bool [1, *shape], as of `encode`.
        """
        return self.encode(ProgramSource.of_set(inputs), bounds, until, kept=kept)

    def encode(
        self,
        source: ProgramSource,
        bounds: Bounds,
        until: int | None = None,
        treatments: Mapping[int, Sequence[tuple[Mask, Treatment]]] | None = None,
        kept: Mapping[int, Tensor] | None = None,
        wanted: Mask | None = None,
    ) -> Encoding:
        """The program of one example from `source` to node `until`.

        Unstable neurons get their hull, or the treatment that names them first; stable ones are their line.

        Args:
            bounds: of every pre-activation in between, a batch of 1.
            treatments: activation node -> (mask [size], treatment) of neurons that are not to get their hull.
            kept: activation node -> bool [1, *shape]: stable neurons whose interval is a constraint (splits).
            wanted: entries [size] of `until` that will be asked about (default: all).

        Raises:
            EncodingError: a bound that is needed is missing, infinite, NaN or crossed.
        """
        until = self.graph.output if until is None else until
        between = self._between(source, until)
        activations: dict[int, Neuronwise | Products] = {}
        for node in between:
            checkpoint()
            op = self.graph.nodes[node].op
            if isinstance(op, Product):
                activations[node] = Products.of(op, node, self.graph.nodes[node].parents[0], bounds)
            elif isinstance(op, Activation):
                own = list((treatments or {}).get(node, ()))
                mask = None if kept is None or node not in kept else kept[node].reshape(-1).cpu().numpy()
                activations[node] = Neuronwise.of(op, node, self.graph.nodes[node].parents[0], bounds, own, mask)
        needed = self._needed(source, until, between, activations, wanted)
        builder, encoded = ProgramBuilder(), dict[int, Encoded | EncodedProducts]()
        builder.add_columns(source.lower, source.upper)
        if source.rows is not None:
            builder.add_rows(source.rows.lower, source.rows.upper, [], ColumnForm(source.rows.matrix, np.zeros(1)))
        for node, neurons in activations.items():
            checkpoint()
            index = np.flatnonzero(needed[node] & neurons.treated)
            entries = neurons.entries(index)
            z = self._entries(source, encoded, self.graph.nodes[node].parents[0], entries, builder.columns)
            encoded[node] = neurons.add(builder, index, z)
        program = builder.program()
        pull = partial(self._pulled, source, encoded, until, columns=program.columns)
        return Encoding(
            program, self.graph, source, until, wanted, pull, builder.shares, tuple(activations), builder.hulls
        )

    def _between(self, source: ProgramSource, until: int) -> list[int]:
        """Nodes that `until` depends on, without the source and what lies before it; in topological order."""
        found, todo = set(), [until]
        while todo:
            node = todo.pop()
            if node in found or node in source.values:
                continue
            if node == 0:
                raise EncodingError("the network's input is not behind the nodes that the program starts from")
            found.add(node)
            todo.extend(self.graph.nodes[node].parents)
        return sorted(found)

    def _needed(
        self,
        source: ProgramSource,
        until: int,
        between: Sequence[int],
        activations: Mapping[int, Neuronwise | Products],
        wanted: Mask | None,
    ) -> dict[int, Mask]:
        """Per node: entries on which the wanted ones, or a kept interval, may depend; bool [size]."""
        nodes = self.graph.nodes
        needed = {i: np.zeros(nodes[i].size, dtype=bool) for i in (*source.values, *between, until)}
        needed[until] |= True if wanted is None else wanted
        for node in reversed(between):
            checkpoint()
            if node in activations:
                needed[node] |= activations[node].kept
                needed[nodes[node].parents[0]] |= activations[node].reads(needed[node])
                continue
            rows = needed[node].astype(np.float32)
            for parent, reads in zip(nodes[node].parents, self._reads(node), strict=True):
                needed[parent] |= reads @ rows > 0
        return needed

    def _entries(
        self,
        source: ProgramSource,
        encoded: Mapping[int, Encoded | EncodedProducts],
        node: int,
        index: Indices,
        columns: int,
    ) -> ColumnForm:
        """Some entries of a node as functions of the columns, as many at once as take a moment."""
        if len(index) == 0:
            return ColumnForm(csr_array((0, columns)), np.zeros(0))
        if node in source.values:
            part = source.values[node].rows(index)
            return ColumnForm(widened(part.matrix, columns), part.bias)
        parts, first, count, size = list[ColumnForm](), 0, _AT_FIRST, self.graph.nodes[node].size
        while first < len(index):
            own, began = index[first : first + count], time.monotonic()
            ends = np.arange(len(own) + 1, dtype=np.int32)
            units = csr_array((np.ones(len(own)), own.astype(np.int32), ends), shape=(len(own), size))
            parts.append(self._pulled(source, encoded, node, units, columns=columns, unit=own))
            done = min(len(index), first + count)
            ask_memory(_ENTRY * sum(part.matrix.nnz for part in parts) * (len(index) / done))
            first, count = first + count, count if time.monotonic() - began > _MOMENT else 4 * count
        return parts[0] if len(parts) == 1 else stacked(parts)

    def _pulled(
        self,
        source: ProgramSource,
        encoded: Mapping[int, Encoded | EncodedProducts],
        node: int,
        rows: csr_array,
        *,
        columns: int,
        unit: Indices | None = None,
    ) -> ColumnForm:
        """Functionals rows [r, size] of a node as functions of the columns, r rows: pulled back as in a dual network.

        Only what the functionals reach is multiplied out. `unit`: the rows are units at these entries.
        """
        pending, parts, bias = {node: rows}, [], np.zeros(rows.shape[0])
        for i in range(node, -1, -1):
            here = pending.pop(i, None)
            if here is None or here.nnz == 0:
                continue
            checkpoint()
            if i in source.values:
                own = source.values[i]
                parts.append(product(here, widened(own.matrix, columns)))
                bias += here @ own.bias
                continue
            parents = self.graph.nodes[i].parents
            if i in encoded:
                below, treated, constant = encoded[i].pulled(here, columns)
                parts.append(treated)
                bias += constant
                _add(pending, parents[0], below)
                continue
            bias += here @ self.bias(i)
            for k, parent in enumerate(parents):
                start = unit is not None and i == node
                _add(pending, parent, self.matrices(i)[k][unit] if start else self._adjoint(i, k, here))
        total = csr_array((rows.shape[0], columns))
        for part in parts:
            total = total + part if total.nnz else part
        return ColumnForm(total, bias)

    def _adjoint(self, node: int, parent: int, rows: csr_array) -> csr_array:
        """Functionals [r, size] of an affine node as functionals of parent number `parent`."""
        matrix = self.matrices(node)[parent]
        if rows.nnz < _DENSE * rows.shape[0] * rows.shape[1] or matrix.nnz < 8 * rows.shape[1]:
            return product(rows, matrix)
        op = self.graph.nodes[node].op
        assert isinstance(op, Affine)
        form = Dense(torch.from_numpy(rows.toarray()).reshape(1, -1, *self.graph.nodes[node].shape))
        with torch.no_grad():
            pulled = op.adjoint(form, self.graph.parent_shapes(node), parent).dense()
        return csr_array(pulled.reshape(rows.shape[0], matrix.shape[1]).numpy())

    def matrices(self, node: int) -> list[csr_array]:
        """The matrices of an affine node, one per parent, [size, size of the parent]."""
        if node not in self._matrices:
            op = self.graph.nodes[node].op
            assert isinstance(op, Affine)
            self._matrices[node] = op.to_sparse(self.graph.parent_shapes(node))
        return self._matrices[node]

    def _reads(self, node: int) -> list[csc_array]:
        """Which entries of each parent the entries of an affine node read, [size of the parent, size], as ones."""
        if node not in self._patterns:
            parts = ((np.ones(m.nnz, dtype=np.float32), m.indices, m.indptr) for m in self.matrices(node))
            sizes = (m.shape[::-1] for m in self.matrices(node))
            self._patterns[node] = [csc_array(part, shape=size) for part, size in zip(parts, sizes, strict=True)]
        return self._patterns[node]

    def bias(self, node: int) -> Vector:
        """The bias of an affine node, [size]."""
        if node not in self._biases:
            op, size = self.graph.nodes[node].op, self.graph.nodes[node].size
            assert isinstance(op, Affine)
            like = torch.zeros((), dtype=torch.float64)
            bias = op.bias(self.graph.parent_shapes(node), like)
            self._biases[node] = np.zeros(size) if bias is None else bias.detach().double().numpy().ravel()
        return self._biases[node]


def _add(pending: dict[int, csr_array], node: int, rows: csr_array) -> None:
    pending[node] = pending[node] + rows if node in pending else rows
