"""Calls end when their time is over, with what they have; what does not fit into the memory is UNKNOWN and says so."""

from __future__ import annotations

import pytest

from verifier.stages import REGISTRY
from verifier.testing import check_limits


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_limits(name: str) -> None:
    check_limits(REGISTRY[name])
