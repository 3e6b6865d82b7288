"""Linear forms pulled back from any node to the input: the dual network of Wong & Kolter (2018) on any graph.

A functional c . z of one node is bounded below over the input set by a backward pass: an affine node
maps the form by its adjoint and adds its bias; an activation replaces itself by its lower line where the form's
coefficient is positive and by its upper line where it is negative; at the input the set's support function ends it.
By weak duality the result holds for whatever sound lines were used (Theorem 1, there for the l-infinity ball). The same
pass is the backward substitution of Fast-Lin (Weng et al. 2018), CROWN (Zhang et al. 2018) and DeepPoly (Singh et al.
2019), which differ in the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from properties import InputSet
from verifier.budget import checkpoint
from verifier.forms import LinearForm, stacked
from verifier.graph import Graph
from verifier.ops.base import Affine, LinearRelaxation, Nonlinear


class Lowering(Protocol):
    """How an activation is replaced below a form: whatever comes out must be a sound lower bound."""

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:
        """From a form on the activation's output, one on its input and a constant [B, S]."""


class RoundoffCosts(Protocol):
    """What rounding may cost a backward pass: verifier.relaxation.roundoff works it out, and says why."""

    @property
    def rest(self) -> Tensor:  # [B, 1]
        """What a row pays whatever its coefficients."""

    def has(self, node: int) -> bool:
        """Whether coefficients at the node pay for themselves."""

    def pays(self, node: int, terms: int) -> Tensor | None:
        """[B, *shape]: what each coefficient at the node pays; None: their children pay for them.

        Args:
            terms: how many of a row's coefficients are not zero, at most.
        """

    def first(self, node: int, terms: int) -> Tensor:
        """[B, *shape]: the same for a form that starts at the node."""


@dataclass(frozen=True)
class Relaxation:
    """An activation's lines as mean and spread: the lower one is mean - spread, the upper one mean + spread.

    Tensors [B, *shape]; a `spread` of None means that all slopes are parallel.
    """

    mean: Tensor
    spread: Tensor | None
    bias_mean: Tensor
    bias_spread: Tensor

    @classmethod
    def of(cls, lines: LinearRelaxation) -> Relaxation:
        mean = lines.lower_slope if lines.parallel else 0.5 * (lines.lower_slope + lines.upper_slope)
        spread = None if lines.parallel else 0.5 * (lines.upper_slope - lines.lower_slope)
        bias_mean, bias_spread = (
            0.5 * (lines.lower_bias + lines.upper_bias),
            0.5 * (lines.upper_bias - lines.lower_bias),
        )
        return cls(mean, spread, bias_mean, bias_spread)

    def select(self, index: Tensor) -> Relaxation:  # [k] int64
        """Of these examples."""
        spread = None if self.spread is None else self.spread[index]
        return Relaxation(self.mean[index], spread, self.bias_mean[index], self.bias_spread[index])

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [B, S]
        return form.settled().below(self.mean, self.spread, self.bias_mean, self.bias_spread)


@dataclass(frozen=True)
class OneSided:
    """A form that is bounded from below."""

    form: LinearForm

    def each(self, function: Callable[[LinearForm], LinearForm]) -> OneSided:
        return OneSided(function(self.form))

    def value(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        return self.form.dot(x)

    def size(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        """Sum of |coefficient| * x."""
        return self.form.abs_dot(x)

    @property
    def terms(self) -> int:
        """Entries that a row may have."""
        return self.form.terms

    def relaxed(self, lines: Lowering) -> tuple[OneSided, Tensor]:
        """The form below the activation, and the constant [B, S] that joins it."""
        form, constant = lines.below(self.form)
        return OneSided(form), constant

    def ended(self, inputs: InputSet) -> Tensor:  # [B, S]
        return inputs.minimum(self.form)

    def ended_where(self, inputs: InputSet, rows: Tensor) -> Tensor:  # [B, S] bool -> [B, S]
        return -inputs.support_where(self.form.times(-1.0), rows)

    def add(self, other: State) -> OneSided:
        return OneSided(self.form.add(other.one_sided().form))

    def one_sided(self) -> OneSided:
        return self


@dataclass(frozen=True)
class TwoSided:
    """S functionals bounded from both sides: the lower form is mid - half, the upper one mid + half.

    Values are those of 2 S one-sided rows: the lower forms, then the negated upper ones. Both sides share one form
    until an activation's slopes part them (half is None before), and stay one pair of products until the next one.
    """

    mid: LinearForm
    half: LinearForm | None = None

    def each(self, function: Callable[[LinearForm], LinearForm]) -> TwoSided:
        return TwoSided(function(self.mid), None if self.half is None else function(self.half))

    def value(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, 2 S]
        mid = self.mid.dot(x)
        half = torch.zeros_like(mid) if self.half is None else self.half.dot(x)
        return torch.cat([mid - half, -mid - half], 1)

    def size(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, 2 S]
        """Sum of |coefficient| * x, with those of both forms: what rounds is each by itself."""
        size = self.mid.abs_dot(x) if self.half is None else self.mid.abs_dot(x) + self.half.abs_dot(x)
        return torch.cat([size, size], 1)

    @property
    def terms(self) -> int:
        """Entries that a row may have."""
        return self.mid.terms if self.half is None else max(self.mid.terms, self.half.terms)

    def relaxed(self, lines: Lowering) -> tuple[State, Tensor]:  # a constant [B, 2 S]
        if self.half is not None or not isinstance(lines, Relaxation):
            return self.one_sided().relaxed(lines)
        mid, spread = self.mid.dot(lines.bias_mean), self.mid.abs_dot(lines.bias_spread)
        constant = torch.cat([mid - spread, -mid - spread], 1)
        half = None if lines.spread is None else self.mid.abs().scale(lines.spread)
        return TwoSided(self.mid.scale(lines.mean), half), constant

    def ended(self, inputs: InputSet) -> Tensor:  # [B, 2 S]
        low, high = inputs.range(self.mid, self.half)
        return torch.cat([low, -high], 1)

    def ended_where(self, inputs: InputSet, rows: Tensor) -> Tensor:  # [B, 2 S] bool -> [B, 2 S]
        below, above = rows.chunk(2, 1)
        lower = self.mid if self.half is None else self.mid.combine(self.half, -1.0)
        upper = self.mid if self.half is None else self.mid.combine(self.half, 1.0)
        low = -inputs.support_where(lower.times(-1.0), below)
        return torch.cat([low, -inputs.support_where(upper, above)], 1)

    def add(self, other: State) -> State:
        if isinstance(other, OneSided):
            return self.one_sided().add(other)
        halves = [h for h in (self.half, other.half) if h is not None]
        # mid + half of a sum is the sum of the mid + half: the halves add as well
        half = halves[0] if len(halves) == 1 else (halves[0].add(halves[1]) if halves else None)
        return TwoSided(self.mid.add(other.mid), half)

    def one_sided(self) -> OneSided:
        if self.half is None:
            return OneSided(stacked(self.mid, self.mid.times(-1.0)))
        lower, upper = self.mid.combine(self.half, -1.0), self.mid.combine(self.half, 1.0)
        return OneSided(stacked(lower, upper.times(-1.0)))


State = OneSided | TwoSided


def bound(
    graph: Graph,
    inputs: InputSet,
    relaxations: Mapping[int, Lowering],
    node: int,
    start: State,
    like: Tensor,
    visit: Callable[[int, State, State], None] | None = None,
    roundoffs: RoundoffCosts | None = None,
) -> Tensor:
    """Lower bounds of the rows of `start`, a state at `node`, over the input set: [B, S], or [B, 2 S] two-sided.

    Arguments as of `pull_back`.
    """
    state, constant = pull_back(graph, relaxations, node, start, like, visit, roundoffs)
    ended = like.new_zeros(inputs.batch, 1) if state is None else state.ended(inputs)
    return ended + constant


def bound_both(
    graph: Graph,
    inputs: InputSet,
    relaxations: Mapping[int, Lowering],
    node: int,
    start: TwoSided,
    like: Tensor,
    roundoffs: RoundoffCosts | None = None,
) -> Tensor:
    """`bound` of functionals whose signs are asked for, [B, 2 S]: quick bounds count where they settle the sign.

    Where the input set has a larger set with a cheaper support function, only what that leaves undecided is bounded
    over the set itself.
    """
    state, constant = pull_back(graph, relaxations, node, start, like, roundoffs=roundoffs)
    outer = inputs.outer()
    if state is None or outer is None:
        return (like.new_zeros(inputs.batch, 1) if state is None else state.ended(inputs)) + constant
    values = state.ended(outer) + constant
    both = (values < 0).unflatten(1, (2, -1)).all(1)  # no sign yet
    if not both.any():
        return values
    rows = both.repeat(1, 2)
    return torch.where(rows, torch.maximum(values, state.ended_where(inputs, rows) + constant), values)


def pull_back(
    graph: Graph,
    relaxations: Mapping[int, Lowering],
    node: int,
    start: State,
    like: Tensor,
    visit: Callable[[int, State, State], None] | None = None,
    roundoffs: RoundoffCosts | None = None,
) -> tuple[State | None, Tensor]:
    """The rows of `start`, a state at `node`, as a state at the input and the constant [B or 1, S or 1] beside it.

    Args:
        relaxations: for every activation below `node`, its lines, or multipliers of its own.
        like: any tensor of the precision and device to work in.
        visit: called for every activation with its node, the form on its output and the form on its input: the dual
            variables nu-hat and nu of Wong & Kolter, with the sign changed (their rows are -c).
        roundoffs: what rounding may cost, taken off the constant: bounds then hold in the real numbers
            (verifier.relaxation.roundoff). They must have seen all nodes up to `node`, and these relaxations.

    Returns:
        None in place of a state where the rows do not depend on the input.

    Raises:
        OutOfTime: at a node, where the time of this work is over (verifier.budget).
    """
    pending: dict[int, State] = {node: start}
    constants: list[Tensor] = []
    if roundoffs is not None and not roundoffs.has(node):
        constants.append(-start.size(roundoffs.first(node, start.terms)))
    for i in range(node, 0, -1):
        state = pending.pop(i, None)
        if state is None:
            continue
        checkpoint()
        op, parents = graph.nodes[i].op, graph.nodes[i].parents
        if isinstance(op, Nonlinear):
            below, constant = state.relaxed(relaxations[i])
            if visit is not None:
                visit(i, state, below)
            constants.append(constant)
            _accumulate(pending, parents[0], below)
            # multipliers are coefficients that the form above does not bound: their form pays as at a start
            if roundoffs is not None and not isinstance(relaxations[i], Relaxation) and not roundoffs.has(parents[0]):
                constants.append(-below.size(roundoffs.first(parents[0], below.terms)))
            continue
        assert isinstance(op, Affine)
        if roundoffs is not None:
            state = state.each(lambda form: form.settled())  # what is rounded from here on is paid for by this node
            roundoff = roundoffs.pays(i, state.terms)
            if roundoff is not None:
                constants.append(-state.size(roundoff))
        shapes = graph.parent_shapes(i)
        bias = op.bias(shapes, like)
        if bias is not None:
            constants.append(state.value(bias))
        for k, parent in enumerate(parents):
            _accumulate(pending, parent, state.each(partial(op.adjoint, shapes=shapes, parent=k)))
    total = like.new_zeros(1, 1)
    for constant in constants:
        total = total + constant
    if roundoffs is not None:
        total = total - roundoffs.rest
    return pending.get(0), total


def _accumulate(pending: dict[int, State], node: int, state: State) -> None:
    pending[node] = pending[node].add(state) if node in pending else state
