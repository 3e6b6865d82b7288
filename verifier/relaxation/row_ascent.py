"""Ascent of the rows of a condensed network: optimised slopes (alpha-CROWN, Xu et al. 2021) and the free dual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from verifier.budget import Budget
from verifier.relaxation.ascent import Adam, Memory, Schedule, Variables, ascend, differentiated
from verifier.relaxation.condensed import Condensed, Evaluable, Functionals, Rows
from verifier.relaxation.picking import masked_first, take
from verifier.relaxation.slopes import Parameters, Slopes, families_of

P = TypeVar("P", bound=Parameters)
#: from bounds [B, R], which rows need no better ones, bool [B, R]
Done = Callable[[Tensor], Tensor]

_MEMORY = Memory()
#: steps between two searches for the input sets' multipliers, where the sets have those
_SEARCHED = 7
#: rows are packed anew when less than this share of them is still at work
_PACKED = 0.75
#: relative error of bounds in float32, about
_ROUNDED = 1e-6


def never(values: Tensor) -> Tensor:  # [B, R] -> [B, R] bool
    """No row is ever done."""
    return torch.zeros_like(values, dtype=torch.bool)


def ascend_rows(
    network: Evaluable,
    rows: Rows,
    values: Tensor,
    parameters: P,
    schedule: Schedule,
    done: Done | None = None,
    budget: Budget | None = None,
) -> tuple[Tensor, P, bool]:
    """The best bounds [B, R] found, the parameters they were found at, and whether the budget ended it.

    Args:
        values: bounds [B, R] that are known already, at `parameters`.
        done: which rows need no better bounds; default none.
    """
    if not parameters.varied:
        return values, parameters, False
    problem = _RowAscent(network, rows, values, parameters, done or never)
    if not problem.start():
        return values, parameters, False
    spent = ascend(problem, schedule, budget)
    return *problem.finished(), spent


def ascend_roughly(
    network: Condensed,
    rows: Functionals,
    values: Tensor,
    slopes: Slopes,
    schedule: Schedule,
    done: Done,
    budget: Budget | None = None,
) -> tuple[Tensor, Slopes, bool]:
    """`ascend_rows` in float32, the bounds those of the slopes that it ends with, in the precision of the rows.

    For many rows: products of matrices in half the time. Slopes need no digits, whatever their bounds are worth.
    """
    exact = rows.constant.dtype
    if exact == torch.float32:
        return ascend_rows(network, rows, values, slopes, schedule, done, budget)
    rough = network.to(torch.float32)
    start = Slopes(families_of(rough), {i: t.float() for i, t in slopes.t.items()})

    def surely(found: Tensor) -> Tensor:  # [B, R] -> [B, R] bool
        return done((found - _ROUNDED * (1 + found.abs())).to(exact))

    _, ended, spent = ascend_rows(rough, rows.to(torch.float32), values.float(), start, schedule, surely, budget)
    raised = slopes.with_varied({i: t.to(exact) for i, t in ended.t.items()})
    found = network.bound(rows, raised.below)
    better = found > values
    kept = {i: torch.where(better.unsqueeze(2), t, slopes.t[i]) for i, t in raised.t.items()}
    return torch.where(better, found, values), slopes.with_varied(kept), spent


class _RowAscent(Generic[P]):
    """The rows still at work: row index[b, k] of example examples[b]. An `Ascendable`.

    Rows leave an example's ascent together, when enough of its own are done, and are packed when enough of all have
    left: what a row comes to does not depend on the other examples. Between two looks nothing is read from the device.

    Args:
        values: [B, R], known bounds of all rows.
    """

    def __init__(self, network: Evaluable, rows: Rows, values: Tensor, parameters: P, done: Done) -> None:
        self.whole, self.done = (network, rows, parameters), done
        self.best, self.kept = values.clone(), _joined(parameters.varied)  # [B, R] and [B, R, all n]

    def start(self) -> bool:
        """From those of all rows that are not done; whether there are any."""
        self.network, self.rows, self.parameters = self.whole
        self.joined = _joined(self.parameters.varied)  # [b, k, all n]: of all unknowns one tensor, for steps at once
        self.adam, self.gradient = Adam(self.joined, _MEMORY), torch.zeros_like(self.joined)
        self.multipliers: Tensor | None = None  # [b, k, K] of the input sets
        batch, count = self.best.shape
        self.examples: Tensor | None = None  # [b]; None: all rows of all examples, in their order
        self.index = torch.arange(count, device=self.best.device).expand(batch, -1)  # [b, k]
        self.valid = torch.ones_like(self.best, dtype=torch.bool)  # [b, k]
        self.here, self.at_here = self.best, self.kept  # the best of these rows
        return self.leave()

    def leave(self) -> bool:
        """Without the rows that are done, of examples that have many, and packed anew where those are many of all."""
        self._noted()
        left = self.valid & ~self._of_rows(self.done(self.best))  # [b, k]
        own = left.sum(1)
        self.valid = torch.where((own > _PACKED * self.valid.sum(1)).unsqueeze(1), self.valid, left)
        counts = self.valid.sum(1)
        sizes = torch.stack([own.sum(), counts.sum(), (counts > 0).sum(), counts.max()])
        any_left, total, examples, most = sizes.tolist()
        if any_left and total <= _PACKED * self.valid.numel():
            self._pack(examples, most)
        return bool(any_left)

    def _pack(self, examples: int, most: int) -> None:
        """Only the valid rows: of so many examples, at most so many of each."""
        kept = masked_first(self.valid.any(1).unsqueeze(0))[0, :examples]
        index = masked_first(self.valid[kept])[:, :most]
        self.valid = self.valid[kept].gather(1, index)
        if examples < len(self.index):
            self.network = self.network.select(kept)
        self.rows, self.parameters = self.rows.select(kept).rows(index), self.parameters.rows(kept, index)
        self.joined, self.gradient = (take(t[kept], index) for t in (self.joined, self.gradient))
        self.adam.keep(lambda m: take(m[kept], index))
        self.examples = kept if self.examples is None else self.examples[kept]
        self.index = self.index[kept].gather(1, index)
        self.here, self.at_here = self._of_rows(self.best), self._of_rows(self.kept)
        self.multipliers = None if self.multipliers is None else take(self.multipliers[kept], index)

    def _of_rows(self, full: Tensor) -> Tensor:  # [B, R, ...] -> [b, k, ...]
        return full if self.examples is None else full[self.examples.unsqueeze(1), self.index]

    def _noted(self) -> None:
        """Write the best of these rows down among those of all: each is there once, padding as it was."""
        if self.examples is None:
            self.best, self.kept = self.here, self.at_here
            return
        at = (self.examples.unsqueeze(1), self.index)
        self.best, self.kept = self.best.index_put(at, self.here), self.kept.index_put(at, self.at_here)

    def evaluate(self, number: int, last: bool) -> bool:
        search = number % _SEARCHED == 1

        def ended(inputs: Tensor) -> Tensor:  # [b, k, N] -> [b, k]
            # by the input sets' multipliers as they were, where not searched for anew
            if search:
                self.multipliers = self.network.multipliers(inputs, self.multipliers)
            return self.network.ended_at(inputs, self.multipliers)

        def bounds(varied: Variables) -> Tensor:  # [b, k]
            return self.network.bound(self.rows, self.parameters.with_varied(varied).below, ended)

        varied = self.parameters.varied
        value, found = differentiated(bounds, varied, last)
        if found:
            self.gradient = _joined({i: found[i] if i in found else torch.zeros_like(v) for i, v in varied.items()})
        self._keep(value)
        # where no row depends on any of them (all its neurons follow one line) there is nothing to raise
        return bool(found)

    def _keep(self, value: Tensor) -> None:  # [b, k]
        """What rows rose to, and where."""
        better = (value > self.here) & self.valid
        self.here = torch.where(better, value, self.here)
        self.at_here = torch.where(better.unsqueeze(2), self.joined, self.at_here)

    def step(self, number: int, schedule: Schedule) -> None:
        moved = self.adam.moved(self.joined, self.gradient, number, schedule.length(number))
        self.parameters = self.parameters.with_varied(_parted(moved, self.parameters.varied)).projected()
        self.joined = _joined(self.parameters.varied)

    def finished(self) -> tuple[Tensor, P]:
        """The best bounds [B, R] and the parameters that they were found at."""
        self._noted()
        network, rows, parameters = self.whole
        parameters = parameters.with_varied(_parted(self.kept, parameters.varied))
        if self.multipliers is not None:
            # those searched for along the way were never quite the best ones
            self.whole = network, rows, parameters
            if self.start():
                self._keep(self.network.bound(self.rows, self.parameters.below).detach())
                self._noted()
        return self.best, parameters


def _joined(varied: Variables) -> Tensor:  # [B, R, n] each -> [B, R, all n]
    return torch.cat(list(varied.values()), 2)


def _parted(joined: Tensor, like: Variables) -> dict[int, Tensor]:  # [B, R, all n] -> [B, R, n] each
    return dict(zip(like, joined.split([v.shape[2] for v in like.values()], 2), strict=True))
