"""`crosscheck`: all methods on the rows of some examples, and the laws between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from properties import Perturbation
from properties.specification import other_classes
from verifier.api import Verifier, labels_of
from verifier.arguments import input_errors, same_answers
from verifier.arithmetic import precise_arithmetic
from verifier.bound_map import Bounds
from verifier.comparison.laws import Values, broken, unequal
from verifier.comparison.method import METHODS, ComparisonMethod, ComparisonProblem
from verifier.comparison.report import CrossCheck, MarginRows
from verifier.device import memory_errors, out_of_memory, too_large
from verifier.errors import InputError
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import intermediate
from verifier.relaxation.roundoff import PAID, counted
from verifier.rounding import margin_error

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from verifier.graph.runner import ImportedModel

#: examples whose intermediate bounds are computed at once
_TOGETHER = 16


def crosscheck(
    model: nn.Module | ExportedProgram | ImportedModel,
    x: Tensor,
    eps: float | str,
    *,
    label: Tensor | Sequence[int] | None = None,
    clip: tuple[float, float] | None = None,
    exact_seconds: float = 2.0,
    workers: int | None = None,
    first_index: int = 0,
    methods: Sequence[ComparisonMethod] | None = None,
    progress: Callable[[str], None] | None = None,
) -> CrossCheck:
    """Bound every margin of every example by every method, all with the same intermediate bounds.

    In float64, on the CPU. The intermediate bounds are those of the dual with adaptive slopes. Where a law is broken,
    the report says so (`CrossCheck.violations`), and `CrossCheck.check` raises.

    Args:
        model: a `torch.nn.Module` in eval mode, a `torch.export.ExportedProgram`, or an `OnnxModel`.
        x: [B, *input], in the units the model takes.
        eps: radius of the l-infinity ball around x, in the same units.
        label: [B] the class whose margins are bounded; default the model's own predictions.
        clip: (low, high), the valid range of inputs; default none.
        exact_seconds: for each row's integer program; 0: none is solved. Rows that it leaves have no exact value.
        workers: processes of the solvers; 0: none, None: one per core, once there is enough to do.
        first_index: index of the first example, where they are a slice of a larger set.
        methods: what to compare; default all of `METHODS`.
        progress: told about each method as it is done, one line of text.

    Raises:
        InputError: unusable arguments, or a network that is too large for the machine's memory (a program that is so
            leaves its rows without a value). ModelError, UnsupportedError: the model cannot be verified as it is.
    """
    if not (math.isfinite(exact_seconds) and exact_seconds >= 0):
        raise InputError(f"exact_seconds must be a number of seconds >= 0, got {exact_seconds}")
    if workers is not None and workers < 0:
        raise InputError(f"workers must be 0 or more, or None for one per core; got {workers}")
    verifier = Verifier(model, x, device="cpu", dtype=torch.float64)
    chosen, x = tuple(METHODS.values() if methods is None else methods), x.cpu()
    with input_errors():
        label = labels_of(label, verifier, x)
        spec, asked = same_answers(label, verifier.output_shape), Perturbation(eps, clip=clip)
        sets = [one.around(x) for one in (asked, replace(asked, eps=0.0))]
    graph = verifier.graph
    with precise_arithmetic(), torch.no_grad():
        problem, nought = (_problem(Query.of(graph, s, spec), exact_seconds, workers) for s in sets)
        values, seconds = _measured(problem, chosen, progress or _silent)
        at_clean, _ = _measured(nought, chosen, _silent)
        clean = spec.values(graph.forward(x.double()).flatten(1))
        found = [*broken(values, chosen, graph), *unequal(at_clean, clean, chosen)]
    rows = MarginRows(first_index, label, other_classes(label, verifier.classes))
    return CrossCheck(rows, dict(values.of), seconds, tuple(found), float(asked.eps))


def _silent(line: str) -> None:
    """For whom no progress is wanted."""


def _problem(query: Query, exact_seconds: float, workers: int | None) -> ComparisonProblem:
    """With the intermediate bounds that all methods share."""
    parts = torch.arange(query.batch).split(_TOGETHER)
    with memory_errors("bounding the neurons", "compare a smaller one"):
        bounds = Bounds.concatenate([intermediate(query.select(index), Bounds()) for index in parts])
    return ComparisonProblem(query, bounds, exact_seconds, workers)


def _run(method: ComparisonMethod, part: ComparisonProblem, progress: Callable[[str], None]) -> Tensor:
    """Values [B, S] float64. Without the memory for it NaN, of a method that may leave rows; else InputError."""
    try:
        return method.run(part).double()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if not method.partial:
            instead = "leave it out (`methods`), or compare a smaller one"
            raise too_large(f"the method {method.name}", instead) from error
    progress(f"{method.name}: the machine has no memory left for {part.query.batch} examples, which have no value")
    return torch.full(part.query.open.shape, torch.nan, dtype=torch.float64)


def _measured(
    problem: ComparisonProblem, methods: Sequence[ComparisonMethod], progress: Callable[[str], None]
) -> tuple[Values, dict[str, Tensor]]:
    """Values of all methods, and the seconds [B, S] that a row took, its share of the call that it was part of."""
    found, seconds = {}, {}
    for method in methods:
        values, shares = [], []
        for index in torch.arange(problem.query.batch).split(method.together):
            part, began = problem.select(index), time.perf_counter()
            values.append(_run(method, part, progress))
            elapsed = time.perf_counter() - began
            shares.append(torch.full_like(values[-1], elapsed / values[-1].numel()))
        found[method.name], seconds[method.name] = torch.cat(values), torch.cat(shares)
        progress(f"{method.name}: {found[method.name].numel()} rows in {float(seconds[method.name].sum()):.1f} s")
    # some methods take off what their roundings may cost at most, and may be that much too low
    ranges = interval.propagate(problem.query, problem.bounds)
    rounding = margin_error(problem.query, ranges, PAID * counted(problem.query.graph))
    return Values(found, rounding), seconds
