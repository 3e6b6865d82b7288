"""Lower bounds of a specification's rows over zonotopes, from intermediate bounds as they are given.

Over a zonotope a row's minimum is its value at the center less the absolute sum of its generators' values. For one row
that number needs no generator: pulled backwards, the row's coefficient c on an activation's output goes on as
lambda c, and leaves c offset - |c| radius behind. The two ways round agree exactly, and backwards every row can have
slopes of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.activations import relaxations
from verifier.relaxation.ascent import Schedule
from verifier.relaxation.dual import DEFAULT_MEMORY, specification_rows
from verifier.relaxation.multipliers import dual_bound
from verifier.relaxation.optimised import (
    Multiplied,
    by_relaxations,
    condensed,
    multipliers_at,
    specification,
)
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.row_ascent import Done, ascend_rows
from verifier.relaxation.sizes import condensed_size
from verifier.zonotope.slopes import start_of_bands


def fixed_rows(query: Query, bounds: Bounds, memory: int = DEFAULT_MEMORY) -> Tensor:
    """Lower bounds [B, S] of the open rows with the slopes of DeepZ; -inf for the others. Differentiable."""
    return specification_rows(
        query, relaxations(query.graph, bounds, SlopeRule.FIXED), PassPlan(query.graph, memory, query.open.device)
    )


def learned_rows(
    query: Query,
    bounds: Bounds,
    steps: int = 20,
    rate: float = 0.25,
    done: Done | None = None,
    budget: Budget | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Multiplied:
    """Lower bounds of all rows with slopes learned per row, and the multipliers that prove them.

    Balunovic & Vechev (2020), section 6: Adam on the slopes lambda, clipped to [0, 1] after each step. They learn one
    set of slopes for all rows, and recompute the bounds of later layers at each step; here each row has its own, over
    bounds that stay. The best slopes seen are kept, so that for piecewise linear activations no row is below
    `fixed_rows`. For smooth ones the multipliers speak of the polygons of `Activation.pieces`, whose bands are wider
    than the lines that `fixed_rows` uses.

    Args:
        bounds: finite, of every pre-activation, in the graph's precision.
        rate: of the first step, in units of the range of slopes; it falls by a tenth with each step.
        done: from bounds [B, S], which rows need no better ones (bool [B, S]); default none.
    """
    with torch.no_grad():
        if condensed_size(query, bounds) * query.graph.dtype.itemsize > memory:
            fixed = relaxations(query.graph, bounds, SlopeRule.FIXED)
            multipliers, spent = by_relaxations(query, fixed).multipliers, False
        else:
            network = condensed(query, bounds, PassPlan(query.graph, memory, query.open.device))
            rows = specification(query, network)
            start = start_of_bands(network, rows.constant.shape[1])
            values, schedule = network.bound(rows, start.below), Schedule(steps=steps, rate=rate)
            _, best, spent = ascend_rows(network, rows, values, start, schedule, done, budget)
            multipliers = multipliers_at(network, rows, best)
        lower = dual_bound(query, bounds, multipliers).nan_to_num(nan=-torch.inf)
        return Multiplied(lower, multipliers, spent)
