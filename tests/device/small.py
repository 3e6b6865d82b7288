"""What tests of the device ask about, and how its answers are held against the CPU's."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from verifier import Result, Trust, Verdict
from verifier.testing.networks import RandomNetwork, random_network

#: the device that is asked for
ON = "cuda"


def network(kind: str, batch: int = 2) -> RandomNetwork:
    """In float32, which is what people bring; "one layer" has one hidden layer, for stages that take no other."""
    if kind != "one layer":
        return random_network(kind, batch=batch, dtype=torch.float32)
    net = random_network("dense", batch=batch, dtype=torch.float32)
    last = nn.Linear(8, 4)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) / 3)
    assert isinstance(net.model, nn.Sequential)
    return replace(net, name=kind, model=nn.Sequential(*list(net.model)[:2], last).eval())


def assert_same(found: Result, wanted: Result, rtol: float = 1e-3, atol: float = 1e-3) -> None:
    """Verdicts, trusts and who decided are the same; margins are to what the rounding of float32 is paid with."""
    assert found.verdict == wanted.verdict
    assert found.trust == wanted.trust
    assert found.decided_by == wanted.decided_by
    torch.testing.assert_close(found.margins, wanted.margins, rtol=rtol, atol=atol, equal_nan=True)


def assert_evidence(result: Result) -> None:
    """What was falsified has its point, on the CPU, and certificates pass the checker."""
    for verdict, trust, certificate, point in zip(
        result.verdict, result.trust, result.certificate, result.counterexample, strict=True
    ):
        assert (verdict is Verdict.FALSIFIED) == (point is not None)
        assert point is None or point.device.type == "cpu"
        if certificate is not None and trust is not Trust.PROBABILISTIC:
            assert certificate.check().valid
