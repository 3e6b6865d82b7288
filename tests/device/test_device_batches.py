"""Stages that ascend work on many examples at once on a device: what each finds alone, and what the device is asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from helpers.real_data import images, wong_kolter_small
from torch import Tensor, nn

from device.accounts import Account
from properties import LinfBall, robustness
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.demo import held_out_digits, network
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.stages import StageReport, stage

Device = Callable[[], AbstractContextManager[Account]]


def query_of(model: nn.Module, x: Tensor, eps: float) -> Query:
    """Robustness of the network's own answers, in float64."""
    graph = import_torch(model, x[:1]).to(dtype=torch.float64)
    return Query.of(graph, LinfBall(x, eps, (0.0, 1.0)), robustness(model(x).argmax(1), 10))


def found(name: str, query: Query) -> StageReport:
    with torch.no_grad():
        return stage(name).run(query, Bounds(), Budget(600))


def on_device(name: str, query: Query, device: Device) -> tuple[Tensor, Account]:
    """Bounds of the rows [B, S] found there, and what that took."""
    with device() as before:
        there = query.on(torch.device("cuda"))
    assert before.syncs.total() == 0
    with device() as account:
        report = found(name, there)
    assert report.lower is not None
    with device():
        return report.lower.cpu(), account


def same(there: Tensor, here: Tensor | None) -> None:  # [B, S] each
    """The same verdicts, and bounds to 1e-5."""
    assert here is not None
    assert torch.equal(there > 0, here > 0)
    assert (there - here).abs().max() < 1e-5


@pytest.mark.parametrize(
    "batch", [7, pytest.param(1, marks=pytest.mark.slow), pytest.param(64, marks=pytest.mark.slow)]
)
def test_optimised_slopes_of_a_batch_are_those_of_its_examples(batch: int, device: Device) -> None:
    """One at a time on the CPU; at once on the device, which is asked as often for 64 examples as for a few."""
    x, _ = held_out_digits()
    query = query_of(network(), x[:batch], 0.06)
    there, account = on_device("dual-optimised", query, device)
    same(there, found("dual-optimised", query).lower)
    if account.counted:
        assert account.waits <= 100 and account.launches <= 25_000, account.told()


@pytest.mark.slow
def test_a_device_is_asked_little_for_each_of_64_images(device: Device) -> None:
    """Of Wong & Kolter's network: 300 launches and 5 waits for each."""
    x, _ = images("mnist", 64)
    query = query_of(wong_kolter_small("wk_mnist"), x, 0.1)
    there, account = on_device("dual-optimised", query, device)
    same(there, found("dual-optimised", query).lower)
    if account.counted:
        assert account.launches <= 300 * 64 and account.waits <= 5 * 64, account.told()
