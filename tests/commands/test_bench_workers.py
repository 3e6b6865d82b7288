"""`verifier bench --in-process`: hard limits, crashes, Ctrl-C, and instances that know nothing of each other."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from helpers.bench_runs import hanging
from helpers.troubled import STAGES, rows, table, troubled_place
from typer.testing import CliRunner

from verifier.commands.app import app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return troubled_place(tmp_path, monkeypatch)


def test_whatever_an_instance_does_it_gets_a_row_and_the_others_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifier.vnncomp.processes.GRACE", 0.5)
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
    process = hanging("--in-process", "--out", "results", *STAGES)
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
