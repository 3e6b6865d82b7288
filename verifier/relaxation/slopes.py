"""What an ascent varies at the unknowns of a condensed network: slopes of linear relaxations, or free multipliers.

The slopes are the alpha of alpha-CROWN (Xu et al. 2021): a neuron's sound lines are a family with one parameter t in
[0, 1] (verifier.relaxation.families), and every row has a t of its own for every neuron. The free dual has a multiplier
beside the line, nu = slope(t) nu_hat + gamma, and its constant is the minimum over the corners of the neuron's hull
(verifier.relaxation.multipliers), which for gamma = 0 is that of the line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from verifier.ops.base import Activation, LinearRelaxation, Pieces, SlopeRule
from verifier.ops.product import RULES
from verifier.relaxation.condensed import Condensed, Evaluable, Functionals, Rows, Unknowns
from verifier.relaxation.families import Line, RelaxationFamily, lower_line, upper_line
from verifier.relaxation.multipliers import corner_minimum
from verifier.relaxation.picking import take
from verifier.relaxation.plane_family import PlaneFamily

Values = Mapping[int, Tensor]  #: activation node -> [B, R, n]


def line_below(low: Line, up: Line, nu_hat: Tensor) -> tuple[Tensor, Tensor]:
    """The lower line where nu_hat [B, R, n] is positive, else the upper one: nu [B, R, n] and constants [B, R]."""
    positive, negative = nu_hat.clamp(min=0), nu_hat.clamp(max=0)
    nu = torch.zeros_like(nu_hat) if low.slope is None else positive * low.slope
    if up.slope is not None:
        nu = torch.addcmul(nu, negative, up.slope)
    constants = [(part * bias).sum(2) for part, bias in ((negative, up.bias), (positive, low.bias)) if bias is not None]
    return nu, sum(constants[1:], constants[0]) if constants else nu_hat.new_zeros(nu_hat.shape[:2])


def lines_below(lines: LinearRelaxation, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n] -> [B, R, n], [B, R]
    """`line_below` of lines as operators give them."""
    return line_below(lower_line(lines), upper_line(lines), nu_hat)


class Parameters(ABC):
    """Tensors [B, R, n] per activation, with the relaxation that they choose."""

    @property
    @abstractmethod
    def varied(self) -> Values:
        """Those that are optimised."""

    @abstractmethod
    def with_varied(self, values: Values) -> Self:
        """The same with other values."""

    @abstractmethod
    def projected(self) -> Self:
        """The same with all values moved to where they are allowed."""

    @abstractmethod
    def below(self, unknowns: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:
        """From coefficients on the unknowns' outputs, [B, R, n], those on what they read and a constant [B, R]."""

    @abstractmethod
    def rows(self, examples: Tensor, index: Tensor) -> Self:
        """Rows index [b, k] of the examples [b]."""


class Family(Protocol):
    """Sound relaxations of the unknowns of one activation, by a parameter t in [0, 1] of each."""

    def below(self, u: Unknowns, t: Tensor, nu_hat: Tensor) -> tuple[Tensor, Tensor]:
        """nu [B, R, n] and constants [B, R] of the members t [B, R, n], for coefficients nu_hat [B, R, n]."""

    def select(self, examples: Tensor) -> Family:  # [k] int64
        """Of these examples."""


@dataclass(frozen=True)
class SlopeFamily:
    """The lines of unknowns by t, [B, 1, n], between the outermost two: all that a piecewise linear operator offers."""

    lines: RelaxationFamily

    @classmethod
    def of(cls, u: Unknowns) -> SlopeFamily:
        assert isinstance(u.op, Activation)
        if not u.op.piecewise_linear:
            return TangentFamily.of(u)
        return cls(RelaxationFamily.of(u.op, u.lower, u.upper).lean())

    def below(self, u: Unknowns, t: Tensor, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n], [B, R]
        return _LinesBelow.apply(nu_hat, t, self.lines)

    def position(self, lower_slope: Tensor, upper_slope: Tensor, nu_hat: Tensor) -> Tensor:
        """The t [B, R, n] in [0, 1] of the line of that slope, on the side that the sign of nu_hat uses."""
        return self.lines.position(nu_hat >= 0, lower_slope, upper_slope)

    def select(self, examples: Tensor) -> SlopeFamily:  # [k] int64
        return replace(self, lines=self.lines.select(examples))


class _LinesBelow(torch.autograd.Function):
    """The lines t [B, R, n] under coefficients nu_hat [B, R, n], as nu [B, R, n] and constants [B, R].

    The gradient written out: a third of the operations that it takes piece by piece, hundreds of times over.
    """

    @staticmethod
    def forward(context, nu_hat: Tensor, t: Tensor, lines: RelaxationFamily):  # type: ignore[no-untyped-def]
        positive = nu_hat >= 0
        slope, bias = lines.sided(positive, t)
        context.lines = lines
        context.save_for_backward(nu_hat, positive, slope, bias)
        return nu_hat * slope, nu_hat.new_zeros(nu_hat.shape[:2]) if bias is None else (nu_hat * bias).sum(2)

    @staticmethod
    def backward(context, on_nu: Tensor, on_constant: Tensor):  # type: ignore[no-untyped-def]  # [B, R, n], [B, R]
        nu_hat, positive, slope, bias = context.saved_tensors
        on_constant = on_constant.unsqueeze(2)
        on_t = None
        if context.needs_input_grad[1]:
            steps = zip((on_nu, on_constant), context.lines.steps(positive), strict=True)
            changes = [gradient * step for gradient, step in steps if step is not None]
            on_t = nu_hat * sum(changes[1:], changes[0]) if changes else None
        on_nu_hat = on_nu * slope
        return on_nu_hat if bias is None else torch.addcmul(on_nu_hat, on_constant, bias), on_t, None


#: lines of a smooth function that are worked out, evenly spaced in t; between two of them their means are taken
_TANGENTS = 33


@dataclass(frozen=True)
class TangentFamily(SlopeFamily):
    """The lines of a smooth function: tangents, tighter than means of the outermost two, worked out once.

    The mean of two sound lines is sound, and next to a tangent where the two are neighbours: a step of an ascent looks
    lines up, and the cost of touching points is paid once for all rows and steps.
    """

    slopes: Tensor  # [2 T, B, 1, n]: of the lower lines by t, then of the upper ones
    biases: Tensor  # [2 T, B, 1, n]

    @classmethod
    def of(cls, u: Unknowns) -> TangentFamily:
        assert isinstance(u.op, Activation)
        t = torch.linspace(0, 1, _TANGENTS).to(u.lower).view(-1, *[1] * u.lower.dim())
        low, high, t = (v.expand(_TANGENTS, *u.lower.shape).flatten(0, 1) for v in (u.lower, u.upper, t))
        lines = u.op.relax(low, high, t).each(lambda v: v.unflatten(0, (_TANGENTS, -1)))
        slopes, biases = (lines.lower_slope, lines.upper_slope), (lines.lower_bias, lines.upper_bias)
        return cls(RelaxationFamily.of(u.op, u.lower, u.upper).lean(), torch.cat(slopes), torch.cat(biases))

    def below(self, u: Unknowns, t: Tensor, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n], [B, R]
        scaled = t.clamp(0, 1) * (_TANGENTS - 1)
        before = scaled.detach().nan_to_num(nan=0.0).long().clamp(max=_TANGENTS - 2)
        share = scaled - before
        index = torch.where(nu_hat >= 0, before, before + _TANGENTS).unsqueeze(0)

        def between(table: Tensor) -> Tensor:  # [2 T, B, 1, n] -> [B, R, n]
            full = table.expand(-1, -1, t.shape[1], -1)
            return torch.lerp(full.gather(0, index)[0], full.gather(0, index + 1)[0], share)

        return nu_hat * between(self.slopes), torch.linalg.vecdot(nu_hat, between(self.biases))

    def select(self, examples: Tensor) -> TangentFamily:  # [k] int64
        return TangentFamily(self.lines.select(examples), self.slopes[:, examples], self.biases[:, examples])


@dataclass(frozen=True)
class ProductFamily(PlaneFamily):
    """The planes of products by t, over boxes [B, 1, 2, n]."""

    @classmethod
    def of(cls, u: Unknowns) -> ProductFamily:
        return cls(*cls.sides(u.lower, u.upper))

    def below(self, u: Unknowns, t: Tensor, nu_hat: Tensor) -> tuple[Tensor, Tensor]:
        """nu [B, R, 2 n], the left factors first, and constants [B, R]."""
        slope, bias = self.sided(nu_hat >= 0, t)
        return (nu_hat.unsqueeze(2) * slope).flatten(2), torch.linalg.vecdot(nu_hat, bias)


@dataclass(frozen=True)
class Slopes(Parameters):
    """A member of the family for every unknown and row."""

    families: Mapping[int, Family]
    t: Values

    @property
    def varied(self) -> Values:
        return self.t

    def with_varied(self, values: Values) -> Slopes:
        return replace(self, t=values)

    def projected(self) -> Slopes:
        return replace(self, t={i: v.clamp(0, 1) for i, v in self.t.items()})

    def below(self, unknowns: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n], [B, R]
        node = unknowns.node
        return self.families[node].below(unknowns, self.t[node], nu_hat)

    def rows(self, examples: Tensor, index: Tensor) -> Slopes:  # [b] and [b, k] int64
        families = {i: f.select(examples) for i, f in self.families.items()}
        return Slopes(families, {i: take(t[examples], index) for i, t in self.t.items()})


@dataclass(frozen=True)
class Free(Parameters):
    """Lines that stay, and beside each a multiplier gamma times `scale`."""

    base: Slopes
    pieces: Mapping[int, Pieces]  # [K, B, 1, n]
    scale: Values  # zero in the padding
    gamma: Values

    @property
    def varied(self) -> Values:
        return {**self.gamma, **{~i: t for i, t in self.base.t.items()}}

    def with_varied(self, values: Values) -> Free:
        t = {~i: v for i, v in values.items() if i < 0}
        return replace(self, gamma={i: v for i, v in values.items() if i >= 0}, base=self.base.with_varied(t))

    def projected(self) -> Free:
        return replace(self, base=self.base.projected())

    def below(self, unknowns: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n], [B, R]
        nu, _ = self.base.below(unknowns, nu_hat)
        nu = torch.addcmul(nu, self.scale[unknowns.node], self.gamma[unknowns.node])
        return nu, corner_minimum_of_rows(self.pieces[unknowns.node], nu_hat, nu)

    def rows(self, examples: Tensor, index: Tensor) -> Free:  # [b] and [b, k] int64
        pieces = {i: replace(p, x=p.x[:, examples], y=p.y[:, examples]) for i, p in self.pieces.items()}
        scale, gamma = ({i: take(v[examples], index) for i, v in s.items()} for s in (self.scale, self.gamma))
        return Free(self.base.rows(examples, index), pieces, scale, gamma)


def corner_minimum_of_rows(pieces: Pieces, nu_hat: Tensor, nu: Tensor) -> Tensor:
    """Sum over the neurons of the minimum over their corners: [B, R]; pieces [K, B, 1, n]."""
    flat = Pieces(pieces.x.squeeze(2), pieces.y.squeeze(2), pieces.exact)
    return corner_minimum(flat, nu_hat, nu).sum(2)


def families_of(network: Evaluable) -> dict[int, SlopeFamily | ProductFamily]:
    """Of the unknowns of every activation and product."""
    return {
        u.node: SlopeFamily.of(u) if isinstance(u.op, Activation) else ProductFamily.of(u) for u in network.unknowns
    }


def start(network: Evaluable, rows: Rows) -> tuple[Tensor, Slopes]:
    """The better of the two slope rules for every row, and what it bounds: [B, R].

    The bound is that of the rule's own lines, which for smooth activations may not be of the family.
    """
    families = families_of(network)
    adaptive, first = _by_rule(network, rows, families, SlopeRule.ADAPTIVE)
    fixed, second = _by_rule(network, rows, families, SlopeRule.FIXED)
    better = (fixed > adaptive).unsqueeze(2)
    t = {i: torch.where(better, second[i], first[i]) for i in first}
    return torch.maximum(adaptive, fixed), Slopes(families, t)


def _by_rule(
    network: Evaluable, rows: Rows, families: Mapping[int, SlopeFamily | ProductFamily], rule: SlopeRule
) -> tuple[Tensor, dict[int, Tensor]]:
    """Bounds [B, R] by the lines of a rule, and the t of those lines."""
    t: dict[int, Tensor] = {}

    def below(u: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n] -> [B, R, n], [B, R]
        family = families[u.node]
        if isinstance(family, ProductFamily):
            t[u.node] = torch.full_like(nu_hat, RULES[rule])
            return family.below(u, t[u.node], nu_hat)
        lines = u.op.relax(u.lower, u.upper, rule)
        t[u.node] = family.position(lines.lower_slope, lines.upper_slope, nu_hat)
        return lines_below(lines, nu_hat)

    return network.bound(rows, below), t


def start_at(network: Condensed, rows: Functionals, nu: Values | None) -> tuple[Tensor, Free]:
    """Free multipliers that start at nu (activation -> [B, R, n]), or at the better slope rule; and their bounds.

    gamma is measured in what a multiplier must change by to matter: a neuron's share of an average neuron's part
    nu_hat (u - l) in the bound, over its own u - l, but no less than its own nu_hat.
    """
    families = {u.node: SlopeFamily.of(u) for u in network.unknowns}  # of piecewise linear networks alone
    if nu is None:
        slopes = start(network, rows)[1]
        nu = _recorded(network, rows, slopes)
    given = nu
    pieces = {u.node: u.op.pieces(u.lower, u.upper) for u in network.unknowns if isinstance(u.op, Activation)}
    coefficients: dict[int, Tensor] = {}

    def below(u: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n] -> [B, R, n], [B, R]
        coefficients[u.node] = nu_hat
        return given[u.node], corner_minimum_of_rows(pieces[u.node], nu_hat, given[u.node])

    value = network.bound(rows, below)
    reached = [u for u in network.unknowns if u.node in coefficients]
    parts = [coefficients[u.node].abs() * _width(u) for u in reached]
    # padding counts for nothing: no row may depend on the rest of its batch
    count = sum((u.valid.sum(2, keepdim=True) for u in reached), torch.ones_like(value[:, :1, None]))
    average = torch.cat([torch.zeros_like(value.unsqueeze(2)), *parts], 2).sum(2, keepdim=True) / count
    t, scale, gamma = {}, {}, {}
    for u in reached:
        nu_hat, family = coefficients[u.node], families[u.node]
        quotient = given[u.node] / nu_hat
        t[u.node] = family.position(quotient, quotient, nu_hat)
        line = family.below(u, t[u.node], nu_hat)[0]
        size = torch.maximum(nu_hat.abs(), average / _width(u))
        usable = u.valid & (size > 0) & size.isfinite()
        scale[u.node] = torch.where(usable, size, 0.0)
        gamma[u.node] = torch.where(usable, (given[u.node] - line) / size, 0.0)
    return value, Free(Slopes(families, t), pieces, scale, gamma)


def _width(u: Unknowns) -> Tensor:  # [B, 1, n]
    return torch.where(u.valid, u.upper - u.lower, 0.0)


def _recorded(network: Condensed, rows: Functionals, parameters: Parameters) -> dict[int, Tensor]:
    """nu [B, R, n] of every activation at these parameters."""
    found: dict[int, Tensor] = {}

    def below(u: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n] -> [B, R, n], [B, R]
        found[u.node], constant = parameters.below(u, nu_hat)
        return found[u.node], constant

    network.bound(rows, below)
    return found
