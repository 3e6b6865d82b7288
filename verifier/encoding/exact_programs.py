"""The integer programs of one example: which layers and neurons are exact, and the question about each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.encoding.activation import EncodingError
from verifier.encoding.encoder import Encoder
from verifier.encoding.exact import ExactEncoding, encode, unstable
from verifier.encoding.planes import Planes
from verifier.encoding.questions import TOLERANCE, Question
from verifier.encoding.sources import ProgramStart, at_input, at_zonotope
from verifier.encoding.value import Mask
from verifier.graph.cuts import CutLayer
from verifier.query import Query
from verifier.relaxation.influence import influences

#: planes, and inequalities of a lifted set, are loosened by this share of what they reach across the box: more than any
#: solver's tolerance (see `solvers.base.Backend.tolerance`), so that rows that are held to it hold the set
LOOSE = 4e-6


@dataclass(frozen=True)
class ExactPlan:
    """What is exact in the programs (see `verifier.stages.milp.MilpStage`)."""

    final: Sequence[CutLayer]
    cap: int | None
    before: str
    row_seconds: float | None = None  #: at most, for one row


class ExamplePrograms:
    """Programs of one example."""

    def __init__(
        self,
        plan: ExactPlan,
        encoder: Encoder,
        query: Query,
        bounds: Bounds,
        example: int,
        planes: Planes | None = None,
    ) -> None:
        index = torch.tensor([example])
        self.plan, self.encoder, self.example, self.planes = plan, encoder, example, planes
        self.query, self.bounds = query.select(index), bounds.select(index)
        with torch.no_grad():
            lower, self.influence = influences(self.query, self.bounds)
        self.lower = lower[0]
        self.shared: tuple[ExactEncoding, bool] | None = None

    def rows(self) -> list[int]:
        """Open rows, the lowest bound first."""
        order = self.lower.argsort().tolist()
        return [r for r in order if self.query.open[0, r]]

    def question(self, row: int, cutoff: float | None) -> Question | None:
        """The question about one row; None where the bounds allow no program."""
        try:
            encoding, feasible = self._encoding(row)
        except EncodingError:
            return None
        spec = self.query.spec
        cost, constant = encoding.encoding.cost(
            spec.rows[0, row : row + 1].numpy(), spec.offset[0, row : row + 1].numpy()
        )
        return Question(self.example, row, encoding, cost[0], float(constant[0]), cutoff, feasible)

    def _encoding(self, row: int) -> tuple[ExactEncoding, bool]:
        """The program for one row, and whether the network at the clean input is a point of it."""
        if self.shared is not None:
            return self.shared
        exact = unstable(self.encoder, self.bounds, [i for layer in self.plan.final for i in layer.activations])
        capped = self.plan.cap is not None and sum(int(m.sum()) for m in exact.values()) > self.plan.cap
        if capped and self.plan.cap is not None:
            exact = _most_influential(exact, {i: self.influence[i][0, row] for i in exact}, self.plan.cap)
        encoding = encode(self.encoder, self._start.source, self.bounds, exact)
        if self.planes is not None:
            encoding = replace(encoding, encoding=encoding.encoding.cut(self.planes, LOOSE))
        with torch.no_grad():
            values = self.query.graph.values(self.query.inputs.center())
        point = encoding.point(self._start.clean, values)
        size = 1 + float(np.abs(point).max(initial=0.0))
        found = encoding, encoding.program.violation(point) <= TOLERANCE * size
        if not capped:
            self.shared = found
        return found

    @cached_property
    def _start(self) -> ProgramStart:
        if self.plan.before == "zonotope":
            return at_zonotope(self.query.graph, self.query.inputs, self.bounds, self.plan.final[-1].cut)
        start = at_input(self.query.inputs)
        return replace(start, source=start.source.loosened(LOOSE))


def _most_influential(exact: Mapping[int, Mask], influence: Mapping[int, Tensor], cap: int) -> dict[int, Mask]:
    """The `cap` neurons of highest influence ([*shape] each) among those marked."""
    nodes = list(exact)
    scores = np.concatenate([np.where(exact[i], influence[i].flatten().numpy(), -1.0) for i in nodes])
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[:cap]] = True
    ends = np.cumsum([len(exact[i]) for i in nodes])[:-1]
    return {i: part & exact[i] for i, part in zip(nodes, np.split(chosen, ends), strict=True)}
