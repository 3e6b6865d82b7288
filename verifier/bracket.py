"""Both sides of a radius, by any stages: the largest eps that was proved, the smallest that was broken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from properties import InputSet, Perturbation, Specification, Threat
from verifier.api import Verifier
from verifier.budget import Budget
from verifier.errors import InputError, InternalError
from verifier.result import Result
from verifier.tables import as_html
from verifier.verdict import Trust, Verdict


@dataclass(frozen=True)
class Radius:
    """Radii of B examples."""

    radius: Tensor  # [B] float64: the label is proved at exactly this eps; 0 where nothing is proved
    refuted_above: Tensor  # [B] float64: an eps at which the proof failed (not a counterexample); inf where none
    label: Tensor  # [B] int64
    steps: int  # evaluations of the bound, or calls of the verifier
    #: [B] float64: the smallest eps whose set is known to hold a counterexample; inf where none is known
    broken: Tensor
    counterexample: tuple[Tensor | None, ...]  #: of `broken`, each [*input]
    decided_by: tuple[str | None, ...]  #: the stage that proved the radius; None where nothing is proved
    trust: tuple[Trust | None, ...]  #: of that proof

    def _repr_html_(self) -> str:
        numbers = (t.tolist() for t in (self.label, self.radius, self.refuted_above, self.broken))
        rows = list(zip(range(len(self.label)), *numbers, self.decided_by, self.trust, strict=True))
        columns = ("example", "label", "radius", "not proved at", "broken at", "decided by", "trust")
        return as_html(f"Radius({len(rows)} examples, {self.steps} steps)", columns, rows)


@dataclass
class _Side:
    """What is known of one example."""

    first: float  #: the eps to begin with
    proved: float = -1.0  #: the largest; below 0: none
    by: str | None = None
    trust: Trust | None = None
    broken: float = math.inf  #: the smallest
    point: Tensor | None = None  # [*input]
    open: list[float] = field(default_factory=list)  #: what was tried and neither proved nor broken

    def forget(self) -> None:
        """What was proved holds with a probability, and did not."""
        self.proved, self.by, self.trust = -1.0, None, None

    @property
    def unproved(self) -> float:
        """The smallest eps that was not proved."""
        return min([self.broken, *self.open])

    def next(self, tolerance: float, most: float) -> float | None:
        """The eps to try, of the wider of the gaps that are left; None: they are narrow enough."""
        if self.proved < 0 and self.unproved == math.inf:
            return min(self.first, most)
        if self.proved < 0 and self.unproved > 0:
            return 0.0
        gaps = [(self.proved, self.unproved)] if self.proved >= 0 else []
        if self.open:
            gaps.append((max(self.open), self.broken))
        width, low, high = max(((_width(*gap, most), *gap) for gap in gaps), default=(0.0, 0.0, 0.0))
        return _between(low, high, most) if width > tolerance else None


#: no eps below this is tried, but for 0
_LEAST = 1e-6


def _width(low: float, high: float, most: float) -> float:
    """Of a gap between two radii, relative to the larger; 0 where nothing is left to try."""
    if high == math.inf:
        return 1.0 if low < most else 0.0
    return (high - low) / high if max(low, _LEAST) < high else 0.0


def _between(low: float, high: float, most: float) -> float:
    """The middle of a gap, or what is well above 0, or well above the largest so far."""
    if high == math.inf:
        return min(max(2 * low, 1e-2), most)
    return 0.5 * (low + high) if low > 0 else max(0.1 * high, _LEAST)


@dataclass(frozen=True)
class Bracketing:
    """The search for brackets of B examples.

    Args:
        x: [B, *input]. spec: B specifications.
        tolerance: relative width of the gaps to end at. most: no eps above this is tried.
        example_budget: seconds for each example at each radius; None: no limit.
    """

    verifier: Verifier
    x: Tensor
    spec: Specification
    threat: Threat
    clip: tuple[float, float] | None
    tolerance: float
    most: float
    example_budget: float | None

    def search(self, first: Sequence[float], label: Tensor, steps: int, budget: float | None) -> Radius:
        """From a first eps for each example, with so many calls of the verifier at most.

        Args:
            label: [B]. budget: seconds in all; None: no limit.

        Raises:
            InputError: the threat model's sets do not grow with eps (`InputSet.nested`).
        """
        if not self.threat.nested:
            raise InputError(f"sets of {self.threat} need not grow with eps: no radius can be searched by any stages")
        sides, clock = [_Side(eps) for eps in first], Budget(budget)
        used = 0
        while used < steps and not clock.spent:
            tries = {i: side.next(self.tolerance, self.most) for i, side in enumerate(sides)}
            chosen = {i: eps for i, eps in tries.items() if eps is not None}
            if not chosen:
                break
            self._try(sides, chosen, clock)
            used += 1
        return _radius(sides, label, used)

    def _try(self, sides: Sequence[_Side], chosen: dict[int, float], clock: Budget) -> None:
        """One call of the verifier, an eps for each of the examples that are still searched."""
        index = torch.tensor(list(chosen))
        left = None if clock.left == math.inf else max(0.0, clock.left)
        sets = self._sets(index, list(chosen.values()))
        result = self.verifier.run(sets, self.spec.select(index), left, self.example_budget)
        for k, (i, eps) in enumerate(chosen.items()):
            side = sides[i]
            if result.verdict[k] is Verdict.VERIFIED and eps > side.proved:
                side.proved, side.by, side.trust = eps, result.decided_by[k], result.trust[k]
            elif result.verdict[k] is Verdict.UNKNOWN:
                side.open.append(eps)
        self._break(sides, chosen, result)

    def _break(self, sides: Sequence[_Side], chosen: dict[int, float], result: Result) -> None:
        """What was broken is broken at every radius whose set holds the counterexample: the smallest is searched."""
        found = {i: point for i, point in zip(chosen, result.counterexample, strict=True) if point is not None}
        if not found:
            return
        index, points = torch.tensor(list(found)), torch.stack(list(found.values()))
        high = torch.tensor([chosen[i] for i in found], dtype=torch.float64)
        low = torch.zeros_like(high)
        inside = self._sets(index, low.tolist()).contains(points).cpu()
        high = torch.where(inside, 0.0, high)
        while bool((high - low > 0.25 * self.tolerance * high).any()):
            middle = 0.5 * (low + high)
            inside = self._sets(index, middle.tolist()).contains(points).cpu()
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        for k, (i, point) in enumerate(found.items()):
            side, eps = sides[i], float(high[k])
            if eps < side.broken:
                side.broken, side.point = eps, point
            side.open = [e for e in side.open if e < side.broken]
            if side.broken <= side.proved and side.trust is Trust.PROBABILISTIC:
                side.forget()
            elif side.broken <= side.proved:
                raise InternalError(
                    f"example {i} is proved at eps {side.proved:g} ({side.by}) and has a counterexample at "
                    f"{side.broken:g}: one of the two is wrong"
                )

    def _sets(self, index: Tensor, eps: Sequence[float]) -> InputSet:  # [k]
        radii = torch.tensor(eps, dtype=torch.float64)
        sets = Perturbation(radii, self.threat, self.clip).around(self.x[index])
        return sets.representable(self.verifier.input_dtype)


def _radius(sides: Sequence[_Side], label: Tensor, steps: int) -> Radius:  # label [B]
    def numbers(values: Sequence[float]) -> Tensor:  # [B]
        return torch.tensor(values, dtype=torch.float64)

    return Radius(
        radius=numbers([max(0.0, side.proved) for side in sides]),
        refuted_above=numbers([side.unproved for side in sides]),
        label=label,
        steps=steps,
        broken=numbers([side.broken for side in sides]),
        counterexample=tuple(side.point for side in sides),
        decided_by=tuple(side.by for side in sides),
        trust=tuple(side.trust for side in sides),
    )
