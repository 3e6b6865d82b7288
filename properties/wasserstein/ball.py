"""The Wasserstein ball as an input set."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from properties.arguments import finite, radii_of, said, valid_range
from properties.input_set import Functional, InputSet, Local, register
from properties.lifted import Lifted, one_example
from properties.record import SetRecord, written, written_range
from properties.rounding import add_down, add_up, cast_down, cast_up, two_sum
from properties.wasserstein.fixed import found_multipliers, transported_at
from properties.wasserstein.lifted import lifted
from properties.wasserstein.moves import Moves
from properties.wasserstein.sinkhorn import LAMBDA, projected, repaired
from properties.wasserstein.support import transported
from properties.wasserstein.transport import Routes, is_member, separating

#: twice what a pixel in [0.5, 1] can lose when it is written in float32
ROUNDING = 2.0**-24


@register
class WassersteinBall(InputSet):
    """{z : some local transport plan moves x to z at a cost of at most eps per unit of mass} (Wong 2020, section 5.1).

    A plan P >= 0 sends the mass x_i of every pixel i to pixels j of its channel in a window around it: the sums over j
    are x_i, those over i are z_j, and the sum of P_ij C_ij is at most eps times the mass of the example (the sum of its
    x over all channels). So eps is in the thesis's normalised unit, in which images have mass 1: with the default cost
    in pixels, eps = 0.5 moves half of the mass by a pixel, or less of it further.

    The threat model has two parts more. With `clip` = (low, high) no pixel may hold more than `high` after the plan.
    And every pixel may be off by `rounding`, so that a moved image is still a member when it is written in float32
    (its mass is no longer exactly that of x then): members are z + r with |r| <= rounding, within `clip`.

    Args:
        x: clean images [B, C, H, W], finite, >= 0, within `clip` where given.
        eps: radius >= 0: one number, or one per example [B].
        clip: valid range of pixels, with low <= 0 (pixels stay >= 0 anyway), or None.
        window: k, odd: mass moves at most k // 2 pixels along each axis.
        cost: [k, k], of a unit of mass by its move, finite, >= 0, 0 at the centre; instead of `window`. Default the
            Euclidean distance in pixels.
        rounding: allowance >= 0 per pixel. With 0 hardly any image but x can be shown to be a member.
        sharpness: lambda of the projection's entropy term, for images of mass 1.

    Raises:
        ValueError: anything of that is not so.
    """

    threat = "wasserstein"
    nested = True
    costly_projection = True
    tightness: ClassVar[str] = (
        "exact without a valid range; with one, an upper bound (prices of full pixels by a few Sinkhorn iterations); "
        "pixels' roundings are added as if they were free of the valid range"
    )

    def __init__(
        self,
        x: Tensor,
        eps: float | Tensor,
        clip: tuple[float, float] | None = None,
        window: int = 5,
        cost: Tensor | None = None,
        rounding: float = ROUNDING,
        sharpness: float = LAMBDA,
    ) -> None:
        self.nominal = finite(x, "x")
        if x.dim() != 4:
            raise ValueError(f"a Wasserstein ball needs images [batch, channels, height, width], got {tuple(x.shape)}")
        if (self.nominal < 0).any():
            raise ValueError(
                f"x has {int((self.nominal < 0).sum())} pixels < 0, and mass cannot be negative: "
                f"move normalisation into the model"
            )
        self.eps = radii_of(eps, self.nominal)
        self.clip = None if clip is None else valid_range(clip, self.nominal)
        if self.clip is not None and self.clip[0] > 0:
            raise ValueError(f"clip must start at 0 or below, got {clip}: pixels may lose all their mass")
        for name, value, least in (("rounding", rounding, 0.0), ("sharpness", sharpness, 1e-300)):
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be a finite number {'> 0' if least else '>= 0'}, got {value}")
        self.rounding, self.sharpness, self._named = float(rounding), float(sharpness), cost is None
        self.moves = (Moves.euclidean(window) if cost is None else Moves.of(cost)).to(self.nominal.device)
        masses = self.nominal.new_tensor([math.fsum(image) for image in self.nominal.flatten(1).tolist()])
        #: what a plan may cost, [B], rounded up
        self.budget = torch.where((self.eps > 0) & (masses > 0), _above(self.eps * _above(masses)), 0.0)

    @classmethod
    def around(cls, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> Self:  # x [B, *input]
        return cls(x, eps, clip)

    @classmethod
    def examples(cls) -> list[Self]:
        x = (torch.arange(18).reshape(2, 1, 3, 3) * 7 % 9 - 2).clamp(min=0) / 6
        two = torch.cat([x, x.flip(2, 3)], 1)
        return [
            cls(x, 0.2), cls(x, 0.3, (0, 1), window=3), cls(two, torch.tensor([0.0, 0.1]), (-1, 2)), cls(two, 2.0),
            cls(x, 0.0), cls(x, 0.4, (0, 1), cost=torch.tensor([[9.0, 2.0, 9.0], [0.0, 0.0, 1.0], [9.0, 3.0, 9.0]])),
        ]  # fmt: skip

    @property
    def batch(self) -> int:
        return self.nominal.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.nominal.shape[1:])

    @property
    def cap(self) -> float | None:
        """The most that a pixel may hold."""
        return None if self.clip is None or math.isinf(self.clip[1]) else self.clip[1]

    def support(self, form: Functional) -> Tensor:  # [B, S]
        return self._support(form, form.local(self.moves.reach))

    def outer(self) -> Self | None:
        """The ball without the valid range, whose support function needs no prices."""
        return None if self.cap is None else self._changed(clip=None)

    def unclipped(self) -> Self:
        return self if self.cap is None else self._changed(clip=None)

    def support_where(self, form: Functional, rows: Tensor) -> Tensor:  # rows [B, S] -> [B, S]
        return self._support(form, form.local(self.moves.reach).only(rows))

    def _support(self, form: Functional, local: Local) -> Tensor:  # [B, S]
        best = local.rows(transported(local, *self._of(form), self.moves, self.cap))
        if self.rounding > 0:
            best = best + form.abs_dot(torch.full_like(self.nominal[:1], self.rounding).to(form.dtype))
        if self.cap is None:
            return best
        low, high = self.box(form.dtype)
        middle = 0.5 * (low + high)
        return torch.minimum(best, form.dot(middle) + form.abs_dot(torch.maximum(high - middle, middle - low)))

    def multipliers(self, form: Functional, near: Tensor | None = None) -> Tensor:  # [B, S, K]
        return found_multipliers(form.dense(), *self._of(form), self.moves, self.cap, near)

    def support_at(self, form: Functional, multipliers: Tensor) -> Tensor:  # [B, S, K] -> [B, S]
        best = transported_at(form.dense(), *self._of(form), self.moves, self.cap, multipliers)
        return best + form.abs_dot(torch.full_like(self.nominal[:1], self.rounding).to(form.dtype))

    def _of(self, form: Functional) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        """Images and budgets in the precision of a form."""
        return self.nominal.to(form.dtype), cast_up(self.budget, form.dtype)

    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:  # [B, *input] each
        """Interval hull; the lower ends do not see that pixels may be full all around, where there is a cap."""
        x, zero = self.nominal, torch.zeros_like(self.nominal)
        left = self.budget.reshape(-1, 1, 1, 1).expand_as(x)
        leaves, comes = zero, zero
        for cost, offsets in self.moves.classes():
            away = [at for at in offsets if at != (0, 0)]
            if not away:
                continue
            some = self.moves.largest(torch.ones_like(x), away, 0.0) > 0  # there is a pixel to go to
            able = x if cost == 0 else torch.minimum(x, _affordable(self.budget.reshape(-1, 1, 1, 1), cost))
            leaves = torch.where(some, torch.maximum(leaves, able), leaves)
            for down, right in away:  # what the pixel at (-down, -right) can send here
                mass = self.moves.summed(x, [(-down, -right)])
                taken = mass if cost == 0 else torch.minimum(mass, _affordable(left, cost))
                comes = add_up(comes, taken)
                paid = torch.where(taken > 0, -_above(-taken * cost), 0.0)
                left = torch.where(taken < mass, 0.0, add_up(left, -paid).clamp(min=0))
        return self._hull(add_down(x, -leaves).clamp(min=0), add_up(x, comes), dtype)

    def _hull(self, lower: Tensor, upper: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # [B, *input] each
        """The hull of what plans reach, with the cap, the roundings and the valid range."""
        allowance = torch.full_like(lower, self.rounding)
        if self.cap is not None:
            upper = upper.clamp(max=self.cap)
        lower, upper = add_down(lower, -allowance), add_up(upper, allowance)
        if self.clip is not None:
            lower, upper = lower.clamp(min=self.clip[0]), upper.clamp(max=self.clip[1])
        return cast_down(lower, dtype), cast_up(upper, dtype)

    def center(self) -> Tensor:  # [B, *input]
        return self.nominal

    def contains(self, x: Tensor) -> Tensor:  # [B, *input] -> [B] bool
        """Whether a plan was found that shows in rational arithmetic that x[b] lies in set b.

        So True is a proof; False also where the solver found no such plan.
        """
        x = x.detach().double()
        low, high = self.box()
        off, rest = two_sum(x, -self.nominal)
        near = (off.abs() < self.rounding) | ((off.abs() <= self.rounding) & (rest == 0))  # then nothing need move
        possible = ((x >= low) & (x <= high)).flatten(1).all(1)
        same = possible & near.flatten(1).all(1)
        found = same.clone()
        cap = math.inf if self.cap is None else self.cap
        for b in (possible & ~same).nonzero().squeeze(1).tolist():
            clean = self.nominal[b].cpu().numpy()
            routes = Routes.of(clean, self.moves)
            point = x[b].cpu().numpy().ravel()
            found[b] = is_member(routes, clean.ravel(), point, float(self.eps[b]), self.rounding, cap)
        return found

    def project(self, x: Tensor) -> Tensor:  # [B, *input]
        """A member near x, by projected Sinkhorn iterations: with entropy, so not the very nearest, nor x itself."""
        near = projected(x.detach().double(), self.nominal, self.budget, self.moves, self.cap, self.sharpness)
        return self.inside(near, x.dtype)

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, *input] each
        """A step of the same size at every pixel, as the thesis's attack takes before it projects.

        Its size is `step` times half of the most that any pixel of the example can change. Mass is conserved, so that
        only what a pixel's gradient has above the others' counts: signs are those of the differences from the channel's
        mean, weighted by mass.
        """
        mass = self.nominal.to(gradient.dtype)
        mean = (gradient * mass).sum((2, 3), keepdim=True) / mass.sum((2, 3), keepdim=True)
        gradient = gradient - mean.nan_to_num(nan=0.0)  # no mass in a channel: nothing moves there
        low, high = self.box()
        size = 0.5 * (high - low).flatten(1).amax(1).reshape(-1, 1, 1, 1)
        return gradient.sign() * (step * size).to(gradient.dtype)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:  # [B, *input]
        # every pixel sends random shares in all directions, and all pay a random share of the budget where they can
        shares = torch.rand(*self.nominal.shape, *self.moves.cost.shape, generator=generator, dtype=torch.float64)
        part = torch.rand(self.batch, generator=generator, dtype=torch.float64).to(self.nominal.device)
        shares = shares.to(self.nominal.device) ** 8 * self.moves.neighbours(torch.ones_like(self.nominal))
        plan = self.nominal[..., None, None] * shares / shares.sum((-2, -1), keepdim=True)
        plan = repaired(plan, self.nominal, part * self.budget, self.moves, self.cap)
        return self.moves.arrivals(plan)

    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, *input]
        # a rounding off is allowed for; only the ends of the valid range have to be kept
        y = x.to(dtype, copy=True)
        if self.clip is None:
            return y
        low, high = (x.new_tensor(end, dtype=torch.float64) for end in self.clip)
        return torch.minimum(torch.maximum(y, cast_up(low, dtype)), cast_down(high, dtype))

    def separate(self, x: Tensor) -> Tensor:  # [B, *input]
        """Normals from the transport problem's duals, scaled to |a| <= 1.

        A point below the cap is a member whenever it is one without the cap: the box cuts off the others.
        """
        points, normals = x.detach().double(), torch.zeros_like(self.nominal)
        for b in range(self.batch):
            clean, point = self.nominal[b].cpu().numpy(), points[b].cpu().numpy().ravel()
            normal = separating(Routes.of(clean, self.moves), clean.ravel(), point, float(self.budget[b]))
            if normal is None:
                normals[b] = (points - self.project(points))[b]
            else:
                normals[b] = normals.new_tensor(normal).reshape(self.shape)
        return normals.to(x.dtype)

    def lifted(self) -> Lifted:
        """See `properties.wasserstein.lifted`."""
        one_example(self)
        low, high = (end[0].cpu().numpy() for end in self.box())
        x, budget = self.nominal[0].cpu().numpy(), float(self.budget[0])
        return lifted(x, budget, self.moves, (low, high), self.rounding)

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        return self._changed(nominal=self.nominal[index], eps=self.eps[index], budget=self.budget[index])

    def to(self, device: torch.device) -> Self:
        tensors = {name: getattr(self, name).to(device) for name in ("nominal", "eps", "budget", "moves")}
        return self._changed(**tensors)

    def _changed(self, **fields: object) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **fields)
        return other

    def describe(self) -> dict[str, object]:
        return {
            "kind": "wasserstein",
            "eps": said(self.eps),
            "window": self.moves.window,
            "cost": "euclidean" if self._named else self.moves.cost.tolist(),
            "clip": self.clip,
            "rounding": self.rounding,
        }

    def record(self) -> SetRecord:
        one_example(self)
        options = {"eps": float(self.eps[0]), "rounding": self.rounding, **written_range(self.clip)}
        return SetRecord("wasserstein", options, {"x": written(self.nominal[0]), "cost": written(self.moves.cost)})


def _above(x: Tensor) -> Tensor:  # [...] -> [...]
    """The next number up: at least the exact result of the one operation that was rounded to x."""
    return x.nextafter(torch.full_like(x, torch.inf))


def _affordable(budget: Tensor, cost: float) -> Tensor:  # [...] -> [...]
    """budget / cost, rounded up."""
    return torch.where(budget > 0, _above(budget / cost), 0.0)
