"""What people call answers the same wherever the model, the data and the bounds are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import verifier
from device.small import ON, assert_evidence, assert_same, network
from properties import robustness
from verifier import Verdict

#: where the model is, where the data are, where bounds are asked for
PLACES = ((ON, "cpu", None), ("cpu", ON, None), (ON, ON, "cpu"))


@pytest.fixture(params=PLACES, ids=lambda p: "model {}, data {}, bounds {}".format(*p))
def placed(request: pytest.FixtureRequest) -> Callable[..., tuple[nn.Module, Tensor, Tensor, dict[str, Any]]]:
    """A network, inputs and labels where the parameter has them, and what asks for bounds there."""

    def made(kind: str = "dense") -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
        model_at, data_at, bounds_at = request.param
        net = network(kind, 3)
        label = net.model(net.x).argmax(1)
        options = {} if bounds_at is None else {"device": bounds_at}
        return net.model.to(model_at), net.x.to(data_at), label.to(data_at), options

    return made


EPS = 0.05


def test_verify(device, placed):
    net = network("dense", 3)
    wanted = verifier.verify(net.model, net.x, EPS, label=net.model(net.x).argmax(1))
    with device():
        model, x, label, options = placed()
        found = verifier.verify(model, x, EPS, label=label, **options)
        assert_same(found, wanted)
        assert_evidence(found)
        assert_same(verifier.verify(model, x, EPS, spec=robustness(label, 4), **options), wanted)


def test_attack(device, placed):
    net = network("dense", 3)
    label = net.model(net.x).argmax(1)
    wanted = verifier.attack(net.model, net.x, 0.3, label=label, clip=(-2, 2))
    with device():
        model, x, right, _ = placed()
        found = verifier.attack(model, x, 0.3, label=right, clip=(-2, 2))
        assert found.points.device.type == "cpu"
        torch.testing.assert_close(found.points, wanted.points, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.success, wanted.success)


def test_bounds(device, placed):
    net = network("dense", 3)
    wanted = verifier.bounds(net.model, net.x, EPS)
    with device():
        model, x, _, options = placed()
        found = verifier.bounds(model, x, EPS, **options)
        for one, other in ((found.lower, wanted.lower), (found.upper, wanted.upper)):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)


def test_certify(device, placed, tmp_path):
    net = network("dense", 3)
    settings: dict[str, Any] = {"eps": EPS, "progress": False}
    wanted = verifier.certify(net.model, net.x, net.model(net.x).argmax(1), **settings)
    with device():
        model, x, label, options = placed()
        certificates = tmp_path / "certificates"
        found = verifier.certify(model, x, label, certificates=certificates, **settings, **options)
        for key in ("outcome", "trust", "stage"):
            assert [getattr(r, key) for r in found.rows()] == [getattr(r, key) for r in wanted.rows()]
        assert any(certificates.iterdir())


def test_certified_radius(device, placed):
    net = network("dense", 3)
    wanted = verifier.certified_radius(net.model, net.x)
    with device():
        model, x, label, options = placed()
        found = verifier.certified_radius(model, x, label=label, **options)
        torch.testing.assert_close(found.radius.cpu(), wanted.radius, rtol=2e-3, atol=1e-6)


def test_crosscheck_and_questions(device, placed):
    with device():
        model, x, label, options = placed()
        verifier.crosscheck(model, x, EPS, label=label, exact_seconds=0, workers=0).check()
        step = torch.zeros(5)
        assert len(verifier.monotonic(model, x, EPS, shift=step, tolerance=0.1, **options).verdict) == 3
        assert Verdict.FALSIFIED not in verifier.equivalent(model, model, x, EPS, distance=0.5, **options).verdict
        grown = verifier.attack_growing(model, x, [0.01, 0.5], label=label)
        assert grown.radius.shape == (3,)


def test_a_cascade_of_networks(device, placed):
    one = network("dense", 3)
    wanted = verifier.verify(verifier.NetworkCascade((one.model, network("one layer", 3).model), eps=EPS), one.x, EPS)
    with device():
        model, x, _, options = placed()
        cascade = verifier.NetworkCascade(
            (model, network("one layer", 3).model.to(next(model.parameters()).device)), eps=EPS
        )
        assert verifier.verify(cascade, x, EPS, **options).verdict == wanted.verdict
