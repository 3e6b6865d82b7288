"""Minima over the relaxation on any input set, by rounds of solving and cutting (Kelley 1960).

Sets that are images of polytopes (`properties.lifted`) are in their programs whole, and are solved once, as boxes are.
Of any other set a program starts from the interval hull, its own inequalities, and for each functional the half-space
in the direction of the form that the dual bound ends with: so its optimum is never below that dual bound. Where an
optimum's input lies outside the set, planes that cut it off join the program of that example, and it is solved again.

Nothing of this is in a proof. Bounds are recomputed from the activations' multipliers on the set itself
(`verifier.encoding.relaxation`), and are at least the optimum of the program that the multipliers are from: its
half-spaces hold more than the set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.budget import Budget, OutOfTime
from verifier.encoding.activation import EncodingError
from verifier.encoding.cut_and_solve import cut_and_solve
from verifier.encoding.encoder import Encoder
from verifier.encoding.planes import Planes, around
from verifier.encoding.relaxation import Executor, Minimisation, Solved
from verifier.encoding.relaxation import minima as once
from verifier.encoding.value import Mask
from verifier.forms import Dense
from verifier.ops.base import Nonlinear, SlopeRule
from verifier.query import Query
from verifier.relaxation.activations import relaxed
from verifier.relaxation.backward import OneSided, pull_back

#: a bound this close to a member's value, relative to it, needs no more rounds
CLOSE = 1e-7
#: a bound this far above zero, relative to a member's value, is surely proved
SURE = 1e-4


@dataclass(frozen=True)
class Rounds:
    """How long programs are cut.

    Args:
        most: rounds of cutting.
        share: of the distance that is left, what a round has to close for another one to follow.
        sign: only the sign of the minima matters.
    """

    most: int = 12
    share: float = 0.05
    sign: bool = True


def minima(
    query: Query,
    bounds: Bounds,
    node: int,
    asked: Iterable[Minimisation],
    executor: Executor,
    left: Callable[[int], float],
    rounds: Rounds,
) -> Iterator[Solved]:
    """`verifier.encoding.relaxation.minima` on any input set. Sets that programs know whole are solved once.

    Each round yields what it has solved: of the bounds of a row that come, the highest counts.

    Args:
        asked: their programs know the set whole, or only its interval hull.
        left: seconds that an example may still take.
    """
    todo: Iterable[Minimisation] = (a if a.encoding.source.whole else started(query, bounds, node, a) for a in asked)
    past: dict[tuple[int, int], _Past] = {}

    def separate(solved: Solved) -> tuple[Solved, Callable[[], Minimisation] | None]:
        asked, began = solved.asked, time.monotonic()
        pays, planes = _worth(query, node, solved, rounds, past)
        seconds = solved.seconds + time.monotonic() - began
        late = bool(pays.any()) and left(asked.example) <= seconds
        solved = replace(solved, limited=solved.limited or late, seconds=seconds)
        if late or not pays.any():
            return solved, None
        return solved, lambda: _narrowed(asked, pays, planes, left(asked.example))

    yield from cut_and_solve(todo, lambda a: once(query, bounds, node, a, executor), separate, rounds.most + 1)


def questions(
    query: Query,
    bounds: Bounds,
    encoder: Encoder,
    left: Callable[[int], float],
    late: Callable[[int, float], None] = lambda example, seconds: None,
) -> Iterator[Minimisation]:
    """The questions about the open rows of each example, on what programs start with of its set.

    Args:
        left: seconds that an example may still take.
        late: called with each example that these are not enough for, and the seconds that it has taken in vain.
    """
    spec = query.spec
    for i in range(query.batch):
        rows = query.open[i].nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        seconds, began = left(i), time.monotonic()
        if seconds <= 0:
            late(i, 0.0)
            continue
        one = torch.tensor([i])
        try:
            with Budget(seconds).enforced():
                encoding = encoder.relaxed(query.inputs.select(one), bounds.select(one))
        except EncodingError:
            continue  # not all bounds are finite: nothing is known, and nothing is claimed
        except OutOfTime:
            late(i, time.monotonic() - began)
            continue
        functionals, offset = spec.rows[i, rows].double().numpy(), spec.offset[i, rows].double().numpy()
        built = time.monotonic() - began
        yield Minimisation(i, encoding, rows.numpy(), functionals, offset, seconds - built, built)


def started(query: Query, bounds: Bounds, node: int, asked: Minimisation) -> Minimisation:
    """The same question about a program that knows more of the set than its box."""
    index, began = torch.tensor([asked.example]), time.monotonic()
    functionals = torch.from_numpy(np.asarray(asked.functionals, dtype=np.float64))
    planes = planes_of(query.select(index), bounds.select(index), node, functionals)
    encoding = asked.encoding.cut(planes)
    spent = time.monotonic() - began
    return replace(asked, encoding=encoding, seconds=asked.seconds - spent, built=asked.built + spent, planes=planes)


def planes_of(query: Query, bounds: Bounds, node: int, functionals: Tensor) -> Planes:
    """What a program about functionals [q, size] of a node starts with, for one example, in float64."""
    forms = dual_forms(query, bounds, node, functionals)
    return Planes.to_start(query.inputs, forms)


def dual_forms(query: Query, bounds: Bounds, node: int, functionals: Tensor) -> Tensor | None:
    """The forms [q, *input] that the dual bounds of functionals [q, size] end with, with adaptive slopes.

    None where the functionals do not depend on the input.
    """
    graph = query.graph
    relaxations = {}
    for i in graph.ancestors[node]:
        op = graph.nodes[i].op
        if isinstance(op, Nonlinear):
            interval = bounds[graph.nodes[i].parents[0]]
            relaxations[i] = relaxed(op, interval.lower, interval.upper, SlopeRule.ADAPTIVE)
    with torch.no_grad():
        rows = OneSided(Dense(functionals.unsqueeze(0).unflatten(2, graph.nodes[node].shape)))
        state, _ = pull_back(graph, relaxations, node, rows, functionals)
    return None if state is None else state.one_sided().form.dense()[0]


@dataclass(frozen=True)
class _Past:
    """What the rounds so far have found of one row."""

    lower: float = -np.inf  #: its best bound
    optimum: float = -np.inf  #: of the last program

    def joined(self, lower: float, optimum: float) -> _Past:
        # a program without a usable optimum has not fallen behind
        return _Past(max(self.lower, lower), self.optimum if np.isnan(optimum) else max(self.optimum, optimum))


def _worth(
    query: Query, node: int, solved: Solved, rounds: Rounds, past: dict[tuple[int, int], _Past]
) -> tuple[Mask, Planes]:
    """Rows of an answer that are worth another round, [q] bool, and the planes to add for it."""
    part = query.select(torch.tensor([solved.asked.example]))
    whole = solved.asked.encoding.source.whole
    nothing = np.zeros(len(solved.asked.rows), dtype=bool), Planes.none(part.inputs)
    known = np.array([p is not None for p in solved.points]) & np.isfinite(solved.lower.numpy())
    if whole or solved.forms is None or solved.limited or not known.any():
        return nothing
    points = torch.stack([p for p in solved.points if p is not None])
    points = points[torch.from_numpy(known[[p is not None for p in solved.points]])]
    at = np.flatnonzero(known)
    reached = _values(part, node, points, solved.asked, at)
    open_ = np.zeros(len(at), dtype=bool)
    for k, r in enumerate(at):
        key = (solved.asked.example, int(solved.asked.rows[r]))
        before = past.get(key, _Past())
        past[key] = now = before.joined(float(solved.lower[r]), float(solved.optimum[r]))
        open_[k] = _pays(before, now, float(reached[k]), rounds)
    if not open_.any():
        return nothing
    planes, cut = around(part.inputs, points[torch.from_numpy(open_)], solved.forms[at[open_]])
    nothing[0][at[open_][cut]] = True
    return nothing[0], planes


def _pays(before: _Past, now: _Past, reached: float, rounds: Rounds) -> bool:
    """Whether to go on with a row; `reached`: a member's value, beyond which its bound cannot rise."""
    size, target = 1 + abs(reached), reached
    if rounds.sign:
        if reached <= 0:  # a counterexample, or nearly one
            return False
        target = min(target, SURE * size)
    distance = target - now.lower
    if distance <= (0 if rounds.sign else CLOSE * size):
        return False
    if before.lower == -np.inf:
        return True
    return max(now.lower - before.lower, now.optimum - before.optimum) >= rounds.share * distance


def _values(query: Query, node: int, points: Tensor, asked: Minimisation, at: np.ndarray) -> np.ndarray:
    """The functionals number `at` [k] at members near points [k, *input], each at its own; [k]."""
    many = query.inputs.select(torch.zeros(len(points), dtype=torch.int64))
    with torch.no_grad():
        values = query.graph.values(many.project(points))[node].flatten(1).numpy()
    return np.asarray((values * asked.functionals[at]).sum(1) + asked.offset[at])


def _narrowed(asked: Minimisation, rows: Mask, planes: Planes, seconds: float) -> Minimisation:
    """The question about some of its rows, over the program with more planes."""
    began, known = time.monotonic(), planes if asked.planes is None else asked.planes.joined(planes)
    encoding = asked.encoding.cut(planes)
    return replace(
        asked, encoding=encoding, rows=asked.rows[rows], functionals=asked.functionals[rows],
        offset=asked.offset[rows], seconds=seconds, built=time.monotonic() - began, planes=known,
    )  # fmt: skip
