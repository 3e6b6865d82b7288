"""Projected gradient ascent of many cases' dual bounds at once (Adam), the cases that are done leaving early."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.branching.dual import BackwardPass, ForwardPass, SubdomainDual
from verifier.branching.subdomains import STEPS, Subdomains

_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8
#: cases leave when so many are done that the rest is worth copying
_LEAVE = 0.15


@dataclass(frozen=True)
class SubdomainSchedule:
    """Steps of an ascent and their sizes."""

    steps: int = 3
    slope_rate: float = 0.1  #: of the first step; slopes live in [0, 1]
    gamma_rate: float = 0.3  #: of the first step, in units of the coefficients on the neurons that are split
    weight_rate: float = 0.5  #: of a step in the logarithm of a clause's weights
    decay: float = 0.9  #: of the rates per step


class _Adam:
    """First and second moments of one kind of variable."""

    def __init__(self, like: Tensor) -> None:
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)

    def direction(self, gradient: Tensor, step: int) -> Tensor:
        self.first.mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
        self.second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        size = (self.second / (1 - _BETA2**step)).sqrt_().add_(_TINY)
        return self.first / size.mul_(1 - _BETA1**step)

    def select(self, index: Tensor) -> None:
        self.first, self.second = self.first[index], self.second[index]


class _Climb:
    """The ascent of one batch: variables of the cases that are still in it, and the best seen of all."""

    def __init__(self, dual: SubdomainDual, cases: Subdomains, schedule: SubdomainSchedule) -> None:
        self.dual, self.whole, self.schedule = dual, cases, schedule
        self.index, self.part = torch.arange(len(cases), device=cases.bound.device), cases
        self.lines = dual.lines(cases)
        self.slope, self.gamma = dual.slopes(cases), cases.gamma.to(dual.dtype)
        self.weight = cases.weight.to(dual.dtype)
        self.adams = (_Adam(self.slope), _Adam(self.gamma))
        self.scale: Tensor | None = None
        # whatever bound a case came with, it was not that of these variables in this case
        nothing = torch.full_like(cases.bound, -torch.inf)
        self.best = (cases.slope.clone(), cases.gamma.clone(), cases.weight.clone(), nothing)

    def walk(self) -> BackwardPass:
        return self.dual.walk(self.part, self.lines, self.slope, self.weight, self.gamma)

    def keep(self, walk: BackwardPass) -> None:
        """Remember the variables where they are better than all before."""
        slope, gamma, weight, bound = self.best
        value = walk.bound.double()
        better = value > bound[self.index]
        at = self.index[better]
        bound[at] = value[better]
        slope[at] = (self.slope[better] * STEPS).round_().to(torch.uint8)
        gamma[at], weight[at] = self.gamma[better].float(), self.weight[better].float()

    def leave(self, walk: BackwardPass, enough: Tensor) -> BackwardPass | None:
        """Without the cases that are done, where there are many; None where all are."""
        left = ~(self.best[3][self.index] > enough[self.index])
        count = int(left.sum())
        if count == 0 or count > (1 - _LEAVE) * len(left):
            return walk if count else None
        keep = left.nonzero().squeeze(1)
        self.index, self.part = self.index[keep], self.part.select(keep)
        self.slope, self.gamma, self.weight = self.slope[keep], self.gamma[keep], self.weight[keep]
        self.lines = self.lines.select(keep)
        self.scale = None if self.scale is None else self.scale[keep]
        for adam in self.adams:
            adam.select(keep)
        return walk.select(keep)

    def step(self, walk: BackwardPass, number: int) -> None:
        primal, rate = self.dual.primal(walk), self.schedule.decay ** (number - 1)
        gradient = self.dual.slope_gradient(self.lines, walk, primal)
        move = self.adams[0].direction(gradient, number)
        self.slope = torch.add(self.slope, move, alpha=self.schedule.slope_rate * rate).clamp_(0, 1)
        self._step_gamma(walk, primal, number, rate)
        if self.weight.shape[1] > 1:
            self._step_weight(primal, rate)

    def _step_gamma(self, walk: BackwardPass, primal: ForwardPass, number: int, rate: float) -> None:
        part = self.part
        if walk.nu_hat.shape[1] == 0:
            return
        if self.scale is None:
            size = walk.nu_hat.abs()
            self.scale = torch.maximum(size.gather(1, part.neuron), size.mean(1, keepdim=True))
        gradient = self.dual.gamma_gradient(part, self.lines, self.gamma, primal)
        move = self.adams[1].direction(gradient, number)
        gamma = self.gamma + self.schedule.gamma_rate * rate * self.scale * move
        # a constraint's multiplier has one sign: z >= l takes from nu, z <= u adds to it
        gamma = torch.where(part.lowered, gamma, gamma.clamp(max=0))
        self.gamma = torch.where(part.raised, gamma, gamma.clamp(min=0))

    def _step_weight(self, primal: ForwardPass, rate: float) -> None:
        """A multiplicative step on the simplex of every clause's rows."""
        values = self.dual.weight_gradient(self.part, primal)
        spread = (values - values.mean(1, keepdim=True)).abs().amax(1, keepdim=True)
        way = (values - values.amax(1, keepdim=True)) / torch.where(spread > 0, spread, 1.0)
        grown = self.weight * torch.exp(self.schedule.weight_rate * rate * way)
        self.weight = grown / grown.sum(1, keepdim=True)


def ascend(dual: SubdomainDual, cases: Subdomains, schedule: SubdomainSchedule, enough: Tensor) -> Subdomains:
    """The same cases with the best variables seen, and their bounds.

    Args:
        enough: [D]; a case whose bound is above this is done.
    """
    with torch.no_grad():
        climb = _Climb(dual, cases, schedule)
        for number in range(1, schedule.steps + 2):
            walk = climb.walk()
            climb.keep(walk)
            left = climb.leave(walk, enough)
            if left is None or number > schedule.steps:
                break
            climb.step(left, number)
        slope, gamma, weight, bound = climb.best
        return replace(cases, slope=slope, gamma=gamma, weight=weight, bound=bound)
