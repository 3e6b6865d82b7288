"""What is decided is on the disk within seconds, example by example, whatever the run is at."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import labelled, small_mlp
from helpers.ray_cluster import LocalCluster
from helpers.reports import assert_equal
from helpers.stages import Waiting

from verifier.certification import ExampleOutcome, Report, Store, certify
from verifier.certification.progress import Tally
from verifier.checker.audit import NETWORK, audit, certificates_in
from verifier.checker.document import read_network
from verifier.errors import StoreError

EXAMPLES, EPS = 40, 0.05


def run(folder: Path, name: str, workers: dict[str, Any] | None = None) -> Report:
    """All examples as one batch; the last stage waits while there is a file `wait`."""
    torch.set_num_threads(1)
    model = small_mlp()
    images, labels = labelled(model, (12,), EXAMPLES)
    stages = ["clean", "interval", "dual", "attack", Waiting(folder / "wait", folder / "waits")]
    return certify(
        model, images, labels, eps=EPS, store=folder / f"{name}.sqlite", certificates=folder / name, resume=True,
        stages=stages, batch_size=EXAMPLES, progress=False, **(workers or {}),
    )  # fmt: skip


@contextmanager
def working(where: str) -> Iterator[dict[str, Any]]:
    """What `certify` is told of its workers."""
    if where == "Ray":
        pytest.importorskip("ray", reason='Ray is not installed: pip install "rampart-verifier[ray]"')
        with LocalCluster(nodes=2) as cluster:
            yield {"executor": f"ray:{cluster.address}"}
    else:
        yield {"jobs": 2} if where == "processes" else {}


def decided(store: Path) -> set[int]:
    return {e.index for e in Report.open(store).rows()}


@pytest.mark.parametrize(
    "where", ["here", pytest.param("processes", marks=pytest.mark.slow), pytest.param("Ray", marks=pytest.mark.slow)]
)
def test_killed_within_a_batch(tmp_path: Path, where: str) -> None:
    """What is decided has its row, each VERIFIED its certificate; the run that goes on ends in the undisturbed one.

    Workers elsewhere hand over what is decided while they work on.
    """
    with working(where) as workers:
        _killed_within_a_batch(tmp_path, workers)


def _killed_within_a_batch(tmp_path: Path, workers: dict[str, Any]) -> None:
    expected = run(tmp_path, "undisturbed")
    sure = {e.index for e in expected.rows() if e.outcome is not ExampleOutcome.UNKNOWN}
    assert 0 < len(sure) < EXAMPLES
    (tmp_path / "wait").touch()
    session = multiprocessing.get_context("spawn").Process(target=run, args=(tmp_path, "killed", workers))
    session.start()
    store, began = tmp_path / "killed.sqlite", time.monotonic()
    while not (tmp_path / "waits").exists() or decided(store) < sure:
        assert session.is_alive() and time.monotonic() - began < 120
        time.sleep(0.1)
    session.kill()
    session.join(60)
    assert session.exitcode == -signal.SIGKILL and decided(store) == sure
    proved = {e.index for e in expected.rows() if e.outcome is ExampleOutcome.VERIFIED}
    assert {int(path.stem) for path in (tmp_path / "killed").glob("*.cert")} == proved
    (tmp_path / "wait").unlink()
    assert_equal(run(tmp_path, "killed", workers), expected)
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("killed", "undisturbed")]
    assert names[0] == names[1]
    network = read_network(tmp_path / "killed" / NETWORK)
    assert all(one.valid for one in audit(certificates_in([tmp_path / "killed"]), network))


def test_a_disk_that_fails_meanwhile_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is by another thread than the work: what it raises is raised where the run was called."""
    failed = threading.Event()

    def failing(self: Store, *_: Any, **__: Any) -> None:
        failed.set()
        raise StoreError("the disk is full")

    def listen(tally: Tally) -> None:
        if tally.done == 3:
            assert failed.wait(60)
            time.sleep(0.2)

    monkeypatch.setattr("verifier.certification.writer.PATIENCE", 0.01)
    monkeypatch.setattr(Store, "write", failing)
    model = small_mlp()
    images, labels = labelled(model, (12,), EXAMPLES)
    before = threading.active_count()
    with pytest.raises(StoreError, match="the disk is full"):
        certify(model, images, labels, EPS, store=tmp_path / "run.sqlite", progress=listen, stages=["clean", "dual"])
    assert Report.open(tmp_path / "run.sqlite").rows() == () and threading.active_count() == before


def test_rows_come_to_the_disk_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the writer's patience, whatever the run is at."""
    monkeypatch.setattr("verifier.certification.writer.PATIENCE", 0.01)
    store, seen = tmp_path / "run.sqlite", list[int]()

    def listen(tally: Tally) -> None:
        until = time.monotonic() + 60
        while tally.done % 10 == 0 and len(decided(store)) < tally.done:
            assert time.monotonic() < until
            time.sleep(0.02)
        seen.append(tally.done)

    model = small_mlp()
    images, labels = labelled(model, (12,), EXAMPLES)
    certify(model, images, labels, EPS, store=store, progress=listen, stages=["clean", "dual"])
    assert {0, 10, 20, 30, EXAMPLES} <= {*seen}
