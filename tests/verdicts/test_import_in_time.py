"""A limit shorter than the import of the network, which nothing can interrupt: the call ends right after it."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import verifier
from verifier import Reason
from verifier.api import Verifier


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(6) for part in (nn.Linear(40, 40), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(40, 5)).eval()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A network whose import takes a moment longer than it does."""
    real = torch.export.export

    def export(*arguments: object, **options: object) -> object:
        time.sleep(0.4)
        return real(*arguments, **options)

    monkeypatch.setattr(torch.export, "export", export)
    return network()


def test_verify_ends_after_its_import_and_says_why(slow: nn.Module) -> None:
    x = torch.rand(3, 40, generator=torch.Generator().manual_seed(1))
    began = time.process_time()
    Verifier(slow, x)
    importing = time.process_time() - began
    began = time.process_time()
    found = verifier.verify(slow, x, 0.01, budget="0.3s")
    assert found.reason == (Reason.BUDGET,) * 3 and not found.verified.any()
    assert torch.equal(found.prediction, slow(x).argmax(1))
    assert time.process_time() - began < 2 * importing + 0.2
    assert verifier.verify(slow, x, 1e-4, budget=30).verified.all()


@pytest.mark.parametrize("method", ["ibp", "alpha-crown", "lp"])
def test_bounds_end_after_their_import_and_say_so(slow: nn.Module, method: str) -> None:
    x = torch.rand(1, 40)
    found = verifier.bounds(slow, x, 0.01, method, budget=0.01)
    y = slow(x)
    assert found.exhausted and (found.lower <= y).all() and (y <= found.upper).all()


def test_a_radius_ends_after_its_import(slow: nn.Module) -> None:
    x = torch.rand(2, 40)
    found = verifier.certified_radius(slow, x, budget=0.3)
    assert (found.radius == 0).all() and (found.broken > 0).all()
