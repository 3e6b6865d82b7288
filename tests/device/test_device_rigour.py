"""What a device proves is proved again on the CPU, in one batch: what it says is never believed, and costs little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from device.host_work import HostWork
from properties import LinfBall, robustness
from verifier import Verdict, certify, kernels, verify
from verifier.api import Verifier
from verifier.bound_map import Bounds
from verifier.certificate.rigour import Rigour
from verifier.demo import held_out_digits, network
from verifier.errors import InputError
from verifier.relaxation.dual import DualPass, Passed
from verifier.result import Result
from verifier.verdict import Trust

ON = "cuda"
PAYING = ["interval", "dual", "dual-adaptive"]


def small(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 12), nn.ReLU(), nn.Linear(12, 3)
    )
    return model.eval(), torch.rand(6, 1, 6, 6)


def ready(model: nn.Module, x: Tensor, stages: list[str], device: str = "cpu") -> Callable[[Tensor], Result]:
    """Answers about balls of radii [B] around x [B, *input]."""
    verifier = Verifier(model, x, stages=stages, device=device)
    spec = robustness(verifier.predict(x).argmax(1).cpu(), 3)
    return lambda eps: verifier.run(LinfBall(x, eps), spec)


def thresholds(asked: Callable[[Tensor], Result], batch: int) -> tuple[Tensor, Tensor]:  # [B] each
    """The largest radii found at which each example is proved, and next to them the least at which it is not."""
    low, high = torch.zeros(batch, dtype=torch.float64), torch.full((batch,), 0.5, dtype=torch.float64)
    for _ in range(26):
        middle = (low + high) / 2
        proved = torch.tensor([v is Verdict.VERIFIED for v in asked(middle).verdict])
        low, high = torch.where(proved, middle, low), torch.where(proved, high, middle)
    return low, high


def lying(monkeypatch: pytest.MonkeyPatch, more: float, narrower: float) -> None:
    """On a device the dual passes return bounds that are too high, and intervals that are too narrow."""
    real = DualPass.in_chunks

    def lied(self: DualPass, query: Any, *others: Any) -> Passed:
        found = real(self, query, *others)
        if query.open.device.type == "cpu":
            return found
        told = {
            node: replace(one, lower=one.lower * narrower, upper=one.upper * narrower)
            for node, one in found.bounds.items()
        }
        return Passed(found.lower + more, Bounds(told), found.exhausted)

    monkeypatch.setattr(DualPass, "in_chunks", lied)


@pytest.mark.parametrize("seed", [0, 1])
def test_beside_the_threshold_verdicts_are_those_of_the_cpu(device, seed: int):
    model, x = small(seed)
    asked = ready(model, x, PAYING)
    low, high = thresholds(asked, len(x))
    assert bool((high - low < 1e-8).all()) and bool((low > 0.001).any())
    with device():
        on_device = ready(model, x, PAYING, ON)
        for eps in (low, high, low * (1 - 1e-6), high * (1 + 1e-6)):
            expected, found = asked(eps), on_device(eps)
            assert list(found.verdict) == list(expected.verdict)
            assert list(found.trust) == list(expected.trust) and set(found.trust) <= {Trust.CHECKED, None}


@pytest.mark.parametrize(("more", "narrower"), [(1.0, 1.0), (0.0, 0.5), (100.0, 0.9), (-0.01, 1.0)])
def test_a_device_that_lies_proves_nothing(device, monkeypatch: pytest.MonkeyPatch, more: float, narrower: float):
    model, x = small(2)
    stages = ["dual", "dual-adaptive"]
    asked = ready(model, x, stages)
    eps = thresholds(asked, len(x))[0] * torch.tensor([0.5, 0.9, 0.999, 1.001, 1.1, 2.0])
    expected = asked(eps)
    assert {*expected.verdict} == {Verdict.VERIFIED, Verdict.UNKNOWN}
    lying(monkeypatch, more, narrower)
    with device():
        found = ready(model, x, stages, ON)(eps)
        for i, verdict in enumerate(found.verdict):
            if verdict is Verdict.VERIFIED:
                assert expected.verdict[i] is Verdict.VERIFIED and found.trust[i] is Trust.CHECKED
                assert found.certificate[i].check().valid
                assert bool((found.margins[i] <= expected.margins[i] + 1e-5).all())
    if more >= 0:
        assert list(found.verdict) == list(expected.verdict)


def test_the_host_does_what_it_would_do_alone(device, monkeypatch: pytest.MonkeyPatch):
    model, (x, y) = network(), held_out_digits()
    x, y = x[:40], y[:40]
    monkeypatch.setattr(Rigour, "examine", None)  # nothing goes through the checker one by one

    def run(where: str) -> tuple[Result, HostWork]:
        verifier = Verifier(model, x, stages=PAYING, device=where)
        with HostWork() as work:
            return verifier.run(LinfBall(x, 0.03, clip=(0, 1)), robustness(y, 10)), work

    expected, alone = run("cpu")
    with device():
        found, beside = run(ON)
    proved = sum(v is Verdict.VERIFIED for v in expected.verdict)
    assert proved >= 20 and list(found.verdict) == list(expected.verdict) and list(found.trust) == list(expected.trust)
    assert 0.5 * alone.flops < beside.flops <= 1.3 * alone.flops
    assert beside.operators <= 1.3 * alone.operators


def test_a_run_says_how_it_was_computed(device):
    x, y = held_out_digits()
    with device():
        report = certify(network(), x[:2], y[:2], 0.02, clip=(0, 1), stages=["interval"], device=ON, progress=False)
    assert "float32 on cuda" in str(report.table().caption) and "CHECKED was proved on the CPU" in str(
        report.table().caption
    )
    on_cpu = certify(network(), x[:2], y[:2], 0.02, clip=(0, 1), stages=["interval"], progress=False)
    assert on_cpu.table().caption is None


def test_a_device_whose_sums_are_wrong_is_not_used(device, monkeypatch: pytest.MonkeyPatch):
    x, _ = held_out_digits()
    with device():
        assert kernels.fault_of(torch.device(ON)) == ""
        monkeypatch.setattr(kernels, "_known_fault", lambda device: "a product in float32: off by 0.1")
        with pytest.raises(InputError, match=r"a product in float32: off by 0.1.*give device='cpu'"):
            verify(network(), x[:1], 0.02, device=ON)
