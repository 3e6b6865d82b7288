"""Every small network of the list is decided at a small radius, and what is said agrees with samples and attacks."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from networks.base import NETWORKS, Network
from networks.comparison import compared, decided
from networks.kinds import KINDS
from networks.radii import WIDE
from verifier import Trust, UnsupportedError, Verdict

#: seconds for each network; a machine that does nothing else needs at most three
BUDGET = 20.0
#: of so many networks of a kind, one is in every run
SHARE = 3


def cases() -> list[object]:
    """All networks; those of the longer run are marked."""
    found, left = [], Counter(one.kind for one in NETWORKS)
    places = Counter[str]()
    for one in NETWORKS:
        often = places[one.kind] % SHARE == 0 and left[one.kind] >= SHARE  # of each whole three the first
        marks = [] if often else [pytest.mark.slow]
        places[one.kind] += 1
        left[one.kind] -= 1
        found.append(pytest.param(one, id=one.name, marks=marks))
    return found


def test_the_list_is_long_and_its_networks_are_small():
    assert {one.kind for one in NETWORKS} == set(KINDS)
    assert len(NETWORKS) >= 160
    assert len(WIDE) > len(NETWORKS) / 2
    assert {*WIDE} <= {one.name for one in NETWORKS}
    for one in NETWORKS[::SHARE]:
        model = one.model()
        assert sum(p.numel() for p in model.parameters()) < 3000, one.name
        assert torch.equal(model(one.x()), one.model()(one.x())), one.name
    assert sum(bool(one.refused) for one in NETWORKS) <= 10


@pytest.fixture(scope="module", autouse=True)
def _tracing_is_loaded() -> None:
    """What PyTorch imports for its first export is in nobody's budget."""
    torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))


@pytest.mark.parametrize("one", cases())
def test_it_is_decided_and_samples_agree(one: Network):
    try:
        result = decided(one, BUDGET)
    except UnsupportedError:
        if not one.refused:
            raise
        return
    compared(one, result)
    if one.wide:
        assert result.decided_by[0] != "interval", "a larger radius is wanted: intervals decide this one"


@pytest.mark.parametrize("name", ["quantised by hand", "thermometer code"])
def test_margins_in_float32_have_paid_for_rounding(name: str):
    (one,) = (n for n in NETWORKS if n.name == name)
    compared(one, decided(one, BUDGET))


@pytest.mark.parametrize("name", ["ViT of two blocks, fused attention", "TransformerEncoder of two layers"])
def test_bounds_in_float32_whose_rounding_errors_are_unknown_are_computed_again(name: str):
    (one,) = (n for n in NETWORKS if n.name == name)
    result = decided(one, BUDGET, ("dual",))
    assert result.verdict[0] is Verdict.VERIFIED
    assert result.trust[0] is Trust.CHECKED
