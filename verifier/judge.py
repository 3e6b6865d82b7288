"""Who says of a candidate whether it is a counterexample: the original model, at points that lie in the set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from properties import InputSet
from verifier.query import Query
from verifier.rounding import row_error, row_error_at, unit_roundoff
from verifier.verdict import Semantics

#: the network as the user gave it: float64 [B, *input] -> float64 [B, outputs]
Replay = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one candidate per example. Tensors [B] on the CPU, but for the points."""

    point: Tensor  # [B, *input]: the candidates, moved into their sets by roundings where that suffices
    member: Tensor  # bool: the point lies in the set
    value: Tensor  # float64: the worst clause's value in the original model; a counterexample has it below -error
    error: Tensor  # float64: rounding error of the value


class Judge(Protocol):
    """Replays candidates for counterexamples."""

    @property
    def finished(self) -> bool:
        """Whether the answer to the whole question has been found, so that nothing more need be looked at."""

    def judge(self, query: Query, candidates: Tensor, examples: Tensor, by: str) -> Judgement:
        """Replay one candidate per example.

        Args:
            query: of these examples, on the graph in float64. candidates: [B, *input].
            examples: [B] int64, their places in the batch that the judge is for. by: the stage that proposes them.
        """


@dataclass(frozen=True)
class ModelJudge:
    """The original model, evaluated in a precision.

    Args:
        replay: the original model. A network with computed constants is asked as well: what falsifies holds of both.
        dtype: that counterexamples are given in.
        precision: that `replay` computes in: float64 unless the model insists on its own.
    """

    replay: Replay
    dtype: torch.dtype
    precision: torch.dtype = torch.float64

    @property
    def finished(self) -> bool:
        return False

    def judge(self, query: Query, candidates: Tensor, examples: Tensor, by: str) -> Judgement:  # [B, *input], [B]
        point, member = _members(query.inputs, candidates, self.dtype)
        value, error = replayed(query, point, self.replay, self.precision)
        if query.graph.computed and query.semantics is Semantics.REAL:  # in float64 the model computes other constants
            own, off = replayed(query, point, lambda x: query.graph.forward(x).flatten(1), torch.float64)
            apart = (value < -error) != (own < -off)
            value = torch.where(apart, torch.maximum(value, own), value)
            error = torch.where(apart, torch.maximum(error, off), error)
        return Judgement(point, member, value, error)


def replayed(query: Query, point: Tensor, replay: Replay, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Worst clause value of the original model at one point per example, and the rounding error of it.

    In float32 semantics the outputs are the network's own, with no error; those of the rows themselves are left.

    Args:
        query: on the float64 graph. point: [B, *input], on the query's device.
        replay: the original model, evaluated in `precision`.

    Returns:
        Both [B], on the CPU.
    """
    x = point.double()
    y = replay(x).to(x.device)
    rows = query.spec.values(y)
    if query.semantics is Semantics.FLOAT32:
        error = row_error(query.spec, y, torch.zeros_like(y), unit_roundoff(torch.float64)).amax(1)
        return query.spec.worst(rows).cpu(), error.cpu()
    error = row_error_at(query.graph, query.spec, x, unit_roundoff(precision)).amax(1)
    return query.spec.worst(rows).cpu(), error.cpu()


def _members(inputs: InputSet, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in `dtype`, moved into its set by roundings where that suffices, and whether it is a member: [B] bool."""
    point = inputs.inside(x.detach(), dtype)
    return point, inputs.contains(point).cpu()
