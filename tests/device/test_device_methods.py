"""Every attack and every way to bound finds on the device what it finds on the CPU; so do the commands."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import verifier
from device.small import ON, network
from verifier.attacks import REGISTRY as ATTACKS
from verifier.attacks import make
from verifier.certification import Report
from verifier.commands.app import app

EPS = 0.05


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack(device, name: str):
    net = network("one layer", 3)
    label = net.model(net.x).argmax(1)
    wanted = verifier.attack(net.model, net.x, 0.2, label=label, method=make(name))
    with device():
        there = network("one layer", 3).model.to(ON)
        found = verifier.attack(there, net.x, 0.2, label=label, method=make(name))
        torch.testing.assert_close(found.margins, wanted.margins, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["interval", "dual-forward", "crown", "alpha-crown", "zonotope", "lp"])
def test_every_way_to_bound(device, method: str):
    net = network("dense")
    wanted = verifier.bounds(net.model, net.x, 0.01, method, of="all")
    with device():
        found = verifier.bounds(net.model, net.x, 0.01, method, of="all", device=ON)
        assert list(found) == list(wanted)
        assert all(trust <= on_cpu for trust, on_cpu in zip(found.trust, wanted.trust, strict=True))
        for name, one in found.items():
            torch.testing.assert_close(one.lower.cpu(), wanted[name].lower, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(one.upper.cpu(), wanted[name].upper, rtol=1e-4, atol=1e-4)


def test_bounds_that_gradients_flow_through(device):
    net = network("dense")
    with device():
        model, x = net.model.to(ON), net.x.to(ON)
        verifier.bounds(model, x, EPS, differentiable=True).lower.sum().backward()
        assert all(p.grad is not None and p.grad.is_cuda for p in list(model.parameters())[:-1])


def test_an_exact_range(device):
    net = network("one layer", 1)
    wanted = verifier.exact_range(net.model, net.x, EPS)
    with device():
        found = verifier.exact_range(net.model, net.x, EPS, device=ON)
        torch.testing.assert_close(found.lower, wanted.lower)


FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4))
"""


def test_the_commands(device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "netofdevice.py").write_text(FACTORY)
    net = network("dense", 4)
    labels = net.model(net.x).argmax(1)
    safetensors.torch.save_file(net.model.state_dict(), "w.safetensors")
    np.savez("data.npz", images=net.x.numpy(), labels=labels.numpy())
    given = "--model netofdevice:net --weights w.safetensors --data data.npz"
    wanted = verifier.certify(net.model, net.x, labels, 0.05, progress=False)

    def called(line: str) -> str:
        result = CliRunner().invoke(app, line.split())
        assert result.exit_code == 0, result.stderr
        return result.stdout

    with device():
        called(f"certify {given} --eps 0.05 --device cuda --out run.sqlite --certificates kept")
        outcomes = [r.outcome for r in Report.open("run.sqlite").rows()]
        assert outcomes == [r.outcome for r in wanted.rows()]
        called("check kept")
        for command in ("verify --index 0 --eps 0.05", "bounds --indices 0:1 --eps 0.05", "radius"):
            called(f"{command} {given} --device cuda")
