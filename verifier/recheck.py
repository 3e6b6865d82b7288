"""What was proved on a device, proved again on the CPU, a batch at a time: bounds there pay for every rounding.

Nothing that the device computed is used, not even its intermediate bounds: the stages that ran so far run again, in
their order, over the examples that they proved. What holds on the device alone is not proved. docs/soundness.md says
why bounds of a device do not pay themselves.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from verifier.certificate.rigour import Standing
from verifier.outcome import BatchRun, Outcome
from verifier.query import Query
from verifier.relaxation.roundoff import can_pay
from verifier.stages import Stage
from verifier.verdict import Reason, Trust, Verdict

_CPU = torch.device("cpu")


def stages_again(outcome: Outcome, query: Query) -> list[Stage]:
    """The stages that ran so far on a device and would pay for their roundings on the CPU, each once, in their order.

    Args:
        query: of examples that were proved, as the last stage saw it. Empty where it is on the CPU already.
    """
    if query.open.device == _CPU or not can_pay(query):
        return []
    return list(dict.fromkeys(run.stage for run in outcome.runs if _pays(run)))


def proved_by_those(outcome: Outcome, example: int) -> bool:
    """Whether no other stage proved rows or clauses of an example."""
    used = {*outcome.rows.run[example].tolist(), *outcome.clauses.run[example].tolist()} - {-1}
    return all(_pays(outcome.runs[r]) for r in used)


def standing(outcome: Outcome, example: int, again: Outcome, place: int) -> Standing:
    """What became of an example's proof, which is number `place` of those that were bounded again.

    UNTOLD as well where the time or the memory was too short, and where a stage that does not pay was there before: the
    proof may rest on bounds of that one.
    """
    found = again.examples[place]
    if found.verdict is Verdict.VERIFIED and found.trust is Trust.CHECKED:
        return Standing.HOLDS
    cut = found.reason in (Reason.BUDGET, Reason.MEMORY)
    alone = all(_pays(run) for run in outcome.runs if run.index(example) is not None)
    return Standing.FAILS if alone and not cut else Standing.UNTOLD


def take_over(outcome: Outcome, again: Outcome, examples: Tensor, holds: Tensor) -> None:
    """Rows and clauses as they were proved again, and the runs that proved them, in place of what the device said.

    Args:
        examples: [n] int64, the places in `outcome` of all examples of `again`, in increasing order.
        holds: [n] bool, which of them are taken over.
    """
    first, at = len(outcome.runs), examples[holds]
    outcome.runs.extend(BatchRun(run.run, examples[run.examples], run.stage) for run in again.runs)
    for mine, found in ((outcome.rows, again.rows), (outcome.clauses, again.clauses)):
        for name in (field.name for field in fields(mine)):
            values = getattr(found, name)[holds]
            getattr(mine, name)[at] = torch.where(values >= 0, values + first, -1) if name == "run" else values


def _pays(run: BatchRun) -> bool:
    """Whether the bounds of a run pay for their roundings, or would on the CPU."""
    return run.stage.trust is Trust.CHECKED
