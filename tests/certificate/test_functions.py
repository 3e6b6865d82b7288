"""Certificates of networks with functions of one variable: made by default, accepted, and of slopes of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifier import Trust, Verdict, verify
from verifier.checker import lines
from verifier.checker.backward import NodeRanges
from verifier.checker.network import CanonicalNetwork, CanonicalNode
from verifier.checker.sdp import bounds
from verifier.stages.branch import BranchStage

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "sin": torch.sin, "cos": torch.cos, "atan": torch.atan, "erf": torch.erf,
    "square": torch.square, "cube": lambda x: (1 + torch.sigmoid(x)) ** 3, "tan": lambda x: torch.tan(torch.tanh(x)),
    **{n: lambda x, n=n: getattr(torch, n)(1 + torch.sigmoid(x)) for n in ("log", "reciprocal", "sqrt", "rsqrt")},
    "power": lambda x: (1 + torch.sigmoid(x)) ** 1.7, "gelu": F.gelu, "silu": F.silu, "mish": F.mish,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "elu": lambda x: F.elu(x, 0.8), "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7), "softsign": F.softsign, "tanhshrink": F.tanhshrink, "hardswish": F.hardswish,
    "logsigmoid": F.logsigmoid,
}  # fmt: skip


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return self.function(x)


def network(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    between = Between(FUNCTIONS[name])
    return nn.Sequential(nn.Linear(4, 8), between, nn.Linear(8, 6), between, nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("semantics", ["real", "float32"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_verified_is_checked(name: str, semantics: str) -> None:
    model = network(name)
    x = torch.rand(1, 4)
    result = verify(model, x, eps=0.002, label=model(x).argmax(1), semantics=semantics)
    assert result.verdict[0] is Verdict.VERIFIED and result.trust[0] is Trust.CHECKED
    assert result.certificate[0].check().valid


@pytest.mark.parametrize("name", ["gelu", "sin", "exp", "reciprocal"])
def test_a_wrong_claim_has_no_certificate(name: str) -> None:
    model = network(name)
    x = torch.rand(1, 4)
    wrong = (model(x).argmax(1) + 1) % 3
    result = verify(model, x, eps=0.002, label=wrong)
    assert result.verdict[0] is not Verdict.VERIFIED


@pytest.mark.parametrize("stage", ["dual", "dual-adaptive", "dual-optimised", "zonotope"])
@pytest.mark.parametrize("name", ["gelu", "sin", "exp", "log"])
def test_evidence_of_batched_stages_makes_certificates(name: str, stage: str) -> None:
    model = network(name)
    x = torch.rand(1, 4)
    result = verify(model, x, eps=0.01, label=model(x).argmax(1), stages=[stage])
    assert result.verdict[0] is Verdict.VERIFIED and result.trust[0] is Trust.CHECKED


def test_slopes_that_hang_on_an_interval_are_no_bytes() -> None:
    node, ends = CanonicalNode("exp", (0,), 2, {}, {}), (np.zeros((1, 2)), np.ones((1, 2)))
    given = {"neurons": np.array([0]), "slopes": np.array([[[128]]], np.uint8)}
    with pytest.raises(ValueError, match="no bytes"):
        lines.own(node, *ends, given)
    below, b, _, _ = lines.own(node, *ends, {**given, "slopes": np.array([[[1.5]]], np.float16)})
    assert below[0, 0, 0] == 1.5 and abs(b[0, 0, 0] - (1.5 - 1.5 * np.log(1.5))) < 1e-12


def test_semidefinite_proofs_are_of_other_functions() -> None:
    nodes = (
        CanonicalNode("input", (), 2, {}, {}), CanonicalNode("matrix", (0,), 2, {"weight": np.eye(2)}, {}),
        CanonicalNode("gelu", (1,), 2, {}, {}), CanonicalNode("matrix", (2,), 2, {"weight": np.eye(2)}, {}),
    )  # fmt: skip
    ranges = NodeRanges(CanonicalNetwork(nodes), -np.ones((1, 2)), np.ones((1, 2)), False)
    with pytest.raises(ValueError, match="semidefinite"):
        bounds(ranges, {"left": np.ones((1, 3)), "right": np.ones((1, 2))}, np.ones((1, 2)))


@pytest.mark.parametrize(
    ("name", "which", "eps", "stage"),
    [
        pytest.param("gelu", 0, 0.1739, "branch-input", marks=pytest.mark.slow),
        ("exp", 3, 0.4, "branch-input"), ("square", 2, 0.15, "branch-input"),
        ("square", 2, 0.15, BranchStage(smooth=True)),
    ],
)  # fmt: skip
def test_trees_of_cases_make_certificates(name: str, which: int, eps: float, stage: str | BranchStage) -> None:
    """Where no bound without cases is enough."""
    model = network(name)
    x = torch.rand(4, 4)[which : which + 1]
    label = model(x).argmax(1)
    assert not verify(model, x, eps=eps, label=label, stages=["dual-optimised"]).verified[0]
    result = verify(model, x, eps=eps, label=label, stages=[stage], example_budget=20)
    assert result.verdict[0] is Verdict.VERIFIED and result.trust[0] is Trust.CHECKED
    assert result.certificate[0].check().valid
