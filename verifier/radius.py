"""Certified radii: the largest perturbation for which a proof was found (Wong & Kolter 2018, section 3.5).

By the dual bound alone and Newton's method, or by any stages and from both sides (verifier/bracket.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from properties import Perturbation, Specification, Threat
from verifier.api import Verifier, labels_of
from verifier.arguments import input_errors, same_answers
from verifier.arithmetic import precise_arithmetic
from verifier.bound_map import Bounds
from verifier.bracket import Bracketing, Radius
from verifier.budget import Budget, some_seconds
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation import interval
from verifier.rounding import margin_error
from verifier.stages import Stage
from verifier.stages.dual import DualStage
from verifier.verdict import Trust

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from verifier.graph.runner import ImportedModel


#: seconds that one example may take at one radius: a search tries a dozen and more
DEFAULT_RADIUS_BUDGET = 10.0

#: of the time there is, what finding out where stages are to begin may take
_SHARE = 0.25


def certified_radius(
    model: nn.Module | ExportedProgram | ImportedModel,
    x: Tensor,
    *,
    threat: str | Threat = "linf",
    label: Tensor | Sequence[int] | None = None,
    clip: tuple[float, float] | None = None,
    tolerance: float = 1e-3,
    most: float = 1e3,
    slopes: SlopeRule = SlopeRule.FIXED,
    steps: int = 40,
    stages: Sequence[str | Stage] | None = None,
    budget: float | str | None = None,
    example_budget: float | str | None = DEFAULT_RADIUS_BUDGET,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Radius:
    """The largest eps found at which it is proved that the label does not change; with stages, also what breaks it.

    Without `stages` it is the dual bound that proves: Newton steps on the worst margin as a function of eps (its
    derivative by a forward difference), inside a bracket of a certified and an uncertified eps; a step that leaves the
    bracket, or shrinks it too little, is replaced by bisection. Bounds with fixed slopes need not be monotone in eps,
    so the promise is only this: at the returned value the certificate was found. It may hold at larger values as well.

    With `stages` every radius that is tried gets the verdict of `verify` with those stages, beginning where the dual
    bound ends: the largest eps that is VERIFIED is `radius`. A counterexample is one at every eps whose set holds it:
    the smallest, as the set itself decides, is `broken`. What lies between is UNKNOWN, or was not tried.

    Args:
        x: [B, *input]; label: [B], default the model's predictions; clip: valid range of inputs.
        threat: the kind of set, as in `verify`.
        tolerance: relative width of the bracket to stop at; most: no eps above this is tried.
        slopes: of the dual bound. steps: most evaluations of the bound, or calls of the verifier.
        stages: names of stages, or Stage objects, in the order to run them, such as `verifier.api.DEFAULT_STAGES`.
        budget: seconds for everything; None: no limit. What was not decided by then changes nothing: a radius is what
            was proved before. example_budget: seconds for each example at each radius with stages, after which it
            counts as UNKNOWN there.
        dtype: of the bounds; what they lose by rounding in float32 would be felt, those of float64 count.

    Raises:
        InputError, ModelError: as `verify`; with stages also where sets do not grow with eps (`InputSet.nested`).
    """
    if not (0 < tolerance < 1 and most > 0 and steps > 0):
        raise InputError("tolerance must be in (0, 1), most and steps must be > 0")
    budget = some_seconds(budget, "budget")
    example_budget = some_seconds(example_budget, "example_budget")
    clock = Budget(budget)
    verifier = Verifier(model, x, stages=["dual"] if stages is None else stages, device=device, dtype=dtype)
    labels = labels_of(label, verifier, x)
    with input_errors():
        spec, kind = same_answers(labels, verifier.output_shape), Threat.of(threat)
        asked = partial(Perturbation, threat=kind, clip=clip)
        stage = DualStage(slopes)
        by_dual = partial(_dual_brackets, verifier, x, spec, asked, stage, most)
        if stages is None:
            return _of_dual(*by_dual(tolerance, steps, clock), labels, stage.name)
        beginnings, _, _ = by_dual(0.1, 10, Budget(None if budget is None else _SHARE * max(0.0, clock.left)))
        search = Bracketing(verifier, x, spec, kind, clip, tolerance, most, example_budget)
        return search.search(beginnings.tolist(), labels, steps, None if budget is None else max(0.0, clock.left))


def _dual_brackets(
    verifier: Verifier,
    x: Tensor,  # [B, *input]
    spec: Specification,
    asked: Callable[[Tensor], Perturbation],
    stage: DualStage,
    most: float,
    tolerance: float,
    steps: int,
    budget: Budget,
) -> tuple[Tensor, Tensor, int]:
    """What the dual bound proves, as `_search` gives it; 0 where it proves nothing in its time."""
    with precise_arithmetic(), torch.no_grad():
        margin = _WorstMargin(verifier, x, spec, asked, stage, budget)
        return _search(margin, _first_guess(margin, len(x), most), tolerance, most, steps)


def _of_dual(low: Tensor, high: Tensor, used: int, labels: Tensor, name: str) -> Radius:  # [B] each
    """The answer of the dual bound alone."""
    by = tuple(name if proved else None for proved in (low > 0).tolist())
    trust = tuple(None if one is None else Trust.FLOAT for one in by)
    nothing = (None,) * len(low)
    return Radius(low, high, labels, used, torch.full_like(low, torch.inf), nothing, by, trust)


class _WorstMargin:
    """The proven worst margin, less its rounding error, as a function of one eps per example.

    Where the error would be felt in the radius, the bound is computed in float64. Once the budget is spent, `exhausted`
    says so: what is above 0 is proved all the same, what is not may only have been left out.

    Args:
        x: [B, *input].
    """

    #: share of the clean margin that a rounding error may be: about what it takes from the radius
    _FELT = 1e-4

    def __init__(
        self,
        verifier: Verifier,
        x: Tensor,
        spec: Specification,
        asked: Callable[[Tensor], Perturbation],
        stage: DualStage,
        budget: Budget,
    ) -> None:
        self.budget, self.exhausted = budget, False
        self.graph, self.x, self.asked, self.stage = verifier.graph, x.to(verifier.device), asked, stage
        self.precise = verifier.imported.to(verifier.device, torch.float64)
        self.spec = spec.to(verifier.device)
        clean = self.spec.worst(self.spec.values(verifier.predict(self.x).to(self.x.device).double()))
        self.felt = self._FELT * clean.clamp(min=0)

    def __call__(self, eps: Tensor, index: Tensor) -> Tensor:  # eps [k], index [k] -> [k] float64 on the CPU
        found, error = self._bounded(self.graph, eps, index)
        felt = ~(error <= self.felt[index.to(error.device)])
        if self.graph.dtype is not torch.float64 and felt.any():
            felt = felt.cpu()
            precise = self._bounded(self.precise, eps[felt], index[felt])[0]
            found[felt] = torch.maximum(found[felt], precise) if self.exhausted else precise
        return found

    def _bounded(self, graph: Graph, eps: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:  # [k] each -> [k] each
        """The worst margin less its rounding error, on the CPU, and the largest rounding error of a row."""
        inputs = self.asked(eps).around(self.x[index])
        query = Query.of(graph, inputs, self.spec.select(index))
        report = self.stage.run(query, Bounds(), self.budget)
        assert report.lower is not None
        self.exhausted |= report.exhausted
        if report.exhausted and bool((report.lower == -torch.inf).all()):  # nothing that an error could be taken off
            return torch.full_like(eps, -torch.inf), self.felt.new_zeros(len(eps))
        error = margin_error(query, interval.propagate(query, report.bounds)).double()
        lower = (report.lower.double() - error).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        return self.spec.select(index).worst(lower).cpu(), error.amax(1)


def _first_guess(margin: _WorstMargin, batch: int, most: float) -> Tensor:  # [B] float64
    """One Newton step from (almost) zero."""
    index, tiny = torch.arange(batch), torch.full((batch,), 1e-4, dtype=torch.float64)
    zero = margin(torch.zeros_like(tiny), index)
    slope = ((zero - margin(tiny, index)) / tiny).clamp(min=1e-12)
    return (zero / slope).clamp(min=1e-6, max=most)


def _search(margin: _WorstMargin, eps: Tensor, tolerance: float, most: float, steps: int) -> tuple[Tensor, Tensor, int]:
    """Brackets (certified, uncertified), [B] each, of every example, and how often the bound was evaluated."""
    low, high = torch.zeros_like(eps), torch.full_like(eps, torch.inf)
    everyone = torch.arange(len(eps))
    proved = margin(torch.zeros_like(eps), everyone) > 0  # without this there is no certificate at any eps
    if not margin.exhausted:
        high[~proved] = 0.0
    used = 3
    while used + 2 <= steps and not margin.exhausted:
        open_ = proved & (high - low > tolerance * high.clamp(max=most)) & (low < most)
        index = open_.nonzero().squeeze(1)
        if len(index) == 0:
            break
        at = eps[index]
        value = margin(at, index)
        failed = ~(value > 0) & (not margin.exhausted)
        low[index] = torch.where(value > 0, torch.maximum(low[index], at), low[index])
        high[index] = torch.where(failed, torch.minimum(high[index], at), high[index])
        used += 2
        if margin.exhausted:
            break
        ahead = margin(at * (1 + 1e-3), index)
        eps[index] = _next(at, value, ahead, low[index], high[index], tolerance).clamp(max=most)
    return low, high, used


def _next(at: Tensor, value: Tensor, ahead: Tensor, low: Tensor, high: Tensor, tolerance: float) -> Tensor:  # [k] each
    """A Newton step where it lands inside the bracket, off its ends; else the middle (twice `low` without an end)."""
    newton = at - value * (at * 1e-3) / (ahead - value)
    # aim half a tolerance short of the root or past it, so that the bracket closes from both sides
    newton = torch.where(value > 0, newton * (1 + 0.4 * tolerance), newton * (1 - 0.4 * tolerance))
    middle = torch.where(high.isinf(), 2 * at, 0.5 * (low + high))
    usable = newton.isfinite() & (newton > low) & (newton < high)
    return torch.where(usable, newton, middle)
