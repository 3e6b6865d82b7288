"""Every small network of the list is decided at a small radius, and what is said agrees with samples and attacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from networks.attack import least_margins, margin_rows
from networks.base import NETWORKS, Network, question
from networks.kinds import KINDS
from verifier import ModelError, UnsupportedError, Verdict, verify

#: seconds for each network
BUDGET = 5.0
#: of so many networks, one is in every run
SHARE = 3

#: networks that importers refuse for no mathematical reason: work to do. What becomes supported must leave this list
MISSING: dict[str, str] = {}


def cases() -> list[object]:
    """All networks; those of the longer run are marked, and those that are not read yet."""
    found = []
    for place, one in enumerate(NETWORKS):
        marks = [pytest.mark.slow] if place % SHARE else []
        if one.name in MISSING:
            marks.append(pytest.mark.xfail(raises=ModelError, strict=True, reason=MISSING[one.name]))
        found.append(pytest.param(one, id=one.name, marks=marks))
    return found


def test_the_list_is_long_and_its_networks_are_small():
    assert {one.kind for one in NETWORKS} == set(KINDS)
    assert set(MISSING) <= {one.name for one in NETWORKS}
    for one in NETWORKS[::SHARE]:
        model = one.model()
        assert sum(p.numel() for p in model.parameters()) < 3000, one.name
        assert torch.equal(model(one.x()), one.model()(one.x())), one.name
    assert sum(bool(one.refused) for one in NETWORKS) <= 10


@pytest.mark.parametrize("one", cases())
def test_it_is_decided_and_samples_agree(one: Network):
    model, x = one.model(), one.x()
    try:
        result = verify(model, x, one.eps, spec=(asked := question(model, x, one.eps)), budget=BUDGET)
    except UnsupportedError:
        if not one.refused:
            raise
        return
    if asked is None:
        label = int(model(x).argmax())
        rows = margin_rows(result.margins.shape[1], label)
        offset = torch.zeros(len(rows), dtype=torch.float64)
        margins = torch.cat([result.margins[0, :label], result.margins[0, label + 1 :]])
    else:
        rows, offset, margins = asked.rows[0], asked.offset[0], result.margins[0]
    least, slack = least_margins(one.model(), x, one.eps, rows, offset)
    if isinstance(model, nn.Sequential) and isinstance(model[-1], nn.Softmax | nn.Sigmoid):
        # a monotone end is left out of a question about classes: the margins are those of what it is given
        before = least_margins(one.model()[:-1], x, one.eps, rows, offset)
        assert (margins <= sum(before)).all(), (margins, before)
    else:
        assert (margins <= least + slack).all(), (margins, least)
    if result.verdict[0] is Verdict.VERIFIED:
        assert (least >= -slack).all(), least
    elif result.verdict[0] is Verdict.FALSIFIED:
        point = result.counterexample[0].double()
        assert (point - x[0].double()).abs().max() <= one.eps + 1e-6
        values = rows @ one.model().double()(point.unsqueeze(0)).flatten() + offset
        assert values.min() <= 0, values
    else:
        pytest.fail(f"not decided: {result.reason[0].value}, margins {margins.tolist()}, possible {least.tolist()}")
