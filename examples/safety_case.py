"""A safety case in CI: from a folder of ONNX and VNN-LIB files to answers whose certificates are checked.

    python examples/safety_case.py --folder safety --out case

A network decides whether a car brakes, coasts or accelerates, from its distance to the car ahead and its speed. Each
property in the folder describes what must never happen: unsat means that it cannot. Without a folder that is there, one
is made, with a small network that is trained on the rule, and three properties. Then, as a job of CI would:

1. `verifier vnnlib FOLDER --expect unsat` decides every property of every network, and writes certificates of what is
   proved, JUnit XML for the machine and JSON for everybody else;
2. `verifier check --model --property` checks each proof with the independent checker, against both of its files;
3. `verifier report` writes page.html for people: every answer, and what the checker says of each proof (with the extra
   `report`);
4. the summary is printed. The exit code is the first command's that is not 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: (distance, speed), both from 0 to 1 -> what must never happen there; Y_0 is braking, Y_1 coasting, Y_2 accelerating
PROPERTIES = {
    "brakes_when_near_and_fast": ((0.0, 0.15), (0.7, 1.0), "(or (>= Y_1 Y_0) (>= Y_2 Y_0))"),
    "never_accelerates_when_near": ((0.0, 0.1), (0.2, 1.0), "(and (>= Y_2 Y_0) (>= Y_2 Y_1))"),
    "never_brakes_when_far_and_slow": ((0.8, 1.0), (0.0, 0.3), "(and (>= Y_0 Y_1) (>= Y_0 Y_2))"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the folder where there is none, decides and checks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("safety"), help="networks and properties")
    parser.add_argument("--out", type=Path, default=Path("case"), help="folder for everything that is found")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each property")
    options = parser.parse_args(arguments)
    if not options.folder.exists():
        make(options.folder)
    options.out.mkdir(parents=True, exist_ok=True)
    code = decide(options.folder, options.out, options.timeout)
    answers = json.loads((options.out / "answers.json").read_text(encoding="utf-8"))
    for case in answers["cases"]:
        checked = check(case, options.out) if case["outcome"] == "unsat" else None
        said = {None: "", 0: "certificate checked"}.get(checked, "CERTIFICATE NOT VALID")
        print(f"{case['outcome']:8} {case['name']:50} {case['seconds']:6.2f} s  {said}")
        code = code or checked or 0
    written = page(options.out)
    code = code or written
    for expectation in answers["expectations"]:
        print(f"{expectation['name']}: {'met' if expectation['met'] else 'NOT MET'}: {expectation['message']}")
    return code


def decide(folder: Path, out: Path, timeout: float) -> int:
    """Every property of every network, into answers.json, junit.xml, results/ and certificates/ of `out`."""
    return verifier(
        "vnnlib", folder, "--expect", "unsat", "--timeout", timeout, "--quiet",
        "--certificates", out / "certificates", "--out", out / "results", "--junit", out / "junit.xml",
        "--json", out / "answers.json",
    )  # fmt: skip


def check(case: dict[str, Any], out: Path) -> int:
    """The certificates of one proof, against the files of its network and its property; JUnit XML beside them."""
    place, files = out / "certificates" / case["name"], case["details"]
    about = ("--model", files["networks"]["network"], "--property", files["property"])
    return verifier("check", place, *about, "--strict", "--quiet", "--junit", place / "junit.xml")


def page(out: Path) -> int:
    """The page on all answers, with the certificates checked once more while it is made."""
    certificates = ("--certificates", out / "certificates") if any(out.glob("certificates/*/")) else ()
    return verifier("report", out / "results", *certificates, "--out", out / "page.html")


def verifier(*arguments: object) -> int:
    """What a shell would run; the exit code."""
    command = [sys.executable, "-m", "verifier", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


def make(folder: Path) -> None:
    """A network that has learnt the rule, and its properties."""
    folder.mkdir(parents=True)
    write_network(folder / "driver.onnx", learnt())
    for name, (distance, speed, never) in PROPERTIES.items():
        (folder / f"{name}.vnnlib").write_text(vnnlib((distance, speed), never), encoding="utf-8")


def rule(x: Tensor) -> Tensor:  # [N, 2] -> [N]
    """Brake within the stopping distance, accelerate where there is much more room, and coast between the two."""
    room = x[:, 0] - x[:, 1].square()
    return torch.where(room < 0.1, 0, torch.where(room > 0.5, 2, 1))


def learnt() -> nn.Sequential:
    """Trained on random situations, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
        x = torch.rand(2000, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        F.cross_entropy(model(x), rule(x)).backward()
        optimiser.step()
    return model.eval()


def write_network(path: Path, model: nn.Sequential) -> None:
    """The model as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, last = [], [], "x"
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            for name, value in ((f"w{i}", layer.weight), (f"b{i}", layer.bias)):
                weights.append(numpy_helper.from_array(np.ascontiguousarray(value.detach().numpy()), name))
            nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"y{i}"], transB=1))
        else:
            nodes.append(helper.make_node("Relu", [last], [f"y{i}"]))
        last = f"y{i}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, size]) for n, size in (("x", 2), (last, 3))]
    graph = helper.make_graph(nodes, "driver", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def vnnlib(inputs: Sequence[tuple[float, float]], never: str) -> str:
    """A property: the interval of every input, and what must never happen there."""
    lines = [f"(declare-const {name}_{i} Real)" for name, size in (("X", 2), ("Y", 3)) for i in range(size)]
    lines += [f"(assert (and (>= X_{i} {low}) (<= X_{i} {high})))" for i, (low, high) in enumerate(inputs)]
    return "\n".join([*lines, f"(assert {never})"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
