"""`verifier bench --in-process`: hard limits, crashes, Ctrl-C, and instances that know nothing of each other."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers.onnx_files import vnnlib, write_absolute
from typer.testing import CliRunner

from verifier.commands.app import app

ROOT = Path(__file__).resolve().parents[2]
#: a stage of another distribution, which does what the first input of the box says
TROUBLE = '''
import ctypes
import os
import signal
from pathlib import Path

import torch

from verifier.stages import Stage, StageReport, register

RUNS = []


@register
class Trouble(Stage):
    """Hangs where nothing but a kill helps, or ends its process; sees whether another instance was here before."""

    name = "trouble"
    trust = None

    def supports(self, query):
        return True

    def run(self, query, bounds, budget):
        asked = int(query.inputs.center().flatten()[0])
        if RUNS or torch.initial_seed() == 1:
            raise RuntimeError("an instance left something behind")
        RUNS.append(asked)
        torch.manual_seed(1)
        torch.set_num_threads(3)
        if asked == 10 and not Path("cured").exists():
            Path("hangs").write_text(str(os.getpid()))
            ctypes.PyDLL(None).sleep(1000)  # holds Python's lock: no thread of the process can end it
        if asked == 20:
            os._exit(7)
        if asked == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return StageReport()
'''
STAGES = ("--stages", "trouble,attack,dual-adaptive")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of instances, and a distribution with the stage that everybody who is started from here finds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trouble.py").write_text(TROUBLE)
    (tmp_path / "trouble-1.0.dist-info").mkdir()
    (tmp_path / "trouble-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: trouble\nVersion: 1.0\n")
    (tmp_path / "trouble-1.0.dist-info" / "entry_points.txt").write_text("[verifier.stages]\ntrouble = trouble\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    write_absolute(tmp_path / "net.onnx")
    for name, first, constraint in (
        ("sat", 0, "(>= Y_0 0.5)"), ("unsat", 0, "(>= Y_0 9.5)"), ("hangs", 10, "(>= Y_0 0.5)"),
        ("exits", 20, "(>= Y_0 0.5)"), ("killed", 30, "(>= Y_0 0.5)"),
    ):  # fmt: skip
        box = [(str(first), f"{first}.5"), ("-0.5", "0.5")]
        (tmp_path / f"{name}.vnnlib").write_text(vnnlib(box, 2, constraint))
    return tmp_path


def rows(folder: str) -> list[dict[str, str]]:
    with (Path(folder) / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(folder: str) -> dict[str, tuple[str, str]]:
    """What became of each instance, without what a note says of wall time."""
    return {row["name"]: (row["status"], re.sub(r"[\d.]+ s\b", "", row["note"])) for row in rows(folder)}


def test_whatever_an_instance_does_it_gets_a_row_and_the_others_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifier.vnncomp.bench.GRACE", 0.5)
    names = ("unsat", "hangs", "sat", "exits", "killed", "unsat")
    limits = {"hangs": 3, "sat": 30, "unsat": 30, "exits": 30, "killed": 30}
    Path("list.csv").write_text("".join(f"net.onnx,{name}.vnnlib,{limits[name]}\n" for name in names))
    for jobs in ("1", "2"):
        run = CliRunner().invoke(app, ["bench", "list.csv", "--out", jobs, "--jobs", jobs, "--in-process", *STAGES])
        assert run.exit_code == 2, run.output  # there are errors
    assert table("1") == table("2")
    assert {name: status for name, (status, _) in table("1").items()} == {
        "net unsat": "unsat", "net hangs": "timeout", "net sat": "sat", "net exits": "error", "net killed": "error",
        "net unsat (2)": "unsat",
    }  # fmt: skip
    notes = {name: note for name, (_, note) in table("1").items()}
    assert notes["net hangs"] == "killed: it did not end by itself"
    assert notes["net exits"].startswith("exit code 7")
    assert notes["net killed"].startswith("ended by signal 9, perhaps for want of memory")
    assert all(float(row["seconds"]) < 15 for row in rows("1"))


def test_ctrl_c_ends_all_processes_and_the_run_is_resumed(place: Path) -> None:
    Path("list.csv").write_text("net.onnx,sat.vnnlib,600\nnet.onnx,hangs.vnnlib,600\nnet.onnx,unsat.vnnlib,600\n")
    command = [sys.executable, "-m", "verifier", "bench", "list.csv", "--in-process", "--out", "results", *STAGES]
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (Path("hangs").exists() and Path("hangs").read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True)
    assert int(Path("hangs").read_text()) in [child.pid for child in started]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert [row["name"] for row in rows("results")] == ["net sat"]
    _, alive = psutil.wait_procs(started, timeout=10)
    assert all(child.status() == psutil.STATUS_ZOMBIE for child in alive)  # where nobody buries orphans
    Path("cured").touch()
    resumed = CliRunner().invoke(app, ["bench", "list.csv", "--in-process", "--out", "results", "--resume", *STAGES])
    assert resumed.exit_code == 0, resumed.output
    assert [line.partition(":")[0] for line in resumed.stderr.splitlines()] == ["net hangs", "net unsat"]
    assert [row["status"] for row in rows("results")] == ["sat", "sat", "unsat"]
