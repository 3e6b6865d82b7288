"""Candidates tried for what the competition asks of a witness: exactly in the box, exactly a counterexample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from properties.vnnlib import Property
from properties.vnnlib_floats import CaseBatch, float32_boxes
from verifier.attacks.deepening import deepened
from verifier.attacks.problem import AttackProblem
from verifier.budget import Budget
from verifier.graph import Graph
from verifier.judge import Judgement, ModelJudge
from verifier.query import Query
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

    @property
    def precision(self) -> torch.dtype: ...

    def run(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor: ...  # [B, *input_shape] -> [B, outputs]

    def check(self, lower: Tensor, upper: Tensor) -> None: ...  # both [*input_shape]


class Replay:
    """The model as onnxruntime runs it, for one batch of cases; `found` is the first witness, which ends the search."""

    def __init__(self, model: ReplayModel, prop: Property, cases: CaseBatch) -> None:
        self.model, self.prop, self.cases = model, prop, cases
        self.found: Witness | None = None
        self.found_by = ""  #: the stage that proposed it
        self.least, self.greatest = float32_boxes(prop, cases.numbers)  # [B, inputs] float32
        self.holds_floats = (self.least <= self.greatest).all(1)  # [B] bool: the box holds float32 points at all

    def attempt(self, x: Tensor, numbers: Tensor, by: str) -> None:
        """Looks for a witness among points moved into their boxes.

        Args:
            x: [k, *input]. numbers: [k] int64, whose box of the batch each is to be in. by: the stage that proposes it.
        """
        usable = self.holds_floats[numbers] & x.flatten(1).isfinite().all(1).cpu()
        x, numbers = x[usable.to(x.device)].detach(), numbers[usable]
        if len(numbers) == 0:
            return
        flat = x.flatten(1).float().cpu().maximum(self.least[numbers]).minimum(self.greatest[numbers])
        y = self.model.run(flat.reshape(-1, *self.model.input_shape), None).flatten(1).double()  # float32 values
        y = y[:, : self.prop.given]
        values = torch.cat([y, *self._products(flat.double(), y)], 1)
        values = torch.cat([values, flat.double()], 1) if self.cases.with_inputs else values
        spec = self.cases.spec.select(numbers)
        sizes = torch.einsum("bso,bo->bs", spec.rows.abs(), values.abs()) + spec.offset.abs()
        worst = spec.worst(spec.values(values) - _WORTH * sizes)
        for k in (worst <= 0).nonzero().squeeze(1).tolist():
            point, outputs = flat[k].double().tolist(), y[k].tolist()
            found = self.prop.witness(point, outputs)
            if found is not None:
                self.found, self.found_by = Witness(tuple(point), tuple(outputs), *found), by
                return

    def _products(self, x: Tensor, y: Tensor) -> list[Tensor]:  # [k, inputs], [k, given] -> [k, 1] each
        """The property's products: of the outputs as they are, not rounded as onnxruntime would."""
        columns = [[x[:, v] if v >= 0 else y[:, -1 - v] for v in factors] for factors in self.prop.products]
        return [torch.stack(factors, 1).prod(1, keepdim=True) for factors in columns]

    def exact(self, x: Tensor) -> Tensor:  # [k, *input] -> [k, outputs (+ inputs)] float64
        """The imported graph in float64, which counts in real arithmetic."""
        y = self.model.run(x, torch.float64).flatten(1).double()
        return torch.cat([y, x.flatten(1).double()], 1) if self.cases.with_inputs else y

    def polish(self, query: Query, x: Tensor, numbers: Tensor, budget: Budget) -> None:
        """Descend further from counterexamples in real arithmetic that did not replay, until one does.

        Args:
            query: of the cases `numbers` [k] of the batch. x: [k, *input].
        """
        for points in deepened(AttackProblem.of(query), x, budget):
            self.attempt(points, numbers, "polish")
            if self.found is not None:
                return


@dataclass(frozen=True)
class WitnessJudge:
    """A judge that tries every candidate for a witness before it judges it in real arithmetic.

    Args:
        numbers: [k] int64, the case of the batch that each example of the cascade is.
    """

    replay: Replay
    numbers: Tensor

    @property
    def finished(self) -> bool:
        return self.replay.found is not None

    def judge(self, query: Query, candidates: Tensor, examples: Tensor, by: str) -> Judgement:  # [B, *input], [B]
        self.replay.attempt(candidates, self.numbers[examples], by)
        if self.finished:  # the whole question is answered: what the others are does not matter any more
            unknown = torch.full((len(examples),), torch.inf, dtype=torch.float64)
            return Judgement(candidates, unknown.isfinite(), unknown, unknown)
        return ModelJudge(self.replay.exact, torch.float32).judge(query, candidates, examples, by)
