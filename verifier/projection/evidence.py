"""Evidence of a bound with a probability: the very numbers that were drawn, by their seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.evidence import Evidence
from verifier.projection.probabilistic import Estimates
from verifier.query import Query


@dataclass(frozen=True)
class SeedEvidence(Evidence):
    """The seed of what was drawn, and how much was: another run draws the same, in chunks of any size."""

    kind: ClassVar[str] = "seed"
    recordable: ClassVar[bool] = False
    rests_on_bounds: ClassVar[bool] = False

    estimates: Estimates  #: failure, rows, groups and seed
    memory: int  #: bytes of working memory

    @torch.no_grad()
    def recompute(self, query: Query, bounds: Bounds) -> Tensor:  # [B, S]
        return self.estimates.bounds(query, Budget(), self.memory)[0]

    def select(self, example: int) -> Self:
        return self
