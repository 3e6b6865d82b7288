"""Branch and bound of whole queries: bounds first, then the search, with the points that it shows looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.branching.counterexamples import BoxPoints, SubdomainPoints
from verifier.branching.inputs_search import BoxSearch, Proved
from verifier.branching.plan import Alternation, Efforts
from verifier.branching.search import SearchResult, SearchSettings
from verifier.budget import Budget, OutOfTime
from verifier.device import free_memory, has_room
from verifier.evidence import NeuronEvidence
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import DEFAULT_MEMORY, intermediate
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.optimised import optimised_already, tighten
from verifier.relaxation.parallel import ordered_map
from verifier.relaxation.sizes import condensed_size
from verifier.rounding import margin_error


@dataclass(frozen=True)
class SubdomainAttempt:
    """What branch and bound on neurons came to for one example."""

    bounds: Bounds  #: of every pre-activation: those that the search rests on
    evidence: Sequence[NeuronEvidence]  #: what proves those of `bounds` that it has tightened
    found: SearchResult | None  #: None: there was no time to search, or no room
    starved: bool  #: there was no room
    candidate: Tensor  # [*input]: the lowest point seen
    seconds: float  #: that it took


def prove_by_subdomains(
    query: Query,
    bounds: Bounds,
    seconds: Callable[[int], float],
    settings: Callable[[int], SearchSettings],
    margin: float,
    efforts: Efforts,
) -> list[SubdomainAttempt]:
    """Branch and bound on the neurons of every example by itself, on all cores.

    Args:
        query, bounds: on the CPU.
        seconds: that an example may take from now on. settings: of its search.
        margin: a subdomain is closed by a bound above so many times the margin's estimated rounding error.
        efforts: for the bounds of neurons that a search rests on, in turns with it.
    """
    stop = threading.Event()

    def work(i: int) -> SubdomainAttempt:
        one, began = torch.tensor([i]), time.perf_counter()
        done = _by_subdomains(query.select(one), bounds.select(one), seconds(i), settings(i), margin, efforts, stop)
        evidence = [one.of_example(i) for one in done.evidence]
        return replace(done, evidence=evidence, seconds=time.perf_counter() - began)

    return ordered_map(work, range(query.batch), query.open.device, stop)


def _by_subdomains(
    query: Query,
    bounds: Bounds,
    seconds: float,
    settings: SearchSettings,
    margin: float,
    efforts: Efforts,
    stop: threading.Event,
) -> SubdomainAttempt:
    """Of one example."""
    deadline = time.monotonic() + seconds
    budget = Budget(seconds)
    tight, points = intermediate(query, bounds, budget), SubdomainPoints(query, budget)
    evidence: list[NeuronEvidence] = []
    found: SearchResult | None = None
    room = budget.spent or _fits(query, tight, settings.memory)
    if not stop.is_set() and not budget.spent and room:
        if not bool(optimised_already(tight).all()):
            slopes: list[NeuronSlopes] = []
            tight = tighten(query, tight, budget=budget, memory=DEFAULT_MEMORY, evidence=slopes)[0]
            evidence += slopes
        work = Alternation(query, tight, settings, margin, efforts)
        with suppress(OutOfTime):  # before a tree was planted
            found = work.run(points, deadline, stop.is_set)
            tight, evidence = work.bounds, [*evidence, *work.evidence]
    return SubdomainAttempt(tight, evidence, found, not room, points.best.points[0], seconds)


def _fits(query: Query, bounds: Bounds, memory: int) -> bool:
    """Whether the condensed network has room: products of matrices (attention) are many more than neurons.

    Without products it may take more than a stage's memory: up to half of what the machine has left. With less left
    than a stage's memory, it may not take that either.
    """
    room = memory if query.graph.has_products else max(memory, 0.5 * free_memory())
    size = float(condensed_size(query, bounds) * query.graph.dtype.itemsize)
    return size <= room and has_room(size)


@dataclass(frozen=True)
class BoxAttempt:
    """What branch and bound on the input came to for all examples."""

    bounds: Bounds  #: of every pre-activation over the undivided sets: those that the search rests on
    found: Proved | None  #: None: every example had a counterexample at once
    candidates: Tensor  # [B, *input]: the lowest points seen


@torch.no_grad()
def prove_by_boxes(query: Query, bounds: Bounds, seconds: float, memory: int, margin: float) -> BoxAttempt:
    """Branch and bound on the input of all examples together.

    Args:
        query, bounds: on the CPU; sets are boxes.
        seconds: for all of them. memory: bytes for open boxes.
        margin: a row counts as positive above so many times the margin's estimated rounding error.
    """
    deadline = time.monotonic() + seconds
    budget = Budget(seconds)
    tight, points = intermediate(query, bounds, budget), BoxPoints(query, budget)
    done, found = points.start(), None
    if not done.all():
        # every box lies in its example's set, and its intervals in the set's: so do the errors of what bounds it
        enough = margin * margin_error(query, interval.propagate(query, tight))
        known = {i: (tight[i].lower, tight[i].upper) for i in query.graph.pre_activations}
        left = replace(query, open=query.open & ~done.unsqueeze(1)) if done.any() else query
        found = BoxSearch(left, known, enough, memory).run(points.look, deadline)
    return BoxAttempt(tight, found, points.best.points)
