"""Products under forms that are pulled back: planes, and free multipliers of both factors.

In the dual network a product y = z_left z_right has two inputs. A coefficient nu_hat on y becomes nu = (nu_left,
nu_right) on the factors: along a plane nu = slopes nu_hat, or any other two numbers. What is left is bounded by the
minimum of nu_hat y - nu . (z_left, z_right) over the four corners of the box, the vertices of McCormick's hull.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.forms import Dense, LinearForm, Runs
from verifier.ops.base import LinearRelaxation, Shape
from verifier.ops.product import Product, corners
from verifier.relaxation.matrix_products import MatrixProduct


def plane_below(lines: LinearRelaxation, nu_hat: Tensor) -> tuple[Tensor, Tensor]:
    """The lower plane where nu_hat [B, R, M] is positive, else the upper one: nu [B, R, 2, M], constants [B, R].

    Args:
        lines: slopes [B or 1, R or 1, 2, M], biases [B or 1, R or 1, M].
    """
    positive, negative = nu_hat.clamp(min=0), nu_hat.clamp(max=0)
    nu = positive.unsqueeze(2) * lines.lower_slope + negative.unsqueeze(2) * lines.upper_slope
    return nu, (positive * lines.lower_bias + negative * lines.upper_bias).sum(2)


def corner_least(lower: Tensor, upper: Tensor, nu_hat: Tensor, nu: Tensor) -> Tensor:
    """min over the corners of nu_hat x y - nu . (x, y): [B, R, M].

    Args:
        lower, upper: [B, 1, 2, M], the boxes. nu_hat: [B, R, M]. nu: [B, R, 2, M].
    """
    least: Tensor | None = None
    for at, value in zip(*corners(lower, upper), strict=True):
        found = nu_hat * value - (nu * at).sum(-2)
        least = found if least is None else torch.minimum(least, found)
    assert least is not None
    return least


def plane_positions(op: Product, lower: Tensor, upper: Tensor, nu_hat: Tensor, nu: Tensor) -> Tensor:
    """The t [S, M] of the planes nearest to multipliers nu [S, 2, M] for coefficients nu_hat [S, M].

    Args:
        lower, upper: [1, *parent].
    """
    slopes = nu.double() / nu_hat.double().unsqueeze(1)
    return op.positions(lower.double(), upper.double(), slopes, nu_hat > 0)


@dataclass(frozen=True)
class Planes:
    """A product's planes below a form."""

    op: Product
    parent: Shape
    lines: LinearRelaxation  #: slopes [B, 2, M], biases [B, M]

    def select(self, index: Tensor) -> Planes:  # [k] int64
        """Of these examples."""
        return Planes(self.op, self.parent, self.lines.each(lambda t: t[index]))

    def multipliers(self, form: LinearForm) -> tuple[Tensor, Tensor]:
        """nu [B, S, 2, M] on both factors, and a constant [B, S]."""
        return plane_below(self.lines.each(lambda t: t.unsqueeze(1)), form.settled().dense())

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [B, S]
        if isinstance(form, Runs) and (matrices := MatrixProduct.of(self.op, form.length)) is not None:
            nu, constant = matrices.below(self.lines, form.coefficients, math.prod(self.parent))
            return Dense(nu.unflatten(2, self.parent)), constant
        nu, constant = self.multipliers(form)
        return Dense(self.op.onto(nu, self.parent)), constant


@dataclass(frozen=True)
class ProductMultipliers:
    """A product under given multipliers nu [B, S, 2, M] of both factors, any values.

    Where a factor does not vary, the product is a line, and nu follows it: its factors are not used as constraints.
    """

    op: Product
    lower: Tensor  # [B, *parent]
    upper: Tensor  # [B, *parent]
    nu: Tensor

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [B, S]
        nu_hat = form.dense()
        low, high = (self.op.read(t).unsqueeze(1) for t in (self.lower, self.upper))
        lines = self.op.relax(self.lower, self.upper, torch.zeros_like(low[:, 0, 0]))
        settled = lines.lower_slope.unsqueeze(1) * nu_hat.unsqueeze(2)
        varies = self.op.varies(self.lower, self.upper).unsqueeze(1).unsqueeze(1)
        nu = torch.where(varies, self.nu.to(settled), settled)
        constant = corner_least(low, high, nu_hat, nu).sum(2)
        return Dense(self.op.onto(nu, tuple(self.lower.shape[1:]))), constant
