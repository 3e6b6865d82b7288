"""`verifier bench --ray`: the table of one machine from a cluster whose workers and nodes are killed, and Ctrl-C."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from helpers.bench_runs import hanging
from helpers.ray_cluster import LocalCluster
from helpers.troubled import STAGES, rows, table, troubled_place
from typer.testing import CliRunner

from verifier.commands.app import app
from verifier.errors import InputError
from verifier.vnncomp.bench import BenchRow, run
from verifier.vnncomp.bench_list import instances_of
from verifier.vnncomp.bench_settings import BenchSettings
from verifier.vnncomp.on_workers import InstanceWork
from verifier.workers.course import LOSSES, WorkerLost, Workers
from verifier.workers.place import Place
from verifier.workers.travel import packed, unpacked

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"hangs": 3, "sat": 30, "unsat": 30, "exits": 30, "killed": 30}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return troubled_place(tmp_path, monkeypatch)


def listed(*names: str) -> None:
    Path("list.csv").write_text("".join(f"net.onnx,{name}.vnnlib,{LIMITS[name]}\n" for name in names))


class Unreliable:
    """Workers of this process, which lose what they are told to before it has come."""

    def __init__(self, work: bytes, losses: list[str]) -> None:
        self.work: InstanceWork = unpacked(work)
        self.work.prepare(1)
        self.losses, self.units, self.names = losses, dict[int, bytes](), itertools.count()

    def capacity(self) -> int:
        return 2

    def start(self, unit: bytes) -> int:
        name = next(self.names)
        self.units[name] = unit
        return name

    def wait(self, handles: Collection[int]) -> Collection[int]:
        return random.Random(0).sample(sorted(handles), len(handles))

    def take(self, handle: int) -> tuple[bytes, bool]:
        unit = unpacked(self.units.pop(handle))
        if unit.instance.name in self.losses:
            self.losses.remove(unit.instance.name)
            raise WorkerLost("its node died")
        found: list[object] = []
        names = ("net.onnx", "weights.bin")
        for name in names:
            shutil.move(name, f"away {name}")
        self.work.do(unit, found.append)
        for name in names:
            shutil.move(f"away {name}", name)
        return packed(found), True


def test_what_workers_lose_is_tried_again_and_files_come_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, from workers without the files: rows and files as they are here, in the list's order."""
    monkeypatch.setattr(Place, "of", classmethod(lambda cls, jobs, executor: cls(ray=True)))
    losses = ["net sat", "net sat", *LOSSES * ["net unsat (2)"]]

    @contextmanager
    def opened(work: bytes) -> Iterator[Workers]:
        workers = Unreliable(work, losses)
        try:
            yield workers
        finally:
            workers.work._processes.stop()

    monkeypatch.setattr(Place, "workers", lambda self, threads=1, cuda=False: opened)
    listed("unsat", "sat", "unsat", "exits")
    onnx = pytest.importorskip("onnx")
    network = onnx.load("net.onnx")
    onnx.save(network, "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert Path("weights.bin").stat().st_size > 0
    settings = BenchSettings(
        Path("out"), stages=STAGES[1], certificates=Path("proofs"), executor="ray:anywhere"
    )  # fmt: skip
    found: list[BenchRow] = run(instances_of(Path("list.csv")), settings)
    assert [(row.name, row.status) for row in found] == [
        ("net unsat", "unsat"), ("net sat", "sat"), ("net unsat (2)", "error"), ("net exits", "error"),
    ]  # fmt: skip
    assert not losses and f"ended {LOSSES} times" in found[2].note and "its node died" in found[2].note
    assert found[3].note.startswith("exit code 7") and not any(row.wrong for row in found)
    assert Path("out/0001 net sat.txt").read_text().startswith("sat\n")
    assert found[0].certificates == "written" and "of 1 case in proofs/net unsat: " in found[0].note
    checked = CliRunner().invoke(app, ["check", "proofs/net unsat", "--strict"])
    assert checked.exit_code == 0, checked.output


def test_a_run_that_finds_no_cluster_may_begin_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(work: bytes) -> Workers:
        raise InputError("there is no Ray cluster at anywhere")

    monkeypatch.setattr(Place, "workers", lambda self, threads=1, cuda=False: nowhere)
    listed("sat")
    for _ in range(2):
        with pytest.raises(InputError, match="no Ray cluster"):
            run(instances_of(Path("list.csv")), BenchSettings(Path("out"), executor="ray:anywhere"))
        assert not list(Path("out").iterdir())


def test_ray_and_jobs_are_not_both(place: Path) -> None:
    listed("sat")
    both = CliRunner().invoke(app, ["bench", "list.csv", "--ray", "auto", "--jobs", "2"])
    assert both.exit_code == 2 and "give --jobs or --ray, not both" in " ".join(both.stderr.split())


@pytest.mark.slow
def test_a_cluster_gives_the_table_of_one_machine(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever instances do, and whatever happens to workers and nodes."""
    pytest.importorskip("ray", reason='Ray is not installed: pip install "rampart-verifier[ray]"')
    listed("unsat", "hangs", "sat", "exits", "killed", "unsat", "sat", "hangs")
    here = CliRunner().invoke(app, ["bench", "list.csv", "--out", "here", "--in-process", *STAGES])
    with LocalCluster(nodes=3) as cluster:
        lost: list[str] = []

        def say(line: str) -> None:
            if "sat in" in line and not lost:
                lost.append(line)
                cluster.lose(cluster.nodes.pop())
                cluster.add()

        settings = BenchSettings(Path("there"), stages=STAGES[1], executor=f"ray:{cluster.address}")
        found = run(instances_of(Path("list.csv")), settings, say)
        again = CliRunner().invoke(
            app, ["bench", "list.csv", "--out", "there", "--resume", "--ray", cluster.address, *STAGES]
        )
    assert here.exit_code == again.exit_code == 2, again.output
    assert lost and table("there") == table("here")
    assert [row.name for row in found] == [one.name for one in instances_of(Path("list.csv"))]
    assert not [line for line in again.stderr.splitlines() if line.startswith("net")], "nothing was left to do"
    counts = [[line.split()[:8] for line in run.stdout.splitlines() if line.startswith("net")] for run in (here, again)]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_of_the_cluster_and_the_run_is_resumed(place: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "rampart-verifier[ray]"')
    Path("list.csv").write_text("net.onnx,sat.vnnlib,600\nnet.onnx,hangs.vnnlib,600\nnet.onnx,unsat.vnnlib,600\n")
    with LocalCluster(nodes=1) as cluster:
        process = hanging("--ray", cluster.address, "--out", "results", *STAGES, seconds=120)
        stuck = psutil.Process(int(Path("hangs").read_text()))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in said, said
        assert [row["name"] for row in rows("results")] == ["net sat"]
        _, alive = psutil.wait_procs([stuck], timeout=10)
        assert all(one.status() == psutil.STATUS_ZOMBIE for one in alive)
        Path("cured").touch()
        resumed = CliRunner().invoke(
            app, ["bench", "list.csv", "--ray", cluster.address, "--out", "results", "--resume", *STAGES]
        )
    assert resumed.exit_code == 0, resumed.output
    assert [row["status"] for row in rows("results")] == ["sat", "sat", "unsat"]
