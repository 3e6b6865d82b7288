"""Candidates tried for what the competition asks of a witness: exactly in the box, exactly a counterexample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from properties.vnnlib import Property
from properties.vnnlib_floats import CaseBatch, float32_inside
from verifier.attacks.deepening import deepened
from verifier.attacks.problem import AttackProblem
from verifier.cascade import Cascade, Outcome
from verifier.graph import Graph
from verifier.query import Query
from verifier.stages import Budget, Stage, StageReport
from verifier.vnncomp.answer import Witness

#: rows up to this share of the sizes of their terms are worth exact arithmetic: float64 evaluates them far better
_WORTH = 1e-9


class ReplayModel(Protocol):
    """What is needed of an `OnnxModel`."""

    @property
    def graph(self) -> Graph: ...

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    @property
    def outputs(self) -> int: ...

    def run(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor: ...

    def check(self, lower: Tensor, upper: Tensor) -> None: ...


class Found(Exception):
    """A witness ends the search, wherever that is."""

    def __init__(self, witness: Witness, by: str) -> None:
        super().__init__("a counterexample was found")
        self.witness, self.by = witness, by  #: and the stage that found it


class Replay:
    """The model as onnxruntime runs it, for one batch of cases."""

    def __init__(self, model: ReplayModel, prop: Property, cases: CaseBatch) -> None:
        self.model, self.prop, self.cases = model, prop, cases
        inside = [float32_inside(prop.cases[number]) for number in cases.numbers]
        self.least = torch.stack([low for low, _ in inside])  # [B, inputs] float32
        self.greatest = torch.stack([high for _, high in inside])
        self.holds_floats = (self.least <= self.greatest).all(1)  # [B] bool: the box holds float32 points at all

    def attempt(self, x: Tensor, numbers: Tensor, by: str) -> None:
        """Raises Found where a point, moved into its box, is a witness.

        Args:
            x: [k, *input]. numbers: [k] int64, whose box of the batch each is to be in. by: the stage that proposes it.
        """
        usable = self.holds_floats[numbers] & x.flatten(1).isfinite().all(1).cpu()
        x, numbers = x[usable.to(x.device)].detach(), numbers[usable]
        if len(numbers) == 0:
            return
        flat = x.flatten(1).float().cpu().maximum(self.least[numbers]).minimum(self.greatest[numbers])
        y = self.model.run(flat.reshape(-1, *self.model.input_shape), None).flatten(1).double()  # float32 values
        values = torch.cat([y, flat.double()], 1) if self.cases.with_inputs else y
        spec = self.cases.spec.select(numbers)
        sizes = torch.einsum("bso,bo->bs", spec.rows.abs(), values.abs()) + spec.offset.abs()
        worst = spec.worst(spec.values(values) - _WORTH * sizes)
        for k in (worst <= 0).nonzero().squeeze(1).tolist():
            point, outputs = flat[k].double().tolist(), y[k].tolist()
            found = self.prop.witness(point, outputs)
            if found is not None:
                raise Found(Witness(tuple(point), tuple(outputs), *found), by)

    def exact(self, x: Tensor) -> Tensor:  # [k, *input] -> [k, outputs (+ inputs)] float64
        """The imported graph in float64, which counts in real arithmetic."""
        y = self.model.run(x, torch.float64).flatten(1).double()
        return torch.cat([y, x.flatten(1).double()], 1) if self.cases.with_inputs else y

    def polish(self, query: Query, x: Tensor, numbers: Tensor, budget: Budget) -> None:
        """Descend further from counterexamples in real arithmetic that did not replay; raises Found where one does.

        Args:
            query: of the cases `numbers` [k] of the batch. x: [k, *input].
        """
        for points in deepened(AttackProblem.of(query), x, budget):
            self.attempt(points, numbers, "polish")


class InstanceCascade(Cascade):
    """A cascade that tries every stage's candidates for a witness before it judges them in real arithmetic."""

    attempt: Callable[[Tensor, Tensor, str], None]

    def _take_candidates(
        self, outcome: Outcome, stage: Stage, precise: Query, report: StageReport, alive: Tensor
    ) -> None:
        if report.candidates is not None:
            self.attempt(report.candidates, alive, stage.name)
        super()._take_candidates(outcome, stage, precise, report, alive)
