"""Every stage decides on the device what it decides on the CPU, with the same trust."""

from __future__ import annotations

import pytest

from device.small import ON, assert_evidence, assert_same, network
from verifier import Result, verify
from verifier.stages import REGISTRY

#: kinds of networks, and shares of their radius at which stages prove one thing and leave, or refute, another
ASKED = (("one layer", 1.0), ("residual", 0.1), ("sigmoid", 3.0))
#: bounds that prove little
LOOSE = {"frobenius": 0.05, "spectral": 0.05, "sdp": 0.05}


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_verdicts_and_trusts_are_those_of_the_cpu(device, name: str):
    for kind, share in ASKED:
        if name == "attack" and kind != "one layer":
            continue  # the longest of them, and the same code
        net = network(kind)

        def asked(where: str | None, net=net, share: float = share) -> Result:
            label = net.model(net.x).argmax(1)
            eps = LOOSE.get(name, share) * net.eps
            return verify(net.model, net.x, eps, label=label, stages=[name], device=where)

        wanted = asked(None)
        with device():
            found = asked(ON)
            assert_same(found, wanted)
            assert_evidence(found)


def test_the_whole_ladder_is_that_of_the_cpu(device):
    for kind, share in (("gated", 0.3), ("max pool", 1.0)):
        net = network(kind)
        wanted = verify(net.model, net.x, share * net.eps)
        with device():
            found = verify(net.model, net.x, share * net.eps, device=ON)
            assert_same(found, wanted, rtol=1e-2, atol=5e-3)  # roundings add up over the stages that left them open
            assert_evidence(found)
