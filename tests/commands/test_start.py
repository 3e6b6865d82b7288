"""What `verifier vnnlib` loads for an easy instance, and that what it leaves out is there for those who need it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.onnx_files import vnnlib, write_absolute

ROOT = Path(__file__).resolve().parents[2]
#: packages that an instance which bounds alone decide needs nothing of
NOT_NEEDED = {
    "networkx", "sympy", "matplotlib", "scipy", "highspy", "pulp", "typer", "rich", "click", "sqlite3", "pandas",
    "torch._meta_registrations", "torch.distributions", "torch.ao",
    "torch._decomp", "torch._refs", "torch._prims", "torch._dynamo", "torch._inductor",
    "torch.export._trace", "numpy.f2py", "numpy.testing", "training", "verifier.commands.app", "verifier.api",
}  # fmt: skip


def printed(code: str) -> str:
    """What Python code prints last, in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_an_easy_instance_loads_what_it_needs(tmp_path: Path) -> None:
    write_absolute(tmp_path / "net.onnx")
    (tmp_path / "unsat.vnnlib").write_text(vnnlib([("0", "0.5"), ("-0.5", "0.5")], 2, "(>= Y_0 1.5)"))
    files = [str(tmp_path / "net.onnx"), str(tmp_path / "unsat.vnnlib")]
    loaded = json.loads(
        printed(
            "import json, sys; from verifier.commands.vnnlib import run; sys.stdout = sys.stderr;"
            f"assert run({files!r}) == 0; sys.stdout = sys.__stdout__;"
            "print(json.dumps([name for name, module in sys.modules.items() if type(module).__name__ != '_Later']))"
        )
    )
    assert "torch" in loaded and "verifier.stages.interval" in loaded
    assert not NOT_NEEDED & {*loaded, *(name.partition(".")[0] for name in loaded)}


def test_programs_are_exported_after_a_quick_start() -> None:
    code = """
from verifier.commands.torch_start import load_torch
load_torch()
import inspect, sys
import torch
from torch import nn
assert "torch._refs" not in sys.modules and inspect.getmodule(torch.nn) is torch.nn
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(8, 3)).eval()
normal = torch.distributions.Normal(0.0, 1.0)
import torch.ao.quantization as quantization
assert torch.quantization.FakeQuantize is quantization.FakeQuantize and hasattr(torch.ao.nn, "quantized")
from verifier import verify
result = verify(model, torch.rand(2, 1, 4, 4), eps=0.001)
assert "torch._refs" in sys.modules
print(torch._meta_registrations.activate_meta.__name__, len(result.verdict))
"""
    assert printed(code) == "activate_meta 2"


_STRUCK = """
import importlib.abc, os, signal, sys
class Strikes(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numpy.linalg":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Strikes())
{begin}
try:
    import torch
    torch.zeros(1).numpy()
    said = "nothing"
except KeyboardInterrupt:
    said = "interrupted"
except RuntimeError:
    said = "no numpy"
import numpy
print(said, hasattr(numpy, "void"))
"""


def test_ctrl_c_while_libraries_are_loaded_is_heard() -> None:
    begin = "from verifier.commands.whole import loaded_whole; loaded_whole()"
    assert printed(_STRUCK.format(begin=begin)) == "interrupted True"
