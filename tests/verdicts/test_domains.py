"""Functions that are not defined everywhere: where bounds leave a domain the answer claims nothing and says where."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.onnx_files import vnnlib
from torch import Tensor, nn
from typer.testing import CliRunner

from verifier import Reason, Trust, Verdict, verify
from verifier.commands.app import app

ROOT = Path(__file__).resolve().parents[2]


class Layers(nn.Module):
    """f of sums of positive inputs, and the values of the first class 5 above those of the second."""

    def __init__(self, function: Callable[[Tensor], Tensor], offset: float = 0.0) -> None:
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, 1.0], [0.5, 0.5]]))
            self.first.bias.fill_(offset)
            self.last.weight.fill_(0.1)
            self.last.bias.copy_(torch.tensor([5.0, 0.0]))
            self.last.weight[1] *= -1

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


#: function, eps that leaves its domain, eps that does not, what is said of it
BEYOND = {
    "log": (torch.log, 0.6, 0.4, r"log\(x\), which has no bounds for x <= 0"),
    "sqrt": (torch.sqrt, 0.6, 0.4, r"sqrt\(x\), which has no bounds for x < 0,"),
    "rsqrt": (torch.rsqrt, 0.6, 0.4, r"1 / sqrt\(x\), which has no bounds for x <= 0"),
    "1 / x": (lambda x: 1 / x, 0.6, 0.4, r"1 / x, which has no bounds for x = 0.*away from 0 by an epsilon"),
    "power": (lambda x: x**1.5, 0.6, 0.4, r"x\^1\.5, which has no bounds for x < 0"),
    "negative power": (lambda x: x**-1.5, 0.6, 0.4, r"x\^-1\.5, which has no bounds for x < "),
    "tan": (torch.tan, 0.4, 0.2, r"tan\(x\), which has no bounds for x < -1\.57 or x > 1\.57.*clamp what it reads"),
    "exp": (lambda x: 1e-36 * torch.exp(80 * x), 0.1, 0.01, r"exp\(x\), which has no bounds for x > 88.*from above"),
}
PROVING = ["interval", "dual", "dual-adaptive", "zonotope"]


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_says_which_domain_is_left_and_where(name: str, dtype: torch.dtype) -> None:
    function, beyond, within, said = BEYOND[name]
    model, x = Layers(function).to(dtype).eval(), torch.full((1, 2), 0.5, dtype=dtype)
    result = verify(model, x, beyond, stages=PROVING)
    assert result.verdict == (Verdict.UNKNOWN,) and result.reason == (Reason.DOMAIN,)
    assert result.margins[0, 1] == -torch.inf
    outside = result.outside[0]
    assert outside is not None and re.search(said, str(outside)) and "take a smaller set (eps)" in str(outside)
    factor = 80 if name == "exp" else 1
    assert outside.lower == pytest.approx(factor * (1 - 2 * beyond), abs=1e-4)
    assert outside.upper == pytest.approx(factor * (1 + 2 * beyond), abs=1e-4)
    result = verify(model, x, within, stages=PROVING)
    assert result.verdict == (Verdict.VERIFIED,) and result.outside == (None,)
    result = verify(model, torch.cat([x, x]), beyond, stages=["clean", "attack"])
    assert result.outside == (None, None)  # nothing was bounded


def test_each_example_has_its_own() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logs, roots = torch.log(x[:, :1]), torch.sqrt(x[:, 1:])
            return torch.cat([5 + logs, -roots], 1)

    x = torch.tensor([[1.0, 1.0], [0.3, 1.0], [1.0, 0.3]])
    result = verify(Two().eval(), x, 0.5, stages=PROVING)
    assert result.verdict == (Verdict.VERIFIED, Verdict.UNKNOWN, Verdict.UNKNOWN)
    assert [o and o.function for o in result.outside] == [None, "log(x)", "sqrt(x)"]
    assert [o and o.lower for o in result.outside[1:]] == [pytest.approx(-0.2), pytest.approx(-0.2)]


class Later(nn.Module):
    """log(relu(s) - relu(s) + 0.5) of one sum s by two neurons: intervals lose that the two are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(1, 2)
        with torch.no_grad():
            self.first.weight.fill_(1.0), self.first.bias.fill_(1.0)
            self.second.weight.copy_(torch.tensor([[1.0, -1.0]])), self.second.bias.fill_(0.5)
            self.last.weight.copy_(torch.tensor([[1.0], [0.0]])), self.last.bias.copy_(torch.tensor([2.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.log(self.second(torch.relu(self.first(x)))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stage", [None, "dual", "dual-optimised", "zonotope"])
def test_tighter_bounds_of_a_later_stage_may_stay_within(stage: str | None, dtype: torch.dtype) -> None:
    x = torch.zeros(1, 2)
    first = verify(Later().eval(), x, 0.4, stages=["interval"], dtype=dtype)
    assert first.reason == (Reason.DOMAIN,) and first.outside[0] is not None and first.outside[0].lower < 0
    later = verify(Later().eval(), x, 0.4, stages=None if stage is None else ["interval", stage], dtype=dtype)
    assert later.verdict == (Verdict.VERIFIED,) and later.outside == (None,) and later.trust == (Trust.CHECKED,)


def test_a_counterexample_is_one_all_the_same() -> None:
    result = verify(Layers(torch.log).eval(), torch.full((1, 2), 0.5), 0.6, label=[1])
    assert result.verdict == (Verdict.FALSIFIED,) and result.outside == (None,)


def test_a_union_says_it_of_the_member_that_is_open() -> None:
    result = verify(Layers(torch.log).eval(), torch.full((1, 2), 0.5), 0.1, threat="linf+9*l2", stages=PROVING)
    assert result.reason == (Reason.DOMAIN,) and result.outside[0] is not None
    assert result.outside[0].lower == pytest.approx(1 - 0.9 * 2**0.5, abs=1e-4)


def test_spent_time_leaves_its_own_reason_and_the_place_is_told() -> None:
    result = verify(
        Layers(lambda x: 1e-36 * torch.exp(80 * x)).eval(), torch.full((1, 2), 0.5), 0.3, example_budget=0.5
    )
    assert result.reason[0] in (Reason.BUDGET, Reason.DOMAIN)
    assert result.outside[0] is not None and result.outside[0].function == "exp(x)"


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
    def forward(self, x):
        return self.last(torch.log(self.first(x)))
"""


def test_a_run_shows_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("lognet.py").write_text(FACTORY)
    safetensors.torch.save_file(Layers(torch.log).state_dict(), "w.safetensors")
    np.savez("test.npz", images=np.full((2, 2), 0.5, np.float32), labels=np.zeros(2, np.int64))
    run = ["certify", "--model", "lognet:Net", "--weights", "w.safetensors", "--data", "test.npz", "--eps", "0.6"]
    found = CliRunner().invoke(app, [*run, "--out", "run.sqlite", "--stages", ",".join(PROVING), "--clip", "none"])
    assert found.exit_code == 0, found.output
    shown = CliRunner().invoke(app, ["show", "run.sqlite", "--failures"])
    assert shown.exit_code == 0 and re.search(r"unknown .*log\(x\), which has no bounds for x <= 0", shown.stdout)


def test_an_instance_tells_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Log", ["x"], ["y"], name="the_log")], "logs", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(tmp_path / "log.onnx"))
    (tmp_path / "p.vnnlib").write_text(vnnlib([("-0.5", "1"), ("0.5", "1")], 2, "(>= Y_0 0.5)"))
    arguments = ["vnnlib", "log.onnx", "p.vnnlib", "--stages", ",".join(PROVING)]
    done = subprocess.run(
        [sys.executable, "-m", "verifier", *arguments], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == "unknown", done.stderr
    assert re.search(r"outside of a function's domain; .*Log.*log\(x\), which has no bounds for x <= 0", done.stderr)
    assert "[-0.5, 1]" in done.stderr
