"""A network's question put to the verifier, and what it answers held against samples and attacks."""

from __future__ import annotations

import torch
from torch import nn

from networks.attack import least_margins, margin_rows
from networks.base import Network, question
from verifier import Result, Verdict, verify


def decided(one: Network, budget: float, stages: tuple[str, ...] | None = None) -> Result:
    """The answer within these seconds; the default ladder, or these stages."""
    return verify(one.model(), one.x(), one.eps, spec=question(one), budget=budget, stages=stages)


def compared(one: Network, result: Result) -> None:
    """Asserts that no bound of the result is above what a point of the set does, and that a counterexample is one.

    Raises:
        AssertionError: it is not so, or the result is undecided.
    """
    model, x, asked = one.model(), one.x(), question(one)
    if asked is None:
        label = int(model(x).argmax())
        rows = margin_rows(result.margins.shape[1], label)
        offset = torch.zeros(len(rows), dtype=torch.float64)
        margins = torch.cat([result.margins[0, :label], result.margins[0, label + 1 :]])
    else:
        rows, offset, margins = asked.rows[0], asked.offset[0], result.margins[0]
    least, slack = least_margins(one.model(), x, one.eps, rows, offset)
    if asked is None and isinstance(model, nn.Sequential) and isinstance(model[-1], nn.Softmax | nn.Sigmoid):
        # a monotone end is left out of a question about classes: the margins are those of what it is given
        before = least_margins(one.model()[:-1], x, one.eps, rows, offset)
        assert (margins <= sum(before)).all(), f"bounds {margins.tolist()}, possible {before}"
    else:
        assert (margins <= least + slack).all(), f"bounds {margins.tolist()}, possible {least.tolist()}"
    if result.verdict[0] is Verdict.VERIFIED:
        assert (least >= -slack).all(), least
    elif result.verdict[0] is Verdict.FALSIFIED:
        point = result.counterexample[0].double()
        assert (point - x[0].double()).abs().max() <= one.eps + 1e-6
        values = rows @ one.model().double()(point.unsqueeze(0)).flatten() + offset
        assert values.min() <= 0, values
    else:
        raise AssertionError(
            f"not decided: {result.reason[0].value}, margins {margins.tolist()}, possible {least.tolist()}"
        )
