"""Products of two values of the network, both of which depend on the input: the third kind of operator.

A product x y over a box is relaxed by planes, McCormick's (1976): below, any mean of

    x y >= l_y x + l_x y - l_x l_y        and        x y >= u_y x + u_x y - u_x u_y,

above, any mean of

    x y <= u_y x + l_x y - l_x u_y        and        x y <= l_y x + u_x y - u_x l_y.

The parameter t in [0, 1] of each bound says which mean. Together the four are the convex hull of the product over the
box; both planes of a side agree where a factor does not vary, and the product is then exact: affine.

Slopes alone decide a plane here. Its bias is worked out from them at the four corners, where a bilinear function less a
plane has its extremes, so that no rounding of a slope costs soundness.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.forms import Dense, LinearForm
from verifier.ops.base import (
    LinearRelaxation,
    Nonlinear,
    OperatorExample,
    Primitive,
    Shape,
    SlopeRule,
    register,
)

#: the t of the rules. At 0 the lower plane is exact where either factor is at its lower end
RULES = {SlopeRule.FIXED: 0.5, SlopeRule.ADAPTIVE: 0.0}


@register
class Product(Nonlinear):
    """y_m = z[left_m] z[right_m] for entries of one flat node z; y is flat, [M].

    Factors that several products share are one entry of z: it is bounded once, and a split of it serves them all. What
    a product of two nodes becomes is in `verifier.graph.emitter`.

    Args:
        left, right: [M] int64, places in the flattened parent; no pair names one entry twice (that is a square).
    """

    tensors = ("left", "right")
    piecewise_linear = False
    roundings = 1
    ulps = 1

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right

    def apply(self, x: Tensor) -> Tensor:  # [B, *parent] -> [B, M]
        flat = x.flatten(1)
        return flat[:, self.left] * flat[:, self.right]

    def ports(self, shape: Shape) -> Shape:
        return 2, len(self.left)

    def read(self, z: Tensor) -> Tensor:  # [B, *parent] -> [B, 2, M]
        """Both factors of every product."""
        flat = z.flatten(1)
        return torch.stack([flat[:, self.left], flat[:, self.right]], 1)

    def onto(self, coefficients: Tensor, shape: Shape) -> Tensor:  # [B, S, 2, M] -> [B, S, *parent]
        """Coefficients on the factors, added up where they are: the adjoint of `read`."""
        size = int(torch.Size(shape).numel())
        flat = coefficients.new_zeros(*coefficients.shape[:2], size)
        for index, part in ((self.left, coefficients[..., 0, :]), (self.right, coefficients[..., 1, :])):
            flat = flat.index_add(2, index, part)
        return flat.unflatten(2, shape)

    def pulled(self, form: LinearForm, slopes: Tensor, shape: Shape) -> Dense:  # slopes [B, 2, M]
        """A form on the products as one on the node of their factors, along planes of these slopes on both sides."""
        return Dense(self.onto(form.dense().unsqueeze(2) * slopes.unsqueeze(1), shape))

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
        """Planes over boxes. The fixed rule takes the middle of each side's two, which makes the sides parallel.

        Args:
            lower, upper: [B, *parent]. slope: [B, M], t of both sides.

        Returns:
            Slopes [B, 2, M], of the left factor and of the right one, and biases [B, M].
        """
        return planes(self.read(lower), self.read(upper), slope)

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *parent] each -> [B, M] each
        values = corners(self.read(lower), self.read(upper))[1]
        low, high = values.amin(0), values.amax(0)
        unknown = low.isnan() | high.isnan()  # an infinite end times zero, or an end that is no number
        return torch.where(unknown, -torch.inf, low), torch.where(unknown, torch.inf, high)

    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *parent] each -> bool [B, *parent]
        """Entries of z that vary and are multiplied with some that vary as well."""
        found = torch.zeros_like(lower.flatten(1), dtype=torch.bool)
        varies = self.varies(lower, upper)
        for index in (self.left, self.right):
            found |= torch.zeros_like(found, dtype=torch.int32).index_add(1, index, varies.to(torch.int32)) != 0
        return found.view_as(lower)

    def varies(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *parent] each -> bool [B, M]
        """Products of which both factors vary: the others are affine."""
        wide = ~(self.read(lower) >= self.read(upper))
        return wide[:, 0] & wide[:, 1]

    def positions(self, lower: Tensor, upper: Tensor, slopes: Tensor, below: Tensor) -> Tensor:
        """The t in [0, 1] of the planes nearest to some slopes, 1/2 where there is nothing to tell it by: [S, M].

        Args:
            lower, upper: [1, *parent]. slopes: [S, 2, M]. below: [S, M] bool, which are of the lower side.
        """
        ends = [self.relax(lower, upper, torch.full_like(slopes[:1, 0], t)) for t in (0.0, 1.0)]
        start, end = (torch.where(below.unsqueeze(1), e.lower_slope, e.upper_slope) for e in ends)
        way = end - start
        share = ((slopes - start) * way).sum(1) / (way * way).sum(1)
        return share.nan_to_num(nan=0.5, posinf=0.5, neginf=0.5).clamp(0, 1)

    def split_at(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *parent] each -> [B, *parent]
        """The middle: both halves then have half of the gap."""
        middle = 0.5 * lower + 0.5 * upper
        return torch.where((middle > lower) & (middle < upper), middle, torch.nan)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("product", {"left": self.left.cpu().numpy(), "right": self.right.cpu().numpy()}, {})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        left, right = torch.tensor([0, 1, 2, 0, 3]), torch.tensor([4, 4, 3, 1, 5])
        row, inner, column = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(2), indexing="ij")
        matrices = cls(
            *((3 * row + inner).transpose(1, 2).flatten(), (6 + 2 * inner + column).transpose(1, 2).flatten())
        )
        return [
            OperatorExample(cls(left, right), ((6,),)),
            OperatorExample(cls(left, right), ((3, 2),)),
            OperatorExample(matrices, ((12,),)),  # of [2, 3] by [3, 2]
        ]


def corners(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The corners [4, ..., 2, M] of boxes [..., 2, M], and the products [4, ..., M] there.

    Together they are the vertices of the hull: a linear function of (x, y, x y) has its extremes at them.
    """
    x = torch.stack([lower, lower, upper, upper])[..., 0, :]
    y = torch.stack([lower, upper, lower, upper])[..., 1, :]
    return torch.stack([x, y], -2), x * y


def planes(lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
    """McCormick's planes over boxes [..., 2, M] for t = `slope` [..., M]: slopes [..., 2, M], biases [..., M]."""
    parallel = slope is SlopeRule.FIXED
    t = RULES[slope] if isinstance(slope, SlopeRule) else slope.clamp(0, 1).to(lower).unsqueeze(-2)
    first, second = lower.flip(-2), upper.flip(-2)  # of the other factor
    below = first + t * (second - first)
    crossed = torch.stack([second[..., 0, :], first[..., 1, :]], -2)  # u_y x + l_x y
    other = torch.stack([first[..., 0, :], second[..., 1, :]], -2)  # l_y x + u_x y
    above = crossed + t * (other - crossed)
    if parallel:
        above = below  # to the last bit
    endless = (lower.isinf() | upper.isinf()).any(-2, keepdim=True)
    below, above = (torch.where(endless, 0.0, s) for s in (below, above))
    return LinearRelaxation(below, _bias(lower, upper, below, 1.0), above, _bias(lower, upper, above, -1.0), parallel)


def _bias(lower: Tensor, upper: Tensor, slopes: Tensor, side: float) -> Tensor:
    """The bias [..., M] of a plane of these slopes that is below the product for side 1, above it for side -1.

    Three products and two sums round at a corner: what they may be off by is taken off.
    """
    at, value = corners(lower, upper)
    terms = slopes * at
    rest = value - terms[..., 0, :] - terms[..., 1, :]
    limits = torch.finfo(rest.dtype)
    size = value.detach().abs() + terms.detach().abs().sum(-2)
    bias = (side * rest - (4 * limits.eps * size + 4 * limits.tiny)).amin(0)
    return side * torch.where(bias.isnan(), -torch.inf, bias)
