"""Where branch and bound looks for counterexamples: where the bounds of open subdomains are attained."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.attacks.point_search import PointSearch
from verifier.branching.inputs_search import OpenBoxes
from verifier.budget import Budget
from verifier.query import Query


class SubdomainPoints(PointSearch):
    """The points of one example whose neurons are split (see `verifier.branching.search.CounterexampleSearch`)."""

    #: points of one round that are looked at, and rounds between descents from them
    POINTS, EVERY = 32, 8

    def __init__(self, query: Query, budget: Budget) -> None:
        super().__init__(query, steps=15, step=0.1, budget=budget)
        self.round = 0
        self.low, self.high = (t.flatten(1) for t in query.inputs.box(query.graph.dtype))

    @property
    def value(self) -> float:
        return float(self.best.value[0])

    def follow(self, forms: Tensor) -> bool:  # [D, n]
        forms = forms[: self.POINTS]  # of the worst cases
        points, example = self._evaluated(torch.where(forms > 0, self.low, self.high))
        if not self.done[0] and self.round % self.EVERY == 0:
            self.descend(points, example)
        self.round += 1
        return bool(self.done[0])

    def look(self, points: Tensor) -> bool:  # [k, n]
        self._evaluated(points)
        return bool(self.done[0])

    def _evaluated(self, flat: Tensor) -> tuple[Tensor, Tensor]:  # [k, n] -> [k, *input], [k]
        example = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
        return self.evaluate(flat.unflatten(1, self.query.inputs.shape), example)[0], example


class BoxPoints(PointSearch):
    """The points of all examples whose input boxes are split."""

    #: points at the start, points that are followed, rounds between descents later on
    SAMPLES, POINTS, EVERY = 1024, 16, 16

    def __init__(self, query: Query, budget: Budget) -> None:
        super().__init__(query, steps=20, step=0.1, budget=budget)
        self.round = 0

    def start(self) -> Tensor:
        """Sample and descend; returns the examples that are done with, [B]."""
        generator, batch = torch.Generator().manual_seed(0), self.query.batch
        samples = max(16, self.SAMPLES // batch)
        example = torch.arange(batch).repeat_interleave(samples)
        inputs = self.query.inputs.select(example)
        points = torch.cat([inputs.sample(generator), self.query.inputs.center().double()])
        example = torch.cat([example, torch.arange(batch)])
        points, value = self.evaluate(points, example)
        order = value.argsort()
        # the best of each example: stable by example, then the first so many of each
        order = order[example[order].argsort(stable=True)]
        rank = torch.arange(len(order)) - torch.searchsorted(example[order], example[order])
        order = order[rank < self.POINTS]
        self.descend(points[order], example[order])
        return self.done

    def look(self, boxes: OpenBoxes, slope: Tensor) -> Tensor:  # D boxes, [D, n] -> [B] bool
        """At the corners where the forms are least, and at the centers; now and then a descent from the best."""
        shape = self.query.graph.input_shape
        corner = torch.where(slope > 0, boxes.lower, boxes.upper)
        points = torch.cat([corner, 0.5 * boxes.lower + 0.5 * boxes.upper]).unflatten(1, shape)
        example = boxes.example.repeat(2)
        points, value = self.evaluate(points, example)
        if self.round % self.EVERY == 0 or self.round & (self.round + 1) == 0:
            near = value.argsort()[: self.POINTS]
            near = near[~self.done[example[near]]]
            if len(near):
                self.descend(points[near], example[near])
        self.round += 1
        return self.done
