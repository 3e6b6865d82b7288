"""Half-spaces that hold an input set: what a program knows of the set besides its box.

Any form c gives one, c . x >= min over the set of c . x, whose right-hand side is the set's own support function. So
what a program describes is an outer approximation of the set, whatever the forms are, and no member is ever cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from properties import InputSet
from verifier.encoding.value import Mask, Vector
from verifier.forms import Dense

#: a plane has to cut off this share of what it reaches across the box
MARGIN = 1e-6
#: coefficients below this share of the largest one are left out: solvers would drop them from the row alone
_SMALL = 1e-11
#: unit roundoff of float64
_UNIT = 2.0**-53


@dataclass(frozen=True)
class Planes:
    """normals . x >= limits for every member x of one example's set. Rounded outward."""

    normals: Vector  # [m, size]
    limits: Vector  # [m]

    def __len__(self) -> int:
        return len(self.limits)

    @classmethod
    def none(cls, inputs: InputSet) -> Planes:
        return cls(np.zeros((0, int(np.prod(inputs.shape)))), np.zeros(0))

    @classmethod
    def of_forms(cls, inputs: InputSet, forms: Tensor) -> Planes:
        """The half-spaces of forms [m, *input] that hold the set of one example; no more than m of them."""
        flat = forms.detach().double().flatten(1)
        flat = flat[flat.isfinite().all(1) & (flat != 0).any(1)]
        if len(flat) == 0:
            return cls.none(inputs)
        normals = torch.from_numpy(_normalised(flat.numpy()))
        normals = torch.where(normals.abs() < _SMALL, 0.0, normals)
        with torch.no_grad():
            limits = inputs.minimum(Dense(normals.unflatten(1, inputs.shape).unsqueeze(0)))[0].numpy()
        low, high = (t.double().abs().flatten(1).numpy()[0] for t in inputs.box(torch.float64))
        # the support function is right up to the rounding of sums over the entries
        size = np.abs(normals.numpy()) @ np.maximum(low, high)
        return cls(normals.numpy(), limits - _rounding(normals.shape[1], size + np.abs(limits))).usable()

    @classmethod
    def of_inequalities(cls, inputs: InputSet) -> Planes:
        """The set's own rows, for one example."""
        own = inputs.inequalities()
        if own is None:
            return cls.none(inputs)
        matrix, upper = own
        return cls(-matrix.detach().double().flatten(2)[0].numpy(), -upper.detach().double()[0].numpy()).usable()

    @classmethod
    def to_start(cls, inputs: InputSet, forms: Tensor | None) -> Planes:
        """What a program of one example starts with: the set's own rows, and the half-spaces of forms [m, *input]."""
        own = cls.of_inequalities(inputs)
        return own if forms is None else own.joined(cls.of_forms(inputs, forms))

    def usable(self) -> Planes:
        """Those that say something."""
        return self.select(np.isfinite(self.limits) & np.isfinite(self.normals).all(1) & self.normals.any(1))

    def select(self, mask: Mask) -> Planes:
        return Planes(self.normals[mask], self.limits[mask])

    def joined(self, other: Planes) -> Planes:
        return Planes(np.concatenate([self.normals, other.normals]), np.concatenate([self.limits, other.limits]))

    def on_columns(
        self, matrix: Vector, bias: Vector, ends: tuple[Vector, Vector], slack: float = 0.0
    ) -> tuple[Vector, Vector]:
        """As rows  r . columns >= limit, where the input is matrix @ columns + bias: matrix [k, n], limits [k].

        Rows that the columns' ends imply are left out. Each is scaled so that its largest entry, times the width of
        its column, is about 1: a solver's tolerances are absolute.

        Args:
            matrix: [size, n] (may be sparse). bias: [size]. ends: lower and upper of the columns, [n] each.
            slack: share of that largest product by which every row is loosened. A solver that holds rows to a
                tolerance of that share then still holds the whole set.
        """
        rows = np.asarray(self.normals @ matrix).reshape(len(self), matrix.shape[1])
        reach = np.maximum(np.abs(ends[0]), np.abs(ends[1]))
        size = np.abs(self.normals) @ (abs(matrix) @ reach + np.abs(bias)) + np.abs(self.limits)
        limits = self.limits - self.normals @ bias - _rounding(self.normals.shape[1], size)
        moved = np.abs(rows) * (ends[1] - ends[0])
        widest = moved.max(1, initial=0.0)
        limits = limits - slack * widest
        least = np.where(rows > 0, rows * ends[0], rows * ends[1]).sum(1)
        useful = (widest > 0) & (least < limits)
        scale = _power_of_two(widest[useful])
        return rows[useful] / scale[:, None], limits[useful] / scale

    def broken(self, inputs: InputSet, x: Vector, margin: float) -> Mask:
        """Which planes x [size] lies behind by more than `margin` times how far the box reaches across them; [m]."""
        low, high = (t.double().flatten(1).numpy()[0] for t in inputs.box(torch.float64))
        widest = (np.abs(self.normals) * (high - low)).max(1, initial=0.0)
        return np.asarray(self.normals @ x < self.limits - margin * widest)


def around(
    inputs: InputSet, points: Tensor, forms: Tensor, margin: float = MARGIN, ways: Sequence[float] = (0.3,)
) -> tuple[Planes, Mask]:
    """Planes of one example that cut off points [k, *input], and which points they do cut off, bool [k].

    Tried for each point are its own form, and the normals that the set gives for places between the point and the
    member where the form is least: planes near that member are worth most (Ben-Ameur & Neto 2007, "in-out"). Where
    none of those cuts, the normal at the point itself.

    Args:
        forms: [k, *input], for instance the gradients of what the points minimise.
        margin: as of `Planes.broken`; planes that cut off less are not worth it.
        ways: shares of the way from the member to the point.
    """
    many = inputs.select(torch.zeros(len(points), dtype=torch.int64))
    members = _least(many, forms)
    with torch.no_grad():
        normals = torch.stack([-many.separate(members + way * (points - members)).double() for way in (*ways, 1.0)])
    found, cut = Planes.none(inputs), np.zeros(len(points), dtype=bool)
    for k, x in enumerate(points.double().flatten(1).numpy()):
        for tried in (torch.cat([normals[:-1, k], forms[k : k + 1].double()]), normals[-1:, k]):
            planes = Planes.of_forms(inputs, tried)
            broken = planes.broken(inputs, x, margin)
            found, cut[k] = found.joined(planes.select(broken)), broken.any()
            if cut[k]:
                break
    return found, cut


def _least(inputs: InputSet, forms: Tensor) -> Tensor:
    """Where forms [k, *input] are least in k sets, each in its own: the slope of the support function."""
    forms = forms.detach().double().requires_grad_()
    with torch.enable_grad():
        value = inputs.minimum(Dense(forms.unsqueeze(1))).sum()
    if not value.requires_grad:
        return inputs.center().double()
    (member,) = torch.autograd.grad(value, forms)
    return torch.where(member.isfinite(), member, inputs.center().double())


def _normalised(rows: Vector) -> Vector:
    """Rows [m, n] times powers of two: the largest entry of each is in [1, 2)."""
    return np.asarray(rows / _power_of_two(np.abs(rows).max(1))[:, None])


def _power_of_two(size: Vector) -> Vector:
    """The largest power of two that is not above each number > 0."""
    return np.asarray(np.exp2(np.clip(np.floor(np.log2(size)), -500, 500)))


def _rounding(terms: int, size: Vector) -> Vector:
    """What sums of so many products may be off by, and the rounding of subtracting just that; size [m]: of |products|.

    Higham's gamma_n, three times: for the products, for the sums of their sizes, and for what is done with them.
    """
    return np.asarray(3 * (terms + 8) * _UNIT * size + np.finfo(np.float64).tiny)
