"""Certified radii: the largest perturbation for which a certificate was found (Wong & Kolter 2018, section 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from properties import Perturbation, Specification, Threat
from verifier.api import Verifier, labels_of
from verifier.arguments import input_errors, same_answers
from verifier.arithmetic import precise_arithmetic
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation import interval
from verifier.rounding import margin_error
from verifier.stages.dual import DualStage

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from verifier.graph.runner import ImportedModel


@dataclass(frozen=True)
class Radius:
    """Certified radii of B examples."""

    radius: Tensor  # [B] float64: the dual bound proves the label at exactly this eps; 0 where it proves nothing
    refuted_above: Tensor  # [B] float64: an eps at which the bound failed (not a counterexample); inf where none
    label: Tensor  # [B] int64
    steps: int  # evaluations of the bound


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
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Radius:
    """The largest eps found at which the dual bound proves that the label does not change.

    Newton steps on the worst margin as a function of eps (its derivative by a forward difference), inside a bracket
    of a certified and an uncertified eps; a step that leaves the bracket, or shrinks it too little, is replaced by
    bisection. Bounds with fixed slopes need not be monotone in eps, so the promise is only this: at the returned
    value the certificate was found. It may hold at larger values as well.

    Args:
        x: [B, *input]; label: [B], default the model's predictions; clip: valid range of inputs.
        threat: the kind of set, as in `verify`.
        tolerance: relative width of the bracket to stop at; most: no eps above this is tried.
        steps: most evaluations of the bound.
        dtype: of the bounds; what they lose by rounding in float32 would be felt, those of float64 count.

    Raises:
        InputError, ModelError: as `verify`.
    """
    if not (0 < tolerance < 1 and most > 0 and steps > 0):
        raise InputError("tolerance must be in (0, 1), most and steps must be > 0")
    verifier = Verifier(model, x, stages=["dual"], device=device, dtype=dtype)
    labels = labels_of(label, verifier, x)
    with input_errors(), precise_arithmetic(), torch.no_grad():
        spec = same_answers(labels, verifier.output_shape)
        asked = partial(Perturbation, threat=Threat.of(threat), clip=clip)
        margin = _WorstMargin(verifier, x, spec, asked, DualStage(slopes))
        low, high, used = _search(margin, _first_guess(margin, len(x), most), tolerance, most, steps)
    return Radius(low, high, labels, used)


class _WorstMargin:
    """The proven worst margin, less its rounding error, as a function of one eps per example.

    Where the error would be felt in the radius, the bound is computed in float64.

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
    ) -> None:
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
            found[felt] = self._bounded(self.precise, eps[felt], index[felt])[0]
        return found

    def _bounded(self, graph: Graph, eps: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:  # [k] each -> [k] each
        """The worst margin less its rounding error, on the CPU, and the largest rounding error of a row."""
        inputs = self.asked(eps).around(self.x[index])
        query = Query.of(graph, inputs, self.spec.select(index))
        report = self.stage.run(query, Bounds(), Budget())
        assert report.lower is not None
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
    high[~proved] = 0.0
    used = 3
    while used + 2 <= steps:
        open_ = proved & (high - low > tolerance * high.clamp(max=most)) & (low < most)
        index = open_.nonzero().squeeze(1)
        if len(index) == 0:
            break
        at = eps[index]
        value, ahead = margin(at, index), margin(at * (1 + 1e-3), index)
        used += 2
        good = value > 0
        low[index] = torch.where(good, torch.maximum(low[index], at), low[index])
        high[index] = torch.where(good, high[index], torch.minimum(high[index], at))
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
