"""The laws between methods on the same intermediate bounds, as data, and where they are broken.

"Interval is looser than dual" and any order between dual and zonotope are not theorems, and no laws here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.comparison.method import ComparisonMethod, Role
from verifier.graph import Graph
from verifier.relaxation.optimised import piecewise_linear


def _always(graph: Graph) -> bool:
    return True


@dataclass(frozen=True)
class Law:
    """Values of the one role are at most those of the other, on graphs where it `applies`."""

    low: Role
    high: Role
    applies: Callable[[Graph], bool] = _always


#: for smooth activations the linear program need not contain the lines that the others use
LAWS: tuple[Law, ...] = (
    Law(Role.RELAXED, Role.LP, piecewise_linear),
    Law(Role.LOWER, Role.EXACT),
    Law(Role.LOWER, Role.UPPER),
    Law(Role.EXACT, Role.UPPER),
)


@dataclass(frozen=True)
class Values:
    """What every method says of one batch, and the rounding error of such values."""

    of: Mapping[str, Tensor]  #: method -> [B, S] float64
    rounding: Tensor  # [B, S]


@dataclass(frozen=True)
class Violation:
    """One row that breaks one law."""

    law: str
    example: int  #: position in the batch
    row: int
    low: float
    high: float
    tolerance: float  #: that `low` is above `high` by more than this is no rounding


def broken(values: Values, methods: Sequence[ComparisonMethod], graph: Graph) -> Iterator[Violation]:
    """Every row that breaks a law of order, or that a method says nothing about though it always does."""
    for method in methods:
        if not method.partial:
            found = values.of[method.name]
            yield from _where(f"{method.name} is a number", found.isnan(), found, found, values.rounding)
    for law in LAWS:
        if not law.applies(graph):
            continue
        for low in methods:
            for high in methods:
                if law.low in low.roles and law.high in high.roles:
                    yield from _order(values, low, high)


def unequal(values: Values, clean: Tensor, methods: Sequence[ComparisonMethod]) -> Iterator[Violation]:
    """Every row whose value over the clean input alone is not the forward pass there ([B, S])."""
    for method in methods:
        found = values.of[method.name]
        known = ~found.isnan() if method.partial else torch.ones_like(found, dtype=torch.bool)
        tolerance = _tolerance(values.rounding, method.tolerance, found, clean)
        wrong = known & ~((found - clean).abs() <= tolerance)
        yield from _where(f"{method.name} at eps 0 = forward pass", wrong, found, clean, tolerance)


def _order(values: Values, low: ComparisonMethod, high: ComparisonMethod) -> Iterator[Violation]:
    below, above = values.of[low.name], values.of[high.name]
    tolerance = _tolerance(values.rounding, low.tolerance + high.tolerance, below, above)
    yield from _where(f"{low.name} <= {high.name}", below > above + tolerance, below, above, tolerance)


def _tolerance(rounding: Tensor, share: float, a: Tensor, b: Tensor) -> Tensor:  # [B, S] each
    """What rounding, and a solver's tolerances where there was one, may move the two values by."""
    size = 1 + torch.maximum(a.abs(), b.abs()).nan_to_num(nan=0.0, posinf=0.0)
    return 2 * rounding + (share * size if share else 0.0)


def _where(
    law: str,
    wrong: Tensor,
    low: Tensor,
    high: Tensor,
    tolerance: Tensor,  # [B, S] each
) -> Iterator[Violation]:
    for b, s in wrong.nonzero().tolist():
        yield Violation(law, b, s, float(low[b, s]), float(high[b, s]), float(tolerance[b, s]))
