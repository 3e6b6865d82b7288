"""Polytopes: inputs in a box that satisfy linear inequalities."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from properties.affine_exact import rounding_error, rows_hold
from properties.arguments import finite
from properties.box import Box
from properties.input_set import Functional, InputSet, register
from properties.interior_point import FewRows, minimise
from properties.lifted import one_example
from properties.record import SetRecord, written
from properties.rounding import cast_down, cast_up

#: numbers that a search holds in one tensor; more rows than that are searched in parts
CHUNK = 2**16


@register
class Polytope(InputSet):
    """{x : lower <= x <= upper, A x <= b}.

    Bounds are weak duality's: for every lambda >= 0, c . x <= lambda . b + max over the box of (c - lambda A) . x. With
    one row, the best lambda is found exactly among the breakpoints; with more, by an interior point method.

    Args:
        a: [B or 1, m, *input], the rows A; b: [B or 1, m]. Both finite, m >= 1 small (each counts in every bound).
        lower, upper: [B, *input], finite.
        nominal: [B, *input], the clean inputs, members of their sets; default points well inside.

    Raises:
        ValueError: unusable arguments; a nominal point that is no member; a set in which no point was found. Sets
            without an interior (equalities as two rows) have few floating-point members: give them a width, or pass
            `nominal`.
    """

    costly_projection = True
    tightness = "exact with one row; else above the maximum by the end of a search, relatively about 1e-9"

    def __init__(self, a: Tensor, b: Tensor, lower: Tensor, upper: Tensor, nominal: Tensor | None = None) -> None:
        self.hull = Box(lower, upper)  # of the box alone
        self.lower, self.upper = self.hull.lower, self.hull.upper
        self.a, self.b = finite(a, "a"), finite(b, "b")
        batch, shape = self.lower.shape[0], self.lower.shape[1:]
        if self.a.dim() != lower.dim() + 1 or self.a.shape[2:] != shape or self.a.shape[1] == 0:
            raise ValueError(
                f"a polytope of inputs of shape {tuple(shape)} needs rows a [batch or 1, m, *input] with m >= 1, got "
                f"{tuple(self.a.shape)}"
            )
        if self.b.dim() != 2 or self.b.shape[1] != self.a.shape[1]:
            raise ValueError(f"b must be [batch or 1, {self.a.shape[1]}], one limit per row, got {tuple(self.b.shape)}")
        for name, tensor in (("a", self.a), ("b", self.b)):
            if len(tensor) not in (1, batch):
                raise ValueError(f"{name} must have batch size 1 or {batch}, as lower has, got {len(tensor)}")
        self.a, self.b = self.a.expand(batch, *self.a.shape[1:]), self.b.expand(batch, -1)
        self.interior = self._deepest()
        self.nominal = self.interior if nominal is None else finite(nominal, "nominal")
        self._check_members(nominal is None)
        self._tight: tuple[Tensor, Tensor] | None = None  # `box()`, once it was asked for

    @classmethod
    def examples(cls) -> list[Self]:
        lower = torch.linspace(-1, 0.5, 12, dtype=torch.float64).reshape(2, 2, 3)
        flat = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 2.0]])
        rows = torch.linspace(0, 20, 36).sin().reshape(2, 3, 2, 3)
        middle = (rows.double() * (lower + 0.5).unsqueeze(1)).flatten(2).sum(2)
        ones = torch.ones(1, 1, 2, 3)
        return [
            cls(rows, middle + torch.tensor([0.1, 0.4, 9.0]), lower, lower + 1, nominal=lower + 0.5),
            cls(rows, middle + 0.2, lower, lower + flat),
            cls(ones, torch.tensor([[2.0]]), lower, lower + 1),
            cls(torch.cat([ones, -ones], 1), torch.tensor([[0.5, -0.3]]), lower - 1, lower + 1),
        ]

    @property
    def batch(self) -> int:
        return self.lower.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.lower.shape[1:])

    # construction ----------------------------------------------------------------------------------------------------

    def _deepest(self) -> Tensor:
        """Points [B, *input] well inside the box and as far from all rows as there are any, by linear programming.

        The box's middle where the solver finds none.
        """
        from scipy.optimize import linprog

        points = self.hull.center().clone()
        for i in range(self.batch):
            rows, limits = self.a[i].flatten(1).cpu().numpy(), self.b[i].cpu().numpy()
            low, high = (t[i].flatten().cpu().numpy() for t in (self.lower, self.upper))
            half = 0.5 * (high - low)
            # x = middle + half y; every row's limit moves inward by t of what the row spans over the box
            scaled = rows * half
            cost = np.append(np.zeros(len(half)), -1.0)
            reach = np.abs(scaled).sum(1)
            reach[reach == 0] = 1.0
            constraint = np.hstack([scaled / reach[:, None], np.ones((len(rows), 1))])
            limit = (limits - rows @ (0.5 * (low + high))) / reach
            found = linprog(cost, constraint, limit, bounds=[(-0.95, 0.95)] * len(half) + [(None, 1)], method="highs")
            if found.x is not None:
                y = torch.from_numpy(found.x[:-1]).to(points)
                points[i] = (points[i].flatten() + torch.from_numpy(half).to(points) * y).reshape(self.shape)
        return torch.minimum(torch.maximum(points, self.lower), self.upper)

    def _check_members(self, searched: bool) -> None:
        outside = ~self.contains(self.nominal)
        self.interior = torch.where(self._wide(self.contains(self.interior)), self.interior, self.nominal)
        if outside.any():
            i = int(outside.nonzero()[0])
            if searched:
                raise ValueError(
                    f"no point was found in the polytope of example {i} (and {int(outside.sum()) - 1} more): it is "
                    "empty, or too thin; widen its limits, or pass a member as nominal"
                )
            raise ValueError(f"nominal of example {i} (and {int(outside.sum()) - 1} more) is not in its polytope")

    # bounds ----------------------------------------------------------------------------------------------------------

    def outer(self) -> Box:
        """The box without the rows."""
        return self.hull

    def support(self, form: Functional) -> Tensor:  # [B, S]
        return self._bounded(form.dense().flatten(2).expand(self.batch, -1, -1))

    def support_where(self, form: Functional, rows: Tensor) -> Tensor:  # rows [B, S] -> [B, S]
        c, example = form.dense().flatten(2).expand(self.batch, -1, -1)[rows], rows.nonzero()[:, 0]
        size = max(1, 16 * CHUNK // self.a[0].numel())  # each row takes a copy of its example's polytope
        parts = zip(c.split(size), example.split(size), strict=True)
        found = [self.select(index)._bounded(part.unsqueeze(1)).squeeze(1) for part, index in parts]
        values = torch.cat(found) if found else c.new_zeros(0)
        return c.new_zeros(rows.shape).masked_scatter(rows, values)

    def _bounded(self, given: Tensor) -> Tensor:  # [B, S, N] -> [B, S]
        """The support function of coefficients written out."""
        c, dtype = given.double(), given.dtype
        with torch.no_grad():
            multipliers, points = self.search(c.detach())
            # large multipliers cancel large terms, and that rounds: none at all may be better
            found = (self._above(c.detach(), m) for m in (multipliers, torch.zeros_like(multipliers)))
            bound = cast_up(torch.minimum(*found), dtype)
        # the bound's derivative is the point where the maximum is reached, which the bound itself does not show: its
        # best multipliers are those where some coefficients of c - lambda A are zero
        value = (points * c).sum(2)
        return bound + (value - value.detach()).to(dtype)

    def _dual(self, c: Tensor, multipliers: Tensor) -> Tensor:  # [B, S, N], [B, S, m] -> [B, S]
        """Weak duality's bound at any multipliers >= 0."""
        rest = c - multipliers @ self.a.flatten(2)
        low, high = (t.flatten(1).unsqueeze(1) for t in (self.lower, self.upper))
        return torch.maximum(rest * low, rest * high).sum(2) + (multipliers * self.b.unsqueeze(1)).sum(2)

    def _above(self, c: Tensor, multipliers: Tensor) -> Tensor:  # [B, S, N], [B, S, m] -> [B, S]
        """The bound at these multipliers, with all that its sums can have lost by rounding."""
        sizes = torch.maximum(self.lower.abs(), self.upper.abs()).flatten(1).unsqueeze(2)  # [B, N, 1]
        size = ((c.abs() + multipliers @ self.a.flatten(2).abs()) @ sizes + multipliers @ self.b.abs().unsqueeze(2))[
            ..., 0
        ]
        return self._dual(c, multipliers) + rounding_error(size, c.shape[2] + multipliers.shape[2])

    @torch.no_grad()
    def search(self, c: Tensor) -> tuple[Tensor, Tensor]:  # [B, S, N] -> [B, S, m], [B, S, N]
        """Multipliers >= 0 of the rows that make the bound of max c . x low, and points near its maximisers."""
        size = max(1, CHUNK // max(1, self.batch * c.shape[2]))
        parts = [self._searched(part) for part in c.split(size, 1)]
        return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)

    def _searched(self, c: Tensor) -> tuple[Tensor, Tensor]:  # [B, S, N] -> [B, S, m], [B, S, N]
        if self.a.shape[1] == 1:
            return self._one_row(c)
        half = (0.5 * (self.upper - self.lower)).flatten(1)
        middle = (0.5 * (self.upper + self.lower)).flatten(1)
        rows = self.a.flatten(2)
        limits = self.b - torch.einsum("bmn,bn->bm", rows, middle)
        y, found = minimise(FewRows(rows * half.unsqueeze(1)), c * half.unsqueeze(1), limits)
        found = found.nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
        better = self._dual(c, found) < self._dual(c, torch.zeros_like(found))
        found = torch.where(better.unsqueeze(2), found, torch.zeros_like(found))
        return found, middle.unsqueeze(1) + half.unsqueeze(1) * y

    def _one_row(self, c: Tensor) -> tuple[Tensor, Tensor]:  # [B, S, N] -> [B, S, 1], [B, S, N]
        """The best multiplier of the one row: the bound is convex and piecewise linear in it."""
        row = self.a.flatten(2)  # [B, 1, N]
        low, high = (t.flatten(1).unsqueeze(1) for t in (self.lower, self.upper))
        # just above 0: where c is 0, the coefficient c - lambda row has the sign of -row
        least = torch.where(row > 0, low, high)
        at = torch.where(c > 0, high, torch.where(c < 0, low, least))
        slope = (self.b - (row * at).sum(2)).unsqueeze(2)  # [B, S, 1]
        ratio = torch.where((row != 0) & (c / row > 0), c / row, torch.inf)
        kinks, order = ratio.sort(2)
        steps = (row.abs() * (high - low)).expand_as(c).gather(2, order)
        after = slope + torch.where(kinks.isfinite(), steps, 0.0).cumsum(2)
        # the first kink after which the bound rises; none does in an empty set, or by rounding: then the last
        first = (after < 0).sum(2, keepdim=True)
        last = (kinks.isfinite().sum(2, keepdim=True) - 1).clamp(min=0)
        best = kinks.gather(2, torch.minimum(first, last)).nan_to_num(0.0, 0.0, 0.0)
        best = torch.where(slope >= 0, 0.0, best)
        # the maximiser: entries before the kink have changed ends, those at it take what is left of the limit
        ends = torch.where(ratio < best, least, at), torch.where(ratio <= best, least, at)
        most, fewest = ((row * end).sum(2, keepdim=True) for end in ends)
        share = ((most - self.b.unsqueeze(2)) / (most - fewest)).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
        return best, ends[0] + share * (ends[1] - ends[0])

    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:  # [B, *input] each
        if self._tight is None:
            self._tight = self._tightened()
        return cast_down(self._tight[0], dtype), cast_up(self._tight[1], dtype)

    @torch.no_grad()
    def _tightened(self) -> tuple[Tensor, Tensor]:  # [B, *input] each
        """The interval hull in float64 by the dual bound of every entry, its rounding errors added."""
        rows, b = self.a.flatten(2), self.b.unsqueeze(1)
        low, high = self.lower.flatten(1), self.upper.flatten(1)
        furthest = torch.maximum(low.abs(), high.abs()).unsqueeze(1)
        ends = [low.clone(), high.clone()]
        units = torch.eye(low.shape[1], dtype=torch.float64, device=low.device)
        size = max(1, CHUNK // max(1, self.batch * low.shape[1]))
        for sign in (-1, 1):
            for start in range(0, len(units), size):
                c = sign * units[start : start + size].expand(self.batch, -1, -1)
                found, _ = self._searched(c)
                sizes = ((c.abs() + found @ rows.abs()) * furthest).sum(2) + (found * b.abs()).sum(2)
                bound = self._dual(c, found) + rounding_error(sizes, sum(rows.shape[1:]))
                part = slice(start, start + size)
                if sign > 0:
                    ends[1][:, part] = torch.minimum(ends[1][:, part], bound)
                else:
                    ends[0][:, part] = torch.maximum(ends[0][:, part], -bound)
        return ends[0].view_as(self.lower), ends[1].view_as(self.lower)

    # points ----------------------------------------------------------------------------------------------------------

    def center(self) -> Tensor:  # [B, *input]
        return self.nominal

    def contains(self, x: Tensor) -> Tensor:  # [B, *input] -> bool [B]
        x = x.double()
        member = self.hull.contains(x)
        index = member.nonzero().squeeze(1)
        if len(index):
            rows = rows_hold(self.a[index].flatten(2), x[index].flatten(1), self.b[index])
            member[index] = rows.all(1)
        return member

    def excess(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, m]
        """A x - b, as computed."""
        return torch.einsum("bmn,bn->bm", self.a.flatten(2), x.double().flatten(1)) - self.b

    def project(self, x: Tensor) -> Tensor:  # [B, *input]
        half, middle = 0.5 * (self.upper - self.lower), 0.5 * (self.upper + self.lower)
        rows, h = self.a.flatten(2), half.flatten(1).unsqueeze(1)  # h [B, 1, N]
        limits = self.b - torch.einsum("bmn,bn->bm", rows, middle.flatten(1))
        pull = (x.double() - middle).flatten(1).unsqueeze(1)
        y, _ = minimise(FewRows(rows * h, h.square()), h * pull, limits)
        z = middle + half * y[:, 0].view_as(half)
        # a member as it is stays as it is
        z = torch.where(self._wide(self.contains(x)), x.double(), self._drawn(z))
        return z.to(x.dtype)

    def _wide(self, each: Tensor) -> Tensor:  # [B] -> [B, 1, ...]
        return each.reshape(-1, *(1,) * len(self.shape))

    def _drawn(self, z: Tensor) -> Tensor:  # [B, *input]
        """z moved towards the interior as far as it violates rows, and into the box."""
        z = torch.minimum(torch.maximum(z, self.lower), self.upper)
        excess, room = self.excess(z), -self.excess(self.interior)
        share = torch.where(excess > 0, excess / (excess + room.clamp(min=0)), 0.0).amax(1)
        return self._between(z, self._wide(share.nan_to_num(0.0)))

    def _between(self, z: Tensor, share: Tensor) -> Tensor:  # [B, *input], share [B, 1, ...]
        moved = z + share * (self.interior - z)
        return torch.minimum(torch.maximum(moved, self.lower), self.upper)

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, *input] each
        """Along the gradient: with the nearest-point projection, the only direction that never stalls below the top."""
        length = gradient.double().flatten(1).norm(dim=1)
        size = (0.5 * (self.upper - self.lower)).flatten(1).norm(dim=1)
        factor = torch.where(length > 0, step * size / length, 0.0)
        return gradient * self._wide(factor).to(gradient.dtype)

    def sample(self, generator: torch.Generator | None = None, steps: int = 16) -> Tensor:  # [B, *input]
        """Hit and run: from the interior along random directions, each time to a random point of the chord."""
        x, half = self.interior.flatten(1).clone(), (0.5 * (self.upper - self.lower)).flatten(1)
        for _ in range(steps):
            normal = torch.randn(self.lower.shape, generator=generator, dtype=torch.float64)
            u = torch.rand((self.batch,), generator=generator, dtype=torch.float64)
            direction = normal.to(x.device).flatten(1) * half
            first, last = self._chord(x, direction)
            x = x + (first + u.to(x.device) * (last - first)).unsqueeze(1) * direction
            x = self._drawn(x.view_as(self.lower)).flatten(1)
        return x.view_as(self.lower)

    def _chord(self, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:  # [B, N] each -> [B] each
        """The ends t of the part of x + t direction that lies in the set, x in it."""
        slope = torch.cat([torch.einsum("bmn,bn->bm", self.a.flatten(2), direction), direction, -direction], 1)
        room = torch.cat([-self.excess(x), self.upper.flatten(1) - x, x - self.lower.flatten(1)], 1).clamp(min=0)
        last = torch.where(slope > 0, room / slope, torch.inf).amin(1)
        first = torch.where(slope < 0, room / slope, -torch.inf).amax(1)
        return torch.where(first.isfinite(), first, 0.0), torch.where(last.isfinite(), last, 0.0)

    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, *input]
        y = self.hull.inside(x, dtype)
        share = torch.finfo(dtype).eps
        for _ in range(8):  # further and further towards the interior, by few roundings
            left = (~self.contains(y)).nonzero().squeeze(1)
            if len(left) == 0:
                break
            part = self.select(left)
            drawn = part._drawn(x[left].double())
            y[left] = part.hull.inside(part._between(drawn, drawn.new_tensor(share)), dtype)
            share *= 4
        return y

    def separate(self, x: Tensor) -> Tensor:  # [B, *input]
        """The most violated row, by distance; where none is, the sides of the box that are."""
        norms = self.a.flatten(2).norm(dim=2)
        distance = torch.where(norms > 0, self.excess(x) / norms, -torch.inf)
        worst, at = distance.max(1)
        row = self.a[torch.arange(self.batch, device=at.device), at].to(x.dtype)
        return torch.where(self._wide(worst > 0), row, x - self.hull.project(x))

    def inequalities(self) -> tuple[Tensor, Tensor] | None:  # [B, m, *input], [B, m]
        return self.a, self.b

    # bookkeeping -----------------------------------------------------------------------------------------------------

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        for name in ("a", "b", "lower", "upper", "interior", "nominal"):
            setattr(chosen, name, getattr(self, name)[index])
        chosen.hull = self.hull.select(index)
        chosen._tight = None if self._tight is None else (self._tight[0][index], self._tight[1][index])
        return chosen

    def to(self, device: torch.device) -> Self:
        moved = object.__new__(type(self))
        moved.__dict__.update(self.__dict__)
        for name in ("a", "b", "lower", "upper", "interior", "nominal"):
            setattr(moved, name, getattr(self, name).to(device))
        moved.hull = self.hull.to(device)
        moved._tight = None if self._tight is None else (self._tight[0].to(device), self._tight[1].to(device))
        return moved

    def describe(self) -> dict[str, object]:
        return {"kind": "polytope", "rows": self.a.shape[1]}

    def record(self) -> SetRecord:
        one_example(self)
        ends = {"lower": written(self.lower[0]), "upper": written(self.upper[0])}
        return SetRecord("polytope", {}, {**ends, "rows": written(self.a[0].flatten(1)), "limits": written(self.b[0])})
