"""What stages give as evidence, as far as those below need to know it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from verifier.query import Query


class Witness(Protocol):
    """Evidence that belongs to a network rather than to an example, such as the weights of a semidefinite bound."""

    def again(self, query: Query) -> Tensor:
        """Lower bounds [B, S] of a query's rows, computed anew from its graph and from what is kept here."""
