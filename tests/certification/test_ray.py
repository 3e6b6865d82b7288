"""`certify(..., executor="ray")` on a real cluster of several nodes, whose workers and nodes are killed at work."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_mlp
from helpers.ray_cluster import ROOT, LocalCluster
from helpers.reports import assert_equal
from helpers.slow_stages import Dawdling, Deadly
from typer.testing import CliRunner

from verifier import certify
from verifier.certification import ExampleOutcome, Report
from verifier.certification.progress import Tally
from verifier.commands.app import app
from verifier.demo import held_out_digits
from verifier.errors import InputError

pytest.importorskip("ray", reason='Ray is not installed: pip install "rampart-verifier[ray]"')

STAGES = ["clean", "interval", "attack", Dawdling(0.05), "dual", "branch"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=2) as started:
        yield started


def run(examples: int, **options: Any) -> Report:
    images, labels = labelled(small_mlp(), (12,), examples)
    return certify(small_mlp(), images, labels, **{"eps": 0.05, "progress": False, "stages": STAGES, **options})


def killer(cluster: LocalCluster, kills: int, luck: random.Random, killed: list[int]) -> Callable[[Tally], None]:
    """A listener that kills a worker now and then."""
    last = [0]

    def listen(tally: Tally) -> None:
        if len(killed) < kills and tally.done > last[0] + 2 and (victims := cluster.at_work()):
            victim = luck.choice(victims)
            victim.kill()
            killed.append(victim.pid)
            last[0] = tally.done + luck.randrange(4)

    return listen


@pytest.mark.slow  # what is tried again is the same with the processes of test_jobs.py, which is not
@pytest.mark.parametrize(("kills", "examples"), [(1, 24), (20, 400)])
def test_killed_workers_lose_nothing(cluster: LocalCluster, tmp_path: Path, kills: int, examples: int) -> None:
    expected = run(examples)
    killed: list[int] = []
    found = run(
        examples, executor=f"ray:{cluster.address}", store=tmp_path / "run.sqlite",
        progress=killer(cluster, kills, random.Random(0), killed),
    )  # fmt: skip
    assert len(killed) == kills
    assert_equal(found, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]


@pytest.mark.slow
def test_nodes_die_and_join(cluster: LocalCluster) -> None:
    expected = run(200)
    nodes = list(cluster.nodes)
    waiting = [(80, lambda: nodes.append(cluster.add())), (60, lambda: cluster.lose(nodes.pop()))]

    def listen(tally: Tally) -> None:
        if waiting and tally.done >= waiting[-1][0]:
            waiting.pop()[1]()

    assert_equal(run(200, executor=f"ray:{cluster.address}", progress=listen), expected)
    assert not waiting
    cluster.nodes[:] = nodes


@pytest.mark.slow
def test_a_sweep_keeps_its_workers(cluster: LocalCluster, tmp_path: Path) -> None:
    """Also over a worker that is killed between two radii."""
    images, labels = labelled(small_mlp(), (12,), 40)
    asked = {"eps": [0.02, 0.05, 0.1], "stages": STAGES, "progress": False}
    killed: list[int] = []
    found = certify(
        small_mlp(), images, labels, **{**asked, "progress": killer(cluster, 2, random.Random(0), killed)},
        executor=f"ray:{cluster.address}", store=tmp_path / "sweep",
    )  # fmt: skip
    expected = certify(small_mlp(), images, labels, **asked)
    assert found.eps == expected.eps and len(killed) == 2
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


@pytest.mark.slow
def test_an_example_that_ends_its_workers_becomes_an_error(cluster: LocalCluster) -> None:
    images, labels = labelled(small_mlp(), (12,), 20)
    images[7, 0] = 5.0
    stages = [Deadly(), "clean", "dual"]
    report = certify(
        small_mlp(), images, labels, eps=0.05, stages=stages, executor=f"ray:{cluster.address}", progress=False
    )
    errors = [e for e in report.rows() if e.outcome is ExampleOutcome.ERROR]
    assert [e.index for e in errors] == [7] and "ended 3 times" in str(errors[0].error) and len(report.rows()) == 20


@pytest.mark.slow
def test_a_killed_driver_loses_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    """The command on the cluster, ended by Ctrl-C, then by kill -9, then left to its end."""
    images, labels = labelled(small_mlp(), (12,), 1500)
    torch.export.save(
        torch.export.export(small_mlp(), (images[:2],), dynamic_shapes=({0: torch.export.Dim.AUTO},)),
        tmp_path / "net.pt2",
    )
    np.savez(tmp_path / "data.npz", images=images.numpy(), labels=labels.numpy())
    names = ["clean", "dual", "attack", "branch"]
    command = [
        sys.executable, "-m", "verifier", "certify", "--model", "net.pt2", "--data", "data.npz", "--eps", "0.06",
        "--stages", ",".join(names), "--batch-size", "50", "--out", "run.sqlite", "--resume", "--quiet",
        "--ray", cluster.address,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    store, before = tmp_path / "run.sqlite", 0
    for ending, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        while rows(store) <= before and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(ending)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == code, said
        assert ending is signal.SIGKILL or "--resume) continues the run" in said
        assert rows(store) > before
        before = rows(store)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = Report.open(store)
    assert len(report.meta["sessions"]) == 3 and report.complete
    assert_equal(report, certify(small_mlp(), images, labels, eps=0.06, stages=names, batch_size=50, progress=False))
    deadline = time.monotonic() + 30
    while cluster.at_work() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not cluster.at_work(), "tasks of a driver that is gone are ended"


def rows(store: Path) -> int:
    return len(Report.open(store).rows()) if store.exists() and store.stat().st_size > 0 else 0


def test_what_is_not_there_is_said(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no Ray cluster at nonsense"):
        run(4, executor="ray:nonsense", store=tmp_path / "run.sqlite")
    assert not list(tmp_path.iterdir()), "an empty store would keep the next try from beginning"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray is not installed.*rampart-verifier\[ray\]"):
        run(4, executor="ray")


@pytest.mark.slow
def test_the_commands_of_the_guide(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need a cluster; the others run with all of the documentation."""
    page = (ROOT / "docs" / "guide" / "many-machines.md").read_text(encoding="utf-8")
    commands = [line.removeprefix("$ verifier ") for line in page.splitlines() if "--ray" in line and line[0] == "$"]
    assert commands
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)  # what `auto` looks for first
    images, labels = held_out_digits()
    np.savez("digits.npz", images=images[:60].numpy(), labels=labels[:60].numpy())
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == 0 and "in all" in done.output, done.output
    assert Report.open("ray.sqlite").complete
