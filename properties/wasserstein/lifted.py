"""The Wasserstein ball by its transport plans."""

from __future__ import annotations

import numpy as np

from properties.lifted import Lifted, Vector, sparse
from properties.wasserstein.moves import Moves
from properties.wasserstein.transport import Routes


def lifted(x: Vector, budget: float, moves: Moves, box: tuple[Vector, Vector], rounding: float) -> Lifted:
    """Of one image.

    Columns: what every pixel that can change holds, then the mass on every route that leads away from its pixel.

    What a pixel holds is what it had, less what it sends, and what comes; it sends no more than it has, and all pay no
    more than the budget. A pixel that holds at most the cap is a column with that upper end.

    Args:
        x: the clean image [C, H, W]. budget: what all moves together may cost. box: the ball's interval hull, both ends
            [C, H, W]. rounding: how far every pixel may be off afterwards.
    """
    clean, routes = x.ravel(), Routes.of(x, moves)
    # a route takes no more than is there, and no more than can be paid for
    with np.errstate(divide="ignore", over="ignore"):
        paid = np.where(routes.cost > 0, np.nextafter(budget / routes.cost, np.inf) if budget > 0 else 0.0, np.inf)
    most = np.minimum(clean[routes.source], paid)
    used = (routes.source != routes.target) & (most > 0)
    source, target, cost, most = (a[used] for a in (routes.source, routes.target, routes.cost, most))
    low, high = (end.ravel() for end in box)
    moving = np.unique(np.concatenate([source, target]))
    k, n = len(moving), len(moving) + len(source)
    route, place = k + np.arange(len(source)), np.searchsorted(moving, np.arange(len(clean)))
    holds, none = np.arange(k), np.empty(0, dtype=np.int64)
    # held - came + sent = x
    entries = np.concatenate([np.ones(k), -np.ones(len(target)), np.ones(len(source))])
    at = np.concatenate([holds, place[target], place[source]]), np.concatenate([holds, route, route])
    senders, number = np.unique(source, return_inverse=True)
    rows, columns, values = [at[0]], [at[1]], [entries]
    rows.append(k + number)
    columns.append(route)
    values.append(np.ones(len(source)))
    payers = route if cost.any() else none
    rows.append(np.full(len(payers), k + len(senders)))
    columns.append(payers)
    values.append(cost[: len(payers)])
    m = k + len(senders) + 1
    bias = clean.copy()
    bias[moving] = 0.0
    return Lifted(
        np.concatenate([low[moving], np.zeros(len(source))]),
        np.concatenate([high[moving], most]),
        sparse(1.0, moving, holds, (len(clean), n)),
        bias,
        sparse(np.concatenate(values), np.concatenate(rows), np.concatenate(columns), (m, n)),
        np.concatenate([clean[moving], np.full(m - k, -np.inf)]),
        np.concatenate([clean[moving], clean[senders], [budget]]),
        np.concatenate([clean[moving], np.zeros(len(source))]),
        np.full(len(clean), rounding),
        tied=k,
    )
