"""Ascent of many subdomains' dual bounds at once: their slopes, the multipliers of their splits, and clauses' weights.

Slopes and multipliers are the alpha and beta of beta-CROWN (Wang et al. 2021). The gradients are written out
(verifier.branching.dual): they cost one pass forwards, and no graph of autograd.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from verifier.branching.dual import ForwardPass, SubdomainDual
from verifier.branching.subdomains import STEPS, Subdomains, signed
from verifier.budget import Budget
from verifier.relaxation import ascent
from verifier.relaxation.ascent import Adam, Memory, Schedule

#: of a subdomain that has its parent's variables to start from; rates are of the slopes, which live in [0, 1]
SUBDOMAINS = Schedule(steps=3, rate=0.1, decay=0.9, look=1)
#: first steps of the splits' multipliers, in units of those neurons' coefficients, and of the logarithm of weights
_GAMMA_RATE, _WEIGHT_RATE = 0.3, 0.5
_MEMORY = Memory(0.9, 0.999, 1e-8)
#: subdomains leave when so many are done that the rest is worth copying
_LEAVE = 0.15


class _SubdomainAscent:
    """The ascent of one batch: variables of the subdomains that are still in it, and the best seen of all.

    Args:
        enough: [D], no need to go on above this.
    """

    def __init__(self, dual: SubdomainDual, subdomains: Subdomains, enough: Tensor) -> None:
        self.dual, self.enough = dual, enough
        self.index, self.part = torch.arange(len(subdomains), device=subdomains.bound.device), subdomains
        self.relaxation = dual.relaxation(subdomains)
        self.slope, self.gamma = dual.slopes(subdomains), subdomains.gamma.to(dual.dtype)
        self.weight = subdomains.weight.to(dual.dtype)
        self.adams = (Adam(self.slope, _MEMORY), Adam(self.gamma, _MEMORY))
        self.scale: Tensor | None = None
        # whatever bound a subdomain came with, it was not that of these variables there
        nothing = torch.full_like(subdomains.bound, -torch.inf)
        self.best = (subdomains.slope.clone(), subdomains.gamma.clone(), subdomains.weight.clone(), nothing)

    def evaluate(self, number: int, last: bool) -> bool:
        self.backward = self.dual.backward(self.part, self.relaxation, self.slope, self.weight, self.gamma)
        slope, gamma, weight, bound = self.best
        value = self.backward.bound.double()
        better = value > bound[self.index]
        at = self.index[better]
        bound[at] = value[better]
        slope[at] = (self.slope[better] * STEPS).round_().to(torch.uint8)
        gamma[at], weight[at] = self.gamma[better].float(), self.weight[better].float()
        return True

    def leave(self) -> bool:
        left = ~(self.best[3][self.index] > self.enough[self.index])
        count = int(left.sum())
        if count == 0 or count > (1 - _LEAVE) * len(left):
            return count > 0
        keep = left.nonzero().squeeze(1)
        self.index, self.part = self.index[keep], self.part.select(keep)
        self.slope, self.gamma, self.weight = self.slope[keep], self.gamma[keep], self.weight[keep]
        self.relaxation, self.backward = self.relaxation.select(keep), self.backward.select(keep)
        self.scale = None if self.scale is None else self.scale[keep]
        for adam in self.adams:
            adam.keep(lambda m: m[keep])
        return True

    def step(self, number: int, schedule: Schedule) -> None:
        primal = self.dual.forward(self.backward)
        gradient = self.dual.slope_gradient(self.relaxation, self.backward, primal)
        self.slope = self.adams[0].moved(self.slope, gradient, number, schedule.length(number)).clamp_(0, 1)
        if self.backward.nu_hat.shape[1]:
            self._step_gamma(primal, number, schedule.length(number, _GAMMA_RATE))
        if self.weight.shape[1] > 1:
            self._step_weight(primal, schedule.length(number, _WEIGHT_RATE))

    def _step_gamma(self, primal: ForwardPass, number: int, length: float) -> None:
        part = self.part
        if self.scale is None:
            size = self.dual.sizes(self.backward.nu_hat)
            self.scale = torch.maximum(size.gather(1, part.neuron), size.mean(1, keepdim=True))
        gradient = self.dual.gamma_gradient(part, self.relaxation, self.gamma, primal)
        gamma = self.adams[1].moved(self.gamma, gradient, number, length, self.scale)
        self.gamma = signed(gamma, part.raised, part.lowered)

    def _step_weight(self, primal: ForwardPass, length: float) -> None:
        """A multiplicative step on the simplex of every clause's rows."""
        values = self.dual.weight_gradient(self.part, primal)
        spread = (values - values.mean(1, keepdim=True)).abs().amax(1, keepdim=True)
        way = (values - values.amax(1, keepdim=True)) / torch.where(spread > 0, spread, 1.0)
        grown = self.weight * torch.exp(length * way)
        self.weight = grown / grown.sum(1, keepdim=True)


def ascend(
    dual: SubdomainDual, subdomains: Subdomains, schedule: Schedule, enough: Tensor, budget: Budget | None = None
) -> Subdomains:
    """The same subdomains with the best variables seen, and their bounds.

    Args:
        enough: [D]; a subdomain whose bound is above this is done.
    """
    with torch.no_grad():
        problem = _SubdomainAscent(dual, subdomains, enough)
        ascent.ascend(problem, schedule, budget)
        slope, gamma, weight, bound = problem.best
        return replace(subdomains, slope=slope, gamma=gamma, weight=weight, bound=bound)
