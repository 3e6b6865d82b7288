"""A network with everything linear multiplied out, leaving one unknown per neuron that a relaxation is needed for.

Given bounds of the pre-activations, a stable neuron is a line, and whatever lies between the unstable ones is affine.
`Condensed` keeps, per example, the matrices from the input and from the outputs of earlier unstable neurons to the
pre-activations of later ones. A backward pass over these matrices costs what the unstable neurons cost (about 150 of
4800 in Wong & Kolter's small network), so that the hundreds of passes of an optimisation are paid for by one backward
pass per unstable neuron. Any values of the unknowns that a relaxation allows are allowed here: bounds found on the
condensed network are bounds of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from properties import InputSet
from verifier.budget import checkpoint
from verifier.forms import Dense, LinearForm, Selected
from verifier.graph import Graph
from verifier.ops.base import LinearRelaxation, Nonlinear, SlopeRule
from verifier.ops.product import Product
from verifier.relaxation.backward import OneSided, pull_back
from verifier.relaxation.picking import chosen, take

Size = tuple[int, ...]


@dataclass(frozen=True)
class Functionals:
    """R affine functionals per example of the input and of the outputs of unstable neurons."""

    outputs: Mapping[int, Tensor]  #: activation node -> [B, R, n] coefficients on its unstable neurons' outputs
    inputs: Tensor  # [B, R, N]
    constant: Tensor  # [B, R]

    def both_signs(self) -> Functionals:
        """The functionals, then their negatives: [B, 2 R]."""
        outputs = {i: torch.cat([c, -c], 1) for i, c in self.outputs.items()}
        return Functionals(
            outputs, torch.cat([self.inputs, -self.inputs], 1), torch.cat([self.constant, -self.constant], 1)
        )

    def rows(self, index: Tensor) -> Functionals:
        """Rows index [B, k] of each example."""
        outputs = {i: take(c, index) for i, c in self.outputs.items()}
        return Functionals(outputs, take(self.inputs, index), self.constant.gather(1, index))

    def to(self, dtype: torch.dtype) -> Functionals:
        """In another precision."""
        outputs = {i: c.to(dtype) for i, c in self.outputs.items()}
        return Functionals(outputs, self.inputs.to(dtype), self.constant.to(dtype))

    def select(self, examples: Tensor) -> Functionals:  # [k] int64
        return Functionals({i: c[examples] for i, c in self.outputs.items()}, self.inputs[examples],
                           self.constant[examples])  # fmt: skip

    def joined(self, other: Functionals) -> Functionals:
        """The rows of self, then those of other."""
        outputs = {i: torch.cat([c, other.outputs[i]], 1) for i, c in self.outputs.items()}
        return Functionals(
            outputs, torch.cat([self.inputs, other.inputs], 1), torch.cat([self.constant, other.constant], 1)
        )


@dataclass(frozen=True)
class Unknowns:
    """The unstable neurons of one activation: n per example, padded where examples have differently many.

    Of a product: those of which both factors vary. What they read is two entries each, the left factors first, then the
    right ones.
    """

    node: int
    op: Nonlinear
    shape: Size  #: of the activation
    index: Tensor  # [B, n] into the flattened activation
    valid: Tensor  # [B, 1, n] bool: False where it is padding
    lower: Tensor  # [B, 1, n] bounds of the pre-activations; [B, 1, 2, n] of a product's factors
    upper: Tensor
    before: Functionals  #: the pre-activations, n rows, or 2 n

    def select(self, examples: Tensor) -> Unknowns:  # [k] int64
        moved = {name: getattr(self, name)[examples] for name in ("index", "valid", "lower", "upper")}
        return replace(self, before=self.before.select(examples), **moved)

    def to(self, dtype: torch.dtype) -> Unknowns:
        """In another precision."""
        return replace(self, lower=self.lower.to(dtype), upper=self.upper.to(dtype), before=self.before.to(dtype))

    def gathered(self, full: Tensor) -> Tensor:
        """[B, R, *shape] -> [B, R, n], zero in the padding."""
        flat = full.flatten(2)
        return flat.gather(2, self.index.unsqueeze(1).expand(-1, flat.shape[1], -1)).masked_fill(~self.valid, 0.0)

    def scattered(self, compact: Tensor) -> Tensor:
        """[B, R, n] -> [B, R, *shape], zero for all other neurons."""
        size = int(torch.Size(self.shape).numel())
        full = compact.new_zeros(*compact.shape[:2], size)
        index = self.index.unsqueeze(1).expand_as(compact)
        return full.scatter_add(2, index, compact.masked_fill(~self.valid, 0.0)).unflatten(2, self.shape)

    def on_ports(self, nu: Tensor) -> Tensor:
        """Multipliers [B, R, n or 2 n] of what is read, as `multiplied` takes them: [B, R, *shape] or [B, R, 2, M]."""
        if not isinstance(self.op, Product):
            return self.scattered(nu)
        return torch.stack([self.scattered(part) for part in nu.chunk(2, 2)], 2)

    def of_ports(self, full: Tensor) -> Tensor:
        """The way back: [B, R, n or 2 n] from [B, R, *shape] or [B, R, 2, M]."""
        if not isinstance(self.op, Product):
            return self.gathered(full)
        return torch.cat([self.gathered(part) for part in full.unbind(2)], 2)


class Rows(Protocol):
    """R affine functionals per example, in whatever terms their network has them."""

    @property
    def constant(self) -> Tensor:  # [B, R]
        """Their constants."""

    def rows(self, index: Tensor) -> Self:
        """Rows index [B, k] of each example."""

    def select(self, examples: Tensor) -> Self:  # [k] int64
        """Of these examples."""


class Evaluable(Protocol):
    """A network whose rows are bounded again and again, each time with other relaxations of its unknowns."""

    @property
    def graph(self) -> Graph:
        """The network itself."""

    @property
    def inputs(self) -> InputSet:
        """What its inputs may be."""

    @property
    def unknowns(self) -> tuple[Unknowns, ...]:
        """Whose relaxations vary, in topological order."""

    def select(self, examples: Tensor) -> Self:  # [k] int64
        """Of these examples, for evaluation only."""

    def bound(self, rows: Any, below: Below, ended: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Lower bounds [B, R] of its rows, each unknown replaced as `below` says.

        `ended` bounds forms [B, R, N] over the input sets, where that is not to be their exact minimum.
        """

    def multipliers(self, inputs: Tensor, near: Tensor | None) -> Tensor | None:
        """What `ended_at` takes for forms like these [B, R, N], from what it took for others; None: nothing."""

    def ended_at(self, inputs: Tensor, multipliers: Tensor | None) -> Tensor:
        """A lower bound of the forms [B, R, N] over the input sets, found faster than their minimum."""


#: from unknowns and the coefficients nu_hat [B, R, n] on their outputs: nu [B, R, n] on their inputs, constants [B, R]
Below = Callable[[Unknowns, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Condensed:
    """A batch of condensed networks: the unknowns in topological order.

    `settled` holds, per activation, slope and bias [B, *shape] of the neurons that are no unknowns, zero for those
    that are; of a product, slopes [B, 2, M].
    """

    graph: Graph
    inputs: InputSet
    unknowns: tuple[Unknowns, ...] = ()
    settled: Mapping[int, tuple[Tensor, Tensor]] | None = None

    def functionals(self, node: int, form: LinearForm, like: Tensor) -> Functionals:
        """The rows of a form on `node`, whose activations below are all known here.

        Args:
            form: [B or 1, R, *shape]. like: any tensor of the precision and device to work in.
        """
        found: dict[int, Tensor] = {}
        settled = self.settled or {}
        by_node = {u.node: u for u in self.unknowns}
        lowerings = {i: self._settled(i, by_node.get(i), lines, found) for i, lines in settled.items()}
        state, constant = pull_back(self.graph, lowerings, node, OneSided(form), like)
        lead = (self.inputs.batch, form.rows)
        size = int(torch.Size(self.graph.input_shape).numel())
        inputs = like.new_zeros(1, 1, size) if state is None else state.one_sided().form.dense().flatten(2)
        return Functionals(found, inputs.expand(*lead, size), constant.expand(lead))

    def _settled(
        self, node: int, unknowns: Unknowns | None, lines: tuple[Tensor, Tensor], found: dict[int, Tensor]
    ) -> _SettledNeurons | _SettledProducts:
        noted = _Noted(node, unknowns, found)
        op, parent = self.graph.nodes[node].op, self.graph.nodes[self.graph.nodes[node].parents[0]].shape
        return (
            _SettledProducts(noted, *lines, op, parent) if isinstance(op, Product) else _SettledNeurons(noted, *lines)
        )

    def of_neurons(self, node: int, index: Tensor, like: Tensor, at_once: int) -> Functionals:
        """Neurons index [B, n] of the flattened `node`, `at_once` rows of a dense form at a time."""
        total: Functionals | None = None
        for part in index.split(at_once, 1):
            some = self.functionals(node, Selected(part, self.graph.nodes[node].shape, like), like)
            total = some if total is None else total.joined(some)
        assert total is not None
        return total

    def with_activation(
        self, node: int, lower: Tensor, upper: Tensor, free: Tensor, before: Callable[[Tensor], Functionals]
    ) -> Condensed:
        """One more activation over [lower, upper] ([B, *shape]) whose unknowns are `free` ([B, *shape] bool).

        Of a product: those of which both factors vary, whatever `free` says. `before` gives the pre-activations of the
        entries [B, n] that it is asked for.
        """
        op = self.graph.nodes[node].op
        assert isinstance(op, Nonlinear)
        lines = op.relax(lower, upper, SlopeRule.ADAPTIVE)
        if isinstance(op, Product):
            free = op.varies(lower, upper)
        settled = {**(self.settled or {}), node: _settled(lines, free)}
        index, valid = chosen(free.flatten(1))
        if index.shape[1] == 0:
            return replace(self, settled=settled)
        reads, low, high = index, lower, upper
        shape = tuple(self.graph.nodes[node].shape)
        if isinstance(op, Product):
            reads = torch.cat([op.left[index], op.right[index]], 1)
            low, high = (t.flatten(1).gather(1, reads).unflatten(1, (2, -1)).unsqueeze(1) for t in (lower, upper))
        else:
            low, high = (t.flatten(1).gather(1, index).unsqueeze(1) for t in (lower, upper))
        new = Unknowns(node, op, shape, index, valid.unsqueeze(1), low, high, before(reads))
        return replace(self, unknowns=(*self.unknowns, new), settled=settled)

    def select(self, examples: Tensor) -> Condensed:  # [k] int64
        """For evaluation only: the lines of settled neurons are left behind."""
        chosen_unknowns = tuple(u.select(examples) for u in self.unknowns)
        return Condensed(self.graph, self.inputs.select(examples), chosen_unknowns)

    def to(self, dtype: torch.dtype) -> Condensed:
        """In another precision, for evaluation only; the input sets keep theirs."""
        return Condensed(self.graph, self.inputs, tuple(u.to(dtype) for u in self.unknowns))

    def bound(self, rows: Functionals, below: Below, ended: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Lower bounds [B, R] of the functionals, each unknown replaced as `below` says.

        `ended` bounds forms [B, R, N] over the input sets, where that is not to be their exact minimum.
        """
        pending, inputs, constant = dict(rows.outputs), rows.inputs, rows.constant
        for u in reversed(self.unknowns):
            nu_hat = pending.pop(u.node, None)
            if nu_hat is None:
                continue
            checkpoint()
            nu, joined = below(u, nu_hat)
            constant = constant + joined + torch.bmm(nu, u.before.constant.unsqueeze(2)).squeeze(2)
            inputs = torch.baddbmm(inputs, nu, u.before.inputs)
            for i, matrix in u.before.outputs.items():
                more = torch.bmm(nu, matrix)
                pending[i] = pending[i] + more if i in pending else more
        return constant + (self.ended if ended is None else ended)(inputs)

    def ended(self, inputs: Tensor) -> Tensor:
        """The minimum of the forms [B, R, N] over the input sets."""
        if self.inputs.is_box:
            low, high = (t.flatten(1).unsqueeze(1) for t in self.inputs.box(inputs.dtype))
            return _BoxMinimum.apply(inputs, low, high)
        return self.inputs.minimum(self._form(inputs))

    def multipliers(self, inputs: Tensor, near: Tensor | None) -> Tensor | None:
        """What `ended_at` takes for forms like these [B, R, N], from what it took for others; None: nothing."""
        return None if self.inputs.is_box else self.inputs.multipliers(self._form(-inputs.detach()), near)

    def ended_at(self, inputs: Tensor, multipliers: Tensor | None) -> Tensor:
        """A lower bound of the forms [B, R, N] over the input sets, found faster than their minimum."""
        if multipliers is None:
            return self.ended(inputs)
        return -self.inputs.support_at(self._form(-inputs), multipliers)

    def _form(self, inputs: Tensor) -> Dense:  # [B, R, N]
        return Dense(inputs.unflatten(2, self.graph.input_shape))


class _BoxMinimum(torch.autograd.Function):
    """min of c . x over low <= x <= high; c [B, R, N], low and high [B, 1, N]. The gradient is where it is reached."""

    @staticmethod
    def forward(context, c: Tensor, low: Tensor, high: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # -> [B, R]
        where = torch.where(c > 0, low, high)
        context.save_for_backward(where)
        return torch.linalg.vecdot(c, where)

    @staticmethod
    def backward(context, gradient: Tensor):  # type: ignore[no-untyped-def]  # [B, R] -> [B, R, N]
        (where,) = context.saved_tensors
        return where * gradient.unsqueeze(2), None, None


def _settled(lines: LinearRelaxation, free: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] bool
    """Slope and bias of the neurons that are lines, zero for the others."""
    slope, bias = lines.lower_slope, lines.lower_bias
    return torch.where(free.unsqueeze(1) if slope.dim() > bias.dim() else free, 0.0, slope), torch.where(
        free, 0.0, bias
    )


@dataclass(frozen=True)
class _Noted:
    """Where the coefficients on unknowns are written down: they go no further."""

    node: int
    unknowns: Unknowns | None
    found: dict[int, Tensor]

    def note(self, form: LinearForm, batch: int) -> None:
        if self.unknowns is not None:
            dense = form.dense()
            self.found[self.node] = self.unknowns.gathered(dense.expand(batch, *dense.shape[1:]))


@dataclass(frozen=True)
class _SettledNeurons:
    """Settled neurons as their lines."""

    noted: _Noted
    slope: Tensor  # [B, *shape]
    bias: Tensor  # [B, *shape]

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [B, R]
        form = form.settled()
        self.noted.note(form, len(self.slope))
        return form.scale(self.slope), form.dot(self.bias)


@dataclass(frozen=True)
class _SettledProducts:
    """Products with a factor that does not vary, as their planes."""

    noted: _Noted
    slope: Tensor  # [B, 2, M]
    bias: Tensor  # [B, M]
    op: Product
    parent: Size

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [B, R]
        form = form.settled()
        self.noted.note(form, len(self.bias))
        return self.op.pulled(form, self.slope, self.parent), form.dot(self.bias)
