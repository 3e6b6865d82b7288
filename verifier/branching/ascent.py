"""Projected gradient ascent of many cases' dual bounds at once (Adam), the cases that are done leaving early."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.branching.dual import Domains, Hulls, evaluate
from verifier.branching.matrices import Matrices

_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Schedule:
    """Steps of an ascent and their sizes."""

    steps: int = 20
    alpha_rate: float = 0.1  #: of the first step; slopes live in [0, 1]
    gamma_rate: float = 0.05  #: of the first step, in units of the rows' coefficients
    decay: float = 0.97  #: of both rates per step
    check: int = 5  #: steps between looking for cases that are done


def ascend(net: Matrices, domains: Domains, schedule: Schedule, enough: Tensor) -> Domains:
    """The same cases with the best alpha and gamma seen, and their bounds.

    Args:
        enough: [D]; a case whose bound is above this is done.
    """
    if net.free == 0:  # one affine function: nothing to ascend
        value = evaluate(net, Hulls.of(net, domains), domains.row, domains.alpha, domains.gamma).bound
        return replace(domains, bound=value.double())
    best_alpha, best_gamma = domains.alpha.clone(), domains.gamma.clone()
    best = domains.bound.clone()
    index = torch.arange(len(domains), device=best.device)
    part, hulls = domains, Hulls.of(net, domains)
    alpha, gamma = part.alpha.clone(), part.gamma.clone()
    moments = [torch.zeros_like(alpha) for _ in range(4)]
    for step in range(1, schedule.steps + 2):
        with torch.enable_grad():
            alpha.requires_grad_(), gamma.requires_grad_()
            bound = evaluate(net, hulls, part.row, alpha, gamma).bound
            if step <= schedule.steps:
                gradients = torch.autograd.grad(bound.sum(), (alpha, gamma))
        alpha, gamma, value = alpha.detach(), gamma.detach(), bound.detach().double()
        better = value > best[index]
        where = index[better]
        best[where], best_alpha[where], best_gamma[where] = value[better], alpha[better], gamma[better]
        if step > schedule.steps:
            break
        if step % schedule.check == 0:
            left = ~(best[index] > enough[index])
            if not left.all():
                keep = left.nonzero().squeeze(1)
                if len(keep) == 0:
                    break
                index, part = index[keep], part.select(keep)
                alpha, gamma = alpha[keep], gamma[keep]
                moments = [m[keep] for m in moments]
                gradients = tuple(g[keep] for g in gradients)
                hulls = Hulls.of(net, part)
        rate = schedule.decay ** (step - 1)
        alpha = _adam(alpha, gradients[0], moments[0], moments[1], step, schedule.alpha_rate * rate).clamp_(0, 1)
        gamma = _adam(gamma, gradients[1], moments[2], moments[3], step, schedule.gamma_rate * rate)
        # a constraint's multiplier has one sign: z >= l takes from nu, z <= u adds to it
        gamma = torch.where(part.cut_above, gamma, gamma.clamp(max=0))
        gamma = torch.where(part.cut_below, gamma, gamma.clamp(min=0))
    return replace(domains, alpha=best_alpha, gamma=best_gamma, bound=best)


def _adam(x: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, rate: float) -> Tensor:
    """One step up; the moments are updated in place."""
    first.mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
    second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
    size = (second / (1 - _BETA2**step)).sqrt_().add_(_TINY)
    return x + rate / (1 - _BETA1**step) * first / size
