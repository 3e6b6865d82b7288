"""Minima of linear functionals over the relaxation, each recomputed by ourselves from the solver's duals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from solvers import SolveResult, SolveStatus
from solvers.pool import Decide, Task
from verifier.bound_map import Bounds
from verifier.budget import Budget, OutOfTime, checkpoint
from verifier.encoding.encoder import Encoding
from verifier.encoding.planes import Planes
from verifier.encoding.value import Indices, Vector
from verifier.forms import Dense, LinearForm
from verifier.query import Query
from verifier.relaxation.activations import activation_over
from verifier.relaxation.backward import OneSided, State, pull_back
from verifier.relaxation.multipliers import multiplied

#: examples whose bounds are recomputed at once
TOGETHER = 8


class Executor(Protocol):
    """What solves: a pool of processes, or this one."""

    def run(self, tasks: Iterable[Task], on_incumbent: Decide | None = None) -> Iterator[tuple[int, list[SolveResult]]]:
        """Yields (task number, answers of its questions) as tasks finish; `tasks` is drawn lazily."""


@dataclass(frozen=True)
class Minimisation:
    """The minima of functionals of one node of one example."""

    example: int  #: in the query's batch
    encoding: Encoding
    rows: Indices  # [q]: whatever the caller knows them by
    functionals: Vector  # [q, size of the encoded node]
    offset: Vector  # [q]
    seconds: float = float("inf")  #: limit for the solver
    built: float = 0.0  #: seconds that the program took to build
    planes: Planes | None = None  #: what the program knows of the set besides its box

    def task(self) -> Task:
        """For a solver. Raises OutOfTime where the seconds are not even enough to write the costs."""
        with (own := Budget(self.seconds)).enforced():
            costs, _ = self.encoding.cost(self.functionals, self.offset)
            checkpoint()
            starts = self.encoding.starts(costs)
        return Task(self.encoding.program, costs, starts=starts, until=time.monotonic() + own.left)

    def late(self, seconds: float) -> list[SolveResult]:
        """The answers where it took so many seconds to find out that there is no time for a solver."""
        nothing = SolveResult(SolveStatus.LIMIT, message="the time ran out before there was a program")
        return [replace(nothing, seconds=seconds), *[nothing] * (len(self.rows) - 1)]


@dataclass(frozen=True)
class Solved:
    """What came back: bounds of ours, and what the solver said."""

    asked: Minimisation
    lower: Tensor  # [q] float64; -inf where the solver gave no usable duals
    optimum: Tensor  # [q] float64: the solver's own word; NaN where it did not finish
    multipliers: Mapping[int, Tensor]  # activation node -> [q, *shape], zero where there are none
    points: Sequence[Tensor | None]  # [q]: inputs [*shape] at the optima
    forms: Tensor | None  # [q, *input]: what `lower` is the minimum of over the set, but for constants; None: constant
    limited: bool  #: a limit ended some question
    seconds: float  #: of building and solving


def minima(
    query: Query, bounds: Bounds, node: int, asked: Iterable[Minimisation], executor: Executor
) -> Iterator[Solved]:
    """Solves as `asked` is drawn, and recomputes the bounds of several examples at once.

    Args:
        query, bounds: in float64 on the CPU; the bounds that the encodings were made with.
        node: the encoded node.
    """
    open_: dict[int, Minimisation] = {}
    ready: list[tuple[Minimisation, list[SolveResult]]] = []

    def tasks() -> Iterator[Task]:
        number = 0
        for question in asked:
            began = time.monotonic()
            try:
                task = question.task()
            except OutOfTime:
                ready.append((question, question.late(time.monotonic() - began)))
                continue
            open_[number] = question
            number += 1
            yield task

    for number, answers in executor.run(tasks()):
        ready.append((open_.pop(number), answers))
        if len(ready) >= TOGETHER:
            yield from _recomputed(query, bounds, node, ready)
            ready.clear()
    yield from _recomputed(query, bounds, node, ready)


def _recomputed(
    query: Query, bounds: Bounds, node: int, ready: Sequence[tuple[Minimisation, list[SolveResult]]]
) -> Iterator[Solved]:
    if not ready:
        return
    index = torch.tensor([a.example for a, _ in ready])
    most = max(len(a.rows) for a, _ in ready)
    usable = torch.zeros(len(ready), most, dtype=torch.bool)
    functionals = torch.zeros(len(ready), most, query.graph.nodes[node].size, dtype=torch.float64)
    offset = torch.zeros(len(ready), most, dtype=torch.float64)
    nu: dict[int, Tensor] = {}
    for k, (asked, answers) in enumerate(ready):
        q = len(asked.rows)
        functionals[k, :q], offset[k, :q] = torch.from_numpy(asked.functionals), torch.from_numpy(asked.offset)
        duals = np.zeros((q, asked.encoding.program.rows))
        usable[k, :q] = duals.shape[1] == 0  # a program without rows has no duals to give, and needs none
        for r, answer in enumerate(answers):
            if _usable(answer, duals.shape[1]):
                duals[r], usable[k, r] = answer.row_duals, True
        for i, own in asked.encoding.multipliers(duals).items():
            if i not in nu:
                nu[i] = torch.zeros(len(ready), most, *own.shape[2:], dtype=torch.float64)
            nu[i][k, :q] = own[0]
    part = query.select(index)
    form, constant = pulled(part, bounds.select(index), node, functionals, nu)
    ended = functionals.new_zeros(len(ready), 1) if form is None else part.inputs.minimum(form)
    lower = ended + constant + offset
    lower = torch.where(usable & lower.isfinite(), lower, -torch.inf)
    for k, (asked, answers) in enumerate(ready):
        q = len(asked.rows)
        constants = asked.encoding.cost(asked.functionals, asked.offset)[1]
        optimum = [a.dual_bound if a.status is SolveStatus.OPTIMAL else np.nan for a in answers]
        points = [_point(asked.encoding, a) for a in answers]
        limited = any(a.status is SolveStatus.LIMIT for a in answers)
        proof = {i: every[k, :q] for i, every in nu.items()}
        values = torch.from_numpy(np.asarray(optimum, dtype=np.float64) + constants)
        seconds = asked.built + sum(a.seconds for a in answers)
        cut = not asked.encoding.source.whole  # what planes are made of
        forms = form.dense()[k, :q] if cut and form is not None else None
        yield Solved(asked, lower[k, :q], values, proof, points, forms, limited, seconds)


def _usable(answer: SolveResult, rows: int) -> bool:
    duals = answer.row_duals
    return duals is not None and np.shape(duals) == (rows,) and bool(np.isfinite(duals).all())


def _point(encoding: Encoding, answer: SolveResult) -> Tensor | None:  # [*input]
    primal = answer.primal
    if primal is None or np.shape(primal) != (encoding.program.columns,) or not np.isfinite(primal).all():
        return None
    return encoding.input_of(np.clip(primal, encoding.program.lower, encoding.program.upper))


def pulled(
    query: Query,
    bounds: Bounds,
    node: int,
    functionals: Tensor,
    multipliers: Mapping[int, Tensor],
    visit: Callable[[int, State, State], None] | None = None,
) -> tuple[LinearForm | None, Tensor]:
    """Functionals [B, q, size] of one node as a form on the input, and constants [B, q]; for any multipliers.

    By weak duality the form's minimum over the input set and the constant are a lower bound of each functional, as in
    `verifier.relaxation.multipliers.dual_bound`. No form: the functionals do not depend on the input. `visit` is as of
    `pull_back`.
    """
    graph = query.graph
    lowerings = {}
    for i, nu in multipliers.items():
        lowerings[i] = multiplied(*activation_over(graph, bounds, i), nu)
    start = OneSided(Dense(functionals.unflatten(2, graph.nodes[node].shape)))
    state, constant = pull_back(graph, lowerings, node, start, functionals, visit)
    return None if state is None else state.one_sided().form, constant
