"""Zonotopes: a center and generators, optionally within the valid range of inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor

from properties.affine_exact import close_to_combination, on_a_segment, rounding_error
from properties.arguments import finite, valid_range
from properties.box import Box
from properties.input_set import Functional, InputSet, register
from properties.interior_point import FewVariables, minimise, solver
from properties.lifted import Lifted, one_example, sparse
from properties.record import SetRecord, written, written_range
from properties.rounding import add_down, add_up, cast_down, cast_up

#: half a float32 step between 1 and 2
ROUNDING = 2.0**-24


@register
class Zonotope(InputSet):
    """{center + sum_k e_k g_k + r : |e_k| <= reach_k, |r| <= rounding elementwise}, within `clip` where given.

    Args:
        center: [B, *input], finite, in the valid range where one is given: the clean inputs.
        generators: [B or 1, n, *input], g_1 ... g_n, finite; with 1 they are shared by all examples.
        clip: valid range of inputs, or None. Members are those points of the zonotope that lie in it: where the center
            has entries at an end of the range, little may be left.
        rounding: >= 0, in the units of the input. Hardly any point of a flat set is a floating-point number, so the
            set is made thick enough to hold its points rounded to float32 (entries below 2 in absolute value; give
            more for larger ones). With 0, only the points that floating point happens to meet are known as members.
        reach: >= 0, how far the error terms e go: one number, [n] or [B, n].

    `contains` is True for proven members only. With one generator it is decided in rational arithmetic; with more, a
    point that is only just a member may be denied, as far as a linear program's tolerance goes.
    """

    tightness = (
        "exact without clip; with clip: above the maximum by at most 2 rounding sum|c| with one generator, with more "
        "the smaller of two bounds: error terms tightened by interval propagation of the clip, and the interval hull"
    )

    def __init__(
        self,
        center: Tensor,
        generators: Tensor,
        clip: tuple[float, float] | None = None,
        rounding: float = ROUNDING,
        reach: float | Tensor = 1.0,
    ) -> None:
        self.nominal, self.generators = finite(center, "center"), finite(generators, "generators")
        if center.dim() < 2 or generators.dim() != center.dim() + 1 or generators.shape[2:] != center.shape[1:]:
            raise ValueError(
                f"a zonotope needs a center [batch, *input] and generators [batch or 1, n, *input], got "
                f"{tuple(center.shape)} and {tuple(generators.shape)}"
            )
        if len(generators) not in (1, len(center)) or generators.shape[1] == 0:
            raise ValueError(
                f"generators must be at least one for each of {len(center)} examples (or for all, with batch 1), got "
                f"shape {tuple(generators.shape)}"
            )
        self.rounding = _allowance(rounding)
        self.reach = _reaches(reach, self.nominal, generators.shape[1])
        self.clip = None if clip is None else valid_range(clip, self.nominal)
        self.low, self.high = self._tightened()  # [B, n], what the clip leaves of the error terms
        self._hull = self._interval_hull()

    @classmethod
    def examples(cls) -> list[Self]:
        center = torch.linspace(0, 1, 12).reshape(2, 2, 3)
        generators = torch.linspace(-0.2, 0.3, 24).sin().reshape(2, 2, 2, 3)
        many = torch.eye(6).reshape(1, 6, 2, 3) * 0.1 + 0.02
        return [
            cls(center, generators),
            cls(center, generators[:, :1], (0, 1)),
            cls(0.4 + 0.2 * center, generators, (0.2, 0.7), rounding=2.0**-20),
            cls(center, torch.cat([many, many[:, :2] - 0.05], 1), reach=torch.linspace(0, 1, 8)),
        ]

    @property
    def batch(self) -> int:
        return self.nominal.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.nominal.shape[1:])

    # construction ----------------------------------------------------------------------------------------------------

    def _tightened(self, rounds: int = 4) -> tuple[Tensor, Tensor]:
        """Ends of the error terms [B, n] of all members: the clip of every entry, propagated and rounded outward."""
        low, high = -self.reach, self.reach.clone()
        if self.clip is None:
            return low, high
        center, g = self.nominal.flatten(1).unsqueeze(1), self.generators.flatten(2)  # [B, 1, N], [B or 1, n, N]
        room = center.new_tensor(self.rounding)
        bottom, top = add_down(center.new_tensor(self.clip[0]), -room), add_up(center.new_tensor(self.clip[1]), room)
        for _ in range(rounds):
            ends = g * low.unsqueeze(2), g * high.unsqueeze(2)
            least, most = torch.minimum(*ends), torch.maximum(*ends)  # of e_k g_k, [B, n, N]
            size = center.abs() + bottom.abs() + top.abs() + torch.maximum(-least, most).sum(1, keepdim=True)
            error = rounding_error(size, 2 * g.shape[1] + 4)
            above = top - center - (least.sum(1, keepdim=True) - least) + error  # e_k g_k is at most this
            below = bottom - center - (most.sum(1, keepdim=True) - most) - error
            up = torch.where(g > 0, above / g, torch.where(g < 0, below / g, torch.inf)).amin(2)
            down = torch.where(g > 0, below / g, torch.where(g < 0, above / g, -torch.inf)).amax(2)
            low = torch.maximum(low, torch.nextafter(down, torch.full_like(down, -torch.inf)))
            high = torch.minimum(high, torch.nextafter(up, torch.full_like(up, torch.inf)))
        return low, high

    def _interval_hull(self) -> Box:
        """The interval hull in float64, rounded outward."""
        shape = (self.batch, -1, *(1,) * len(self.shape))
        ends = self.generators * self.low.reshape(shape), self.generators * self.high.reshape(shape)
        least, most = torch.minimum(*ends), torch.maximum(*ends)
        size = self.nominal.abs() + self.rounding + torch.maximum(-least, most).sum(1)
        error = self.rounding + rounding_error(size, self.generators.shape[1] + 2)
        lower, upper = self.nominal + least.sum(1) - error, self.nominal + most.sum(1) + error
        if self.clip is not None:
            lower, upper = lower.clamp(min=self.clip[0]), upper.clamp(max=self.clip[1])
        return Box(lower, upper, nominal=self.nominal)

    # bounds ----------------------------------------------------------------------------------------------------------

    def support(self, form: Functional) -> Tensor:  # [B, S]
        return self._values(form)[1]

    def minimum(self, form: Functional) -> Tensor:  # [B, S]
        return self._values(form)[0]

    def _values(self, form: Functional) -> tuple[Tensor, Tensor]:
        """Bounds of the functionals' values over the set, each [B, S]."""
        center, generators, spare = self._in(form.dtype)
        low, high = cast_down(self.low, form.dtype), cast_up(self.high, form.dtype)
        least = most = form.dot(center)
        for k in range(generators.shape[1]):
            slope = form.dot(generators[:, k])
            ends = slope * low[:, k : k + 1], slope * high[:, k : k + 1]
            least, most = least + torch.minimum(*ends), most + torch.maximum(*ends)
        if spare is not None:
            reach = form.abs_dot(spare)
            least, most = least - reach, most + reach
        if self.clip is not None:
            bottom, top = self._hull.range(form)
            least, most = torch.maximum(least, bottom), torch.minimum(most, top)
        return least, most

    def _in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """Center and generators in `dtype`, and what they then miss of every entry, [B or 1, *input]."""
        center, generators = self.nominal.to(dtype), self.generators.to(dtype)
        spare = self.nominal.new_full((1, *self.shape), self.rounding)
        if dtype is not torch.float64:
            largest = torch.maximum(-self.low, self.high).reshape(self.batch, -1, *(1,) * len(self.shape))
            lost = ((self.generators - generators.double()).abs() * largest).sum(1)
            spare = spare + (self.nominal - center.double()).abs() + lost
            spare = spare + rounding_error(spare, generators.shape[1] + 2)
        return center, generators, cast_up(spare, dtype) if bool((spare > 0).any()) else None

    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:  # [B, *input] each
        return self._hull.box(dtype)

    def lifted(self) -> Lifted:
        """Columns: the error terms; with a valid range, rows for the entries that may leave it.

        One term's ends say all that the valid range does, up to the roundings.
        """
        one_example(self)
        g, center = self._flat()[0].T.cpu().numpy(), self.nominal[0].flatten().cpu().numpy()  # [N, n], [N]
        low, high = (t[0].cpu().numpy() for t in (self.low, self.high))
        entry, term = np.nonzero(g)
        matrix = sparse(g[entry, term], entry, term, g.shape)
        least, most, at = np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
        if self.clip is not None and len(low) > 1:
            x, room = self.nominal[0].flatten(), self.nominal.new_tensor(self.rounding)
            # in float64, and both sums rounded outward: what is left out or not only widens the set
            bottom = add_down(add_down(x.new_tensor(self.clip[0]), -room), -x).cpu().numpy()
            top = add_up(add_up(x.new_tensor(self.clip[1]), room), -x).cpu().numpy()
            reach = np.maximum(g * low, g * high).sum(1), np.minimum(g * low, g * high).sum(1)
            at = np.flatnonzero((reach[0] > top) | (reach[1] < bottom))
            least, most = bottom[at], top[at]
        spare = np.full(len(center), self.rounding)
        zero = np.zeros(len(low))
        return Lifted(low, high, matrix, center, matrix[at], least, most, zero, spare, supported=len(at) == 0)

    # points ----------------------------------------------------------------------------------------------------------

    def center(self) -> Tensor:  # [B, *input]
        return self.nominal

    def at(self, e: Tensor) -> Tensor:  # [B, n] -> [B, *input]
        """center + sum_k e_k g_k, as computed."""
        return self.nominal + self._moves(e).reshape(self.nominal.shape)

    def _moves(self, e: Tensor) -> Tensor:  # [B, n] -> [B, N]
        return torch.einsum("bk,bkn->bn", e, self._flat())

    def _flat(self) -> Tensor:
        """The generators [B, n, N]."""
        return self.generators.flatten(2).expand(self.batch, -1, -1)

    def contains(self, x: Tensor) -> Tensor:  # [B, *input] -> bool [B]
        x = x.double()
        member = x.isfinite().flatten(1).all(1)
        if self.clip is not None:
            member &= ((x >= self.clip[0]) & (x <= self.clip[1])).flatten(1).all(1)
        index = member.nonzero().squeeze(1)
        if len(index):
            member[index] = self.select(index)._reached(x[index].flatten(1))
        return member

    def _reached(self, x: Tensor) -> Tensor:  # [B, N], finite -> bool [B]
        """Whether some error terms lead to within the allowance of x, whatever the clip."""
        center, directions = self.nominal.flatten(1), self._flat()
        e = self._nearest(x, -self.reach, self.reach, clipped=False)
        snapped = torch.where(e.abs() < 1e-6 * self.reach, 0.0, e)
        snapped = torch.where(self.reach - e.abs() < 1e-6 * self.reach, self.reach * e.sign(), snapped)
        found = close_to_combination(x, center, directions, e, self.rounding)
        found |= close_to_combination(x, center, directions, snapped, self.rounding)
        # no entry is further off than the allowance only if the mean square is not
        distance = (self._moves(e) + center - x).square().mean(1).sqrt()
        hopeless = distance > 1.01 * self.rounding + 1e-9 * (x - center).abs().amax(1)
        for i in (~found & ~hopeless).nonzero().squeeze(1).tolist():
            if directions.shape[1] == 1:
                found[i] = on_a_segment(x[i], center[i], directions[i, 0], float(self.reach[i, 0]), self.rounding)
            elif self.rounding > 0:
                terms = self._levelled(x[i], i, e[i])
                one = slice(i, i + 1)
                found[i] = bool(close_to_combination(x[one], center[one], directions[one], terms, self.rounding))
        return found

    def _levelled(self, x: Tensor, i: int, e: Tensor) -> Tensor:  # [N], example, [n] -> [1, n]
        """Error terms near e whose largest distance from x is least, by linear programming."""
        from scipy.optimize import linprog

        g = self._flat()[i]
        rest = ((x - self.nominal[i].flatten() - e @ g) / self.rounding).cpu().numpy()  # in units of the allowance
        columns, ones = g.T.cpu().numpy(), np.ones((len(rest), 1))
        rows = np.block([[columns, -ones], [-columns, -ones]])
        ends = torch.stack([-self.reach[i] - e, self.reach[i] - e], 1) / self.rounding
        cost = np.append(np.zeros(len(e)), 1.0)
        found = linprog(cost, rows, np.concatenate([rest, -rest]), bounds=[*ends.tolist(), (0, None)], method="highs")
        if found.x is None:
            return e.unsqueeze(0)
        moved = e + self.rounding * torch.from_numpy(found.x[:-1]).to(e)
        return torch.minimum(torch.maximum(moved, -self.reach[i]), self.reach[i]).unsqueeze(0)

    def _nearest(self, x: Tensor, low: Tensor, high: Tensor, clipped: bool) -> Tensor:
        """Error terms [B, n] between low and high [B, n] of the point nearest to x [B, N], up to rounding.

        Args:
            clipped: keep (nearly) to the valid range, widened by half the rounding allowance.
        """
        g, off = self._flat(), x - self.nominal.flatten(1)
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        scaled = g * half.unsqueeze(2)
        off = off - torch.einsum("bk,bkn->bn", middle, g)
        matrix = scaled @ scaled.transpose(1, 2)
        y = _box_least_squares(scaled, matrix, off)
        if clipped and self.clip is not None and g.shape[1] > 1:  # the ends of one term say all that the clip does
            start = x - off  # where the error terms are in their middles
            spare = 0.5 * self.rounding
            limits = torch.cat([self.clip[1] + spare - start, start - self.clip[0] + spare], 1)
            rows = torch.cat([scaled, -scaled], 2).transpose(1, 2)
            left = ((rows @ y.unsqueeze(2)).squeeze(2) > limits).any(1)
            if left.any():
                q = torch.einsum("bkn,bn->bk", scaled[left], off[left]).unsqueeze(1)
                y[left] = minimise(FewVariables(rows[left], matrix[left]), q, limits[left])[0][:, 0]
        return torch.minimum(torch.maximum(middle + half * y, low), high)

    def project(self, x: Tensor) -> Tensor:  # [B, *input]
        e = self._nearest(x.double().flatten(1), self.low, self.high, clipped=True)
        if self.clip is None:
            return self.at(e).to(x.dtype)
        # what the search left outside by more than the allowance is pulled towards the center
        moves, center, spare = self._moves(e), self.nominal.flatten(1), 0.9 * self.rounding
        room = torch.where(moves > 0, self.clip[1] - center, center - self.clip[0]) + spare
        fraction = torch.where(moves.abs() > room, room / moves.abs(), 1.0).amin(1, keepdim=True)
        return self.at(e * fraction).clamp(*self.clip).to(x.dtype)

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, *input] each
        """Every error term moves by `step` of its half range where it gains, and no further than it goes."""
        g, off = self._flat(), (x.double() - self.nominal).flatten(1)
        inverse = torch.linalg.pinv(g @ g.transpose(1, 2), hermitian=True)
        e = torch.einsum("bjk,bk->bj", inverse, torch.einsum("bkn,bn->bk", g, off))
        gain = torch.einsum("bkn,bn->bk", g, gradient.double().flatten(1)).sign()
        moved = e + step * 0.5 * (self.high - self.low) * gain
        moved = torch.minimum(torch.maximum(moved, self.low), self.high)
        return self._moves(moved - e).reshape(x.shape).to(gradient.dtype)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:  # [B, *input]
        u = torch.rand(self.low.shape, generator=generator, dtype=torch.float64).to(self.low.device)
        x = self.at(self.low + u * (self.high - self.low))
        return x if self.clip is None else self.project(x)

    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, *input]
        y = self._cast(x, dtype)
        outside = ~self.contains(y)
        if outside.any():
            part = self.select(outside)
            y[outside] = part._cast(part.project(x[outside].double()), dtype)
        return y

    def _cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, *input]
        y = x.to(dtype, copy=True)
        if self.clip is None:
            return y
        low, high = (torch.tensor(end, dtype=torch.float64) for end in self.clip)
        return y.clamp(float(cast_up(low, dtype)), float(cast_down(high, dtype)))

    # bookkeeping -----------------------------------------------------------------------------------------------------

    def _mapped(self, each: Callable[[Tensor], Tensor], shared: Callable[[Tensor], Tensor], hull: Box) -> Self:
        """A copy, what every example has of its own changed by `each`, what they share by `shared`.

        Args:
            each: of tensors [B, ...]. shared: of tensors [1, ...].
        """
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        for name in ("nominal", "reach", "low", "high"):
            setattr(copy, name, each(getattr(self, name)))
        copy.generators = (shared if len(self.generators) == 1 else each)(self.generators)
        copy._hull = hull
        return copy

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        return self._mapped(lambda t: t[index], lambda t: t, self._hull.select(index))

    def to(self, device: torch.device) -> Self:
        return self._mapped(lambda t: t.to(device), lambda t: t.to(device), self._hull.to(device))

    def describe(self) -> dict[str, object]:
        reaches = self.reach.unique().tolist()
        return {
            "kind": "zonotope", "generators": self.generators.shape[1], "clip": self.clip, "rounding": self.rounding,
            "reach": reaches[0] if len(reaches) == 1 else self.reach.tolist(),
        }  # fmt: skip

    def record(self) -> SetRecord:
        one_example(self)
        options = {"rounding": self.rounding, **written_range(self.clip)}
        arrays = {"center": self.nominal[0], "generators": self._flat()[0], "reach": self.reach[0]}
        return SetRecord("zonotope", options, {name: written(array) for name, array in arrays.items()})


def _box_least_squares(g: Tensor, matrix: Tensor, target: Tensor) -> Tensor:
    """The y [B, n] in [-1, 1] that minimises |target - sum_k y_k g_k|.

    Where the free minimiser lies in the box, that is it, and so is its clamp where there is one term. Otherwise an
    interior point method finds it, which ends at a distance from an end that y should reach: for several such
    distances, the terms that near to an end are put there and the others are solved for; what comes nearest is taken.

    Args:
        g: [B, n, N]; matrix: their products [B, n, n]; target: [B, N].
    """
    best = _refined(torch.zeros_like(g[:, :, 0]), torch.zeros_like(g[:, :, 0], dtype=torch.bool), g, matrix, target)
    least = _distance(best.clamp(-1, 1), g, target)
    left = (best.abs() > 1 + 1e-12).any(1)
    best = best.clamp(-1, 1)
    if g.shape[1] == 1 or not left.any():
        return best
    q = torch.einsum("bkn,bn->bk", g, target).unsqueeze(1)
    found = minimise(FewVariables(g.new_zeros(len(g), 0, g.shape[1]), matrix), q, q[:, 0, :0])[0]
    for near in (-1.0, 0.0, 1e-9, 1e-6, 1e-4):
        y, ended = found[:, 0], 1 - found[:, 0].abs() <= near
        trial = y if near < 0 else _refined(torch.where(ended, y.sign(), y), ended, g, matrix, target).clamp(-1, 1)
        distance = _distance(trial, g, target)
        better = distance < least
        best, least = torch.where(better.unsqueeze(1), trial, best), torch.minimum(distance, least)
    return best


def _distance(y: Tensor, g: Tensor, target: Tensor) -> Tensor:  # [B, K], [B, K, N], [B, N] -> [B]
    return (target - torch.einsum("bk,bkn->bn", y, g)).square().sum(1)


def _refined(y: Tensor, fixed: Tensor, g: Tensor, matrix: Tensor, target: Tensor) -> Tensor:
    """y with the terms that are not fixed solved for, by normal equations on what is left of the target.

    Args:
        y, fixed: [B, n], fixed bool. g: [B, n, N]; matrix: their products [B, n, n]; target: [B, N].
    """
    free = (~fixed).to(y.dtype)
    solve = solver(matrix * free.unsqueeze(1) * free.unsqueeze(2) + torch.diag_embed(1 - free))
    for _ in range(3):
        rest = target - torch.einsum("bk,bkn->bn", y, g)
        y = y + free * solve(free * torch.einsum("bkn,bn->bk", g, rest))
    return y.nan_to_num(0.0)


def _allowance(rounding: float) -> float:
    try:
        value = float(rounding)
    except (TypeError, ValueError) as error:
        raise ValueError(f"rounding must be a number, got {rounding!r}") from error
    if not 0 <= value < torch.inf:
        raise ValueError(f"rounding must be a finite number >= 0, got {value}")
    return value


def _reaches(reach: float | Tensor, center: Tensor, count: int) -> Tensor:
    """The reach of every error term, [B, n] float64 numbers >= 0. Raises ValueError."""
    try:
        reaches = torch.as_tensor(reach, dtype=torch.float64, device=center.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"reach must be a number, or a tensor of one per generator, got {reach!r}") from error
    if tuple(reaches.shape) not in ((), (count,), (len(center), count)):
        raise ValueError(
            f"reach must be one number, one per generator [{count}] or one for each example and generator "
            f"[{len(center)}, {count}], got shape {tuple(reaches.shape)}"
        )
    bad = ~(reaches.isfinite() & (reaches >= 0))
    if bad.any():
        raise ValueError(f"reach must be finite and >= 0, got {float(reaches[bad][0])}")
    return reaches.expand(len(center), count).clone()
