"""Gradient ascent on the bounds of many independent rows: Adam (Kingma & Ba 2015) with projection, the best point kept.

Rows are independent, so that the gradient of their sum is each row's own. Rows that are done are dropped from the work:
those that need no better bound, and those that have stopped rising.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from verifier.budget import Budget
from verifier.relaxation.condensed import Condensed, Functionals, chosen, take
from verifier.relaxation.slopes import Parameters

P = TypeVar("P", bound=Parameters)

#: Adam's two memories, shorter than usual: there is no noise to average out, and the gradient jumps
_MOMENTUM, _SQUARES = 0.7, 0.95
#: steps between two searches for the input sets' multipliers, where the sets have those
_SEARCHED = 7
#: rows are packed anew when less than this share of them is still at work
_PACKED = 0.75


@dataclass(frozen=True)
class Schedule:
    """steps; the step length of the first one, multiplied by `decay` after each; looks for rows to drop every `look`.

    A row whose bound rose by less than `rise` times the bounds' size since the last look is dropped; 0 drops none.
    """

    steps: int = 20
    rate: float = 0.5
    decay: float = 0.9
    look: int = 5
    rise: float = 0.0


@dataclass
class _State(Generic[P]):
    """The rows still at work: row index[b, k] of example examples[b], with Adam's moments."""

    network: Condensed
    rows: Functionals
    parameters: P
    first: dict[int, Tensor]
    second: dict[int, Tensor]
    examples: Tensor  # [b]
    index: Tensor  # [b, k]
    valid: Tensor  # [b, k]
    multipliers: Tensor | None = None  # [b, k, K] of the input sets

    @classmethod
    def of(cls, network: Condensed, rows: Functionals, parameters: P, active: Tensor) -> _State[P]:
        zeros = {i: torch.zeros_like(v) for i, v in parameters.varied.items()}
        batch, count = rows.constant.shape
        everything = torch.arange(count, device=rows.constant.device).expand(batch, -1)
        examples = torch.arange(batch, device=rows.constant.device)
        state = cls(
            network, rows, parameters, zeros, dict(zeros), examples, everything, torch.ones_like(everything) > 0
        )
        return state.packed(active)

    def packed(self, active: Tensor) -> _State[P]:
        """Only the rows that are `active` ([B, R], of the rows at the start)."""
        here = active[self.examples.unsqueeze(1), self.index] & self.valid
        if float(here.sum()) > _PACKED * here.numel():
            return self
        kept = here.any(1).nonzero().squeeze(1)
        index, valid = chosen(here[kept])
        first, second = ({i: take(m[kept], index) for i, m in s.items()} for s in (self.first, self.second))
        network = self.network if len(kept) == len(here) else self.network.select(kept)
        return _State(
            network, self.rows.select(kept).rows(index), self.parameters.rows(kept, index), first, second,
            self.examples[kept], self.index[kept].gather(1, index), valid,
            None if self.multipliers is None else take(self.multipliers[kept], index),
        )  # fmt: skip

    def bound(self, search: bool) -> Tensor:
        """Lower bounds [b, k], by the input sets' multipliers as they were unless they are to be searched for anew."""

        def ended(inputs: Tensor) -> Tensor:
            if search:
                self.multipliers = self.network.multipliers(inputs, self.multipliers)
            return self.network.ended_at(inputs, self.multipliers)

        return self.network.bound(self.rows, self.parameters.below, ended)

    def step(self, gradients: dict[int, Tensor], number: int, length: float) -> None:
        moved = {}
        for i, value in self.parameters.varied.items():
            gradient = gradients[i]
            self.first[i] = torch.lerp(gradient, self.first[i], _MOMENTUM)
            self.second[i] = torch.lerp(gradient * gradient, self.second[i], _SQUARES)
            # a gradient of zero leaves its entry where it is
            size = (self.second[i] / (1 - _SQUARES**number)).sqrt_().add_(torch.finfo(value.dtype).tiny ** 0.5)
            moved[i] = torch.addcdiv(value.detach(), self.first[i], size, value=length / (1 - _MOMENTUM**number))
        self.parameters = self.parameters.with_varied(moved)


def ascend(
    network: Condensed,
    rows: Functionals,
    values: Tensor,
    parameters: P,
    schedule: Schedule,
    done: Callable[[Tensor], Tensor],
    budget: Budget,
) -> tuple[Tensor, P, bool]:
    """The best bounds [B, R] found, the parameters they were found at, and whether the budget ended it.

    Args:
        values: bounds [B, R] that are known already, at `parameters`.
        done: from bounds [B, R], which rows need no better ones, bool [B, R].
    """
    best, kept = values.clone(), {i: v.clone() for i, v in parameters.varied.items()}
    active, looked = ~done(best), best.clone()
    if not active.any() or not kept:
        return best, parameters, False
    state, spent = _State.of(network, rows, parameters, active), False
    for number in range(1, schedule.steps + 2):
        last = number > schedule.steps
        varied = {i: v.detach().requires_grad_(not last) for i, v in state.parameters.varied.items()}
        with torch.set_grad_enabled(not last):
            state.parameters = state.parameters.with_varied(varied)
            value = state.bound(search=number % _SEARCHED == 1)
            # where no row depends on any of them (all its neurons follow one line) there is nothing to raise
            last = last or not value.requires_grad
            gradients = None if last else torch.autograd.grad(value.sum(), list(varied.values()), allow_unused=True)
        _keep(state, value.detach(), varied, best, kept)
        spent = budget.spent
        if last or spent:
            break
        assert gradients is not None
        length = schedule.rate * schedule.decay ** (number - 1)
        named = {
            i: torch.zeros_like(v) if g is None else g for (i, v), g in zip(varied.items(), gradients, strict=True)
        }
        state.step(named, number, length)
        if number % schedule.look == 0:
            active &= ~done(best)
            if schedule.rise > 0:
                active &= best - looked > schedule.rise * (1 + best.abs())
                looked = best.clone()
            if not active.any():
                break
            state = state.packed(active)
    parameters = parameters.with_varied(kept)
    left = ~done(best)
    if state.multipliers is not None and left.any():  # those searched for along the way were never quite the best ones
        state = _State.of(network, rows, parameters, left)
        _keep(state, state.network.bound(state.rows, state.parameters.below).detach(), {}, best, kept)
    return best, parameters, spent


def _keep(state: _State[P], value: Tensor, varied: dict[int, Tensor], best: Tensor, kept: dict[int, Tensor]) -> None:
    """Write rows that rose into `best` and `kept`."""
    at = state.examples.unsqueeze(1).expand_as(state.index)
    better = (value > best[at, state.index]) & state.valid
    e, r = at[better], state.index[better]
    best[e, r] = value[better]
    for i, v in varied.items():
        kept[i][e, r] = v.detach()[better]
