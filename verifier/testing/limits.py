"""Conformance of stages with their budget: on a deep network, which takes them far longer, the call ends in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier.api import Verifier
from verifier.bounds import Bounds
from verifier.budget import Budget
from verifier.policy import Ladder
from verifier.query import Query
from verifier.stages.base import Stage, StageReport
from verifier.testing.laws import generator, named
from verifier.testing.stages import check_report
from verifier.verdict import Reason, Verdict

#: seconds that a stage is given, and by how much a call may be longer: a share of them, and seconds
LIMIT, SHARE, MORE = 0.25, 0.1, 1.0
CLASSES = 4


class DeepBlocks(nn.Module):
    """Six residual blocks of two convolutions on a map of 6 x 6: few inputs, and some ten thousand neurons.

    Their sums widen every bound, so that all but a few neurons are undecided.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(12))
        self.last = nn.Linear(36 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [B, 1, 6, 6] -> [B, CLASSES]
        x = torch.relu(self.first(x))
        for k in range(0, 12, 2):
            inner = torch.relu(self.convolutions[k](x))
            x = torch.relu(x + self.convolutions[k + 1](inner))
        return self.last(x.flatten(1))


@cache
def _deep() -> tuple[Verifier, Tensor]:
    """A deep network made ready, and inputs [B, 1, 6, 6] in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DeepBlocks().eval()
    x = torch.rand(2, 1, 6, 6, generator=generator())
    return Verifier(model, x), x


@cache
def _one_layer() -> tuple[Verifier, Tensor]:
    """A network of one wide hidden layer, for stages that know no other, and inputs [B, 40]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 3000), nn.ReLU(), nn.Linear(3000, CLASSES)).eval()
    return Verifier(model, torch.zeros(2, 40)), torch.rand(2, 40, generator=generator())


def check_limits(part: Callable[[], Stage]) -> None:
    """A stage ends when its time is over: what it has is sound, and the reason is the budget.

    Its own processor time is measured, in one thread, and not the time on the clock: other programs on the machine
    make that as long as they like.

    Args:
        part: makes the stage: its class, where its options have defaults.

    Raises:
        AssertionError: it took longer, or claims what does not hold, or says that something else was the reason.
    """
    stage = part()
    for verifier, x in (_deep(), _one_layer()):
        inputs = LinfBall(x, 0.2)
        spec = robustness(verifier.predict(x).argmax(1), CLASSES)
        if stage.supports(Query.of(verifier.graph, inputs, spec)):
            break
    else:
        raise AssertionError(f"{named(part)} supports none of the networks")
    reports: list[tuple[Query, StageReport]] = []
    with _one_thread(), _noted(stage, reports):
        began = time.process_time()
        result = verifier.climb(Ladder([stage], adapts=False), inputs, spec, Budget(LIMIT))
        took = time.process_time() - began
    assert took <= (1 + SHARE) * LIMIT + MORE, f"{stage.name} took {took:.2f} s of processor time for {LIMIT} s"
    for query, report in reports:
        check_report(stage, query, report, count=30)
    for verdict, reason, spent in zip(result.verdict, result.reason, result.seconds.tolist(), strict=True):
        assert stage.trust is not None or verdict is not Verdict.VERIFIED
        if verdict is Verdict.UNKNOWN and 2 * spent > LIMIT:
            assert reason in (Reason.BUDGET, Reason.NUMERICAL), reason


@contextmanager
def _noted(stage: Stage, reports: list[tuple[Query, StageReport]]) -> Iterator[None]:
    """What the stage reports is added to `reports`."""
    original = stage.run

    def run(query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        report = original(query, bounds, budget)
        reports.append((query, report))
        return report

    stage.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        del stage.run  # type: ignore[method-assign]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
