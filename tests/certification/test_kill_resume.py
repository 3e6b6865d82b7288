"""kill -9 at random moments of a run: what is committed stays, and the last resume ends in the undisturbed store."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_image_mlp
from helpers.reports import assert_equal

from verifier.certification import Report, certify

SHAPE = (1, 3, 4)
EXAMPLES, BATCH, EPS = 320, 4, 0.05
#: named, so that their order is fixed: the default ladder learns from the seconds that it measures
STAGES = ["clean", "interval", "dual", "dual-adaptive", "attack", "dual-optimised", "branch"]
#: sessions are forked from one server that has these loaded, so that many starts do not take a minute
LOADED_ONCE = [
    "torch",
    "torch._dynamo",
    "torch._inductor",
    "torch.export._trace",
    "torch.onnx",
    "verifier.certification",
]
ROOT = Path(__file__).resolve().parents[2]


def run(
    store: str, data: str, first: int = EXAMPLES, batch: Connection | None = None, jobs: int | None = None
) -> Report:
    """One session of the run, whose one writer is this process; sends a byte per decided example."""
    torch.set_num_threads(1)
    with np.load(data) as arrays:
        images, labels = arrays["images"][:first], arrays["labels"][:first]
    tell = False if batch is None else lambda tally: batch.send_bytes(b".")
    return certify(
        small_image_mlp(SHAPE), images, labels, eps=EPS, store=store, resume=True, batch_size=BATCH, progress=tell,
        stages=STAGES, jobs=jobs,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> str:
    images, labels = labelled(small_image_mlp(SHAPE), SHAPE, EXAMPLES)
    np.savez(tmp_path / "test.npz", images=images.numpy(), labels=labels.numpy())
    return str(tmp_path / "test.npz")


def killed_session(
    context: multiprocessing.context.BaseContext, store: Path, data: str, luck: random.Random, jobs: int | None
) -> bool:
    """Starts a session and kills it after some batches and some milliseconds; whether it was still at work."""
    receiver, sender = context.Pipe(duplex=False)
    session: BaseProcess = context.Process(target=run, args=(str(store), data, EXAMPLES, sender, jobs))  # type: ignore[attr-defined]
    session.start()
    sender.close()
    try:
        for _ in range(luck.randrange(3 * BATCH)):
            receiver.recv_bytes()
    except EOFError:  # it ended by itself
        pass
    time.sleep(luck.random() * 0.08)
    session.kill()
    session.join(60)
    receiver.close()
    assert session.exitcode in (0, -signal.SIGKILL), "the session failed by itself"
    return session.exitcode != 0


@pytest.mark.slow  # of one kill: test_settled_rows.py, and the command below
@pytest.mark.parametrize(("times", "jobs"), [(4, None), (20, None), (4, 2), (20, 2)])
def test_killed_many_times_and_resumed(tmp_path: Path, data: str, times: int, jobs: int | None) -> None:
    expected = run(str(tmp_path / "undisturbed.sqlite"), data)
    assert len({e.outcome for e in expected.rows()}) > 1 and expected.complete
    luck, store = random.Random(0), tmp_path / "run0.sqlite"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED_ONCE)
    kills, committed = 0, 0
    while kills < times:
        kills += killed_session(context, store, data, luck, jobs)
        rows = committed_rows(store)
        assert rows >= committed, "what is committed stays"
        committed = rows
        if rows == EXAMPLES:  # on a fast machine one run is over before it is killed so often: begin another
            assert_equal(Report.open(store), expected)
            store, committed = tmp_path / f"run{kills}.sqlite", 0
    assert_equal(run(str(store), data), expected)
    assert {p.suffix for p in tmp_path.iterdir()} == {".npz", ".sqlite"}, "no side files are left"


def test_a_killed_command_is_resumed_by_the_command(tmp_path: Path, data: str) -> None:
    """The same from a shell, with a real process."""
    (tmp_path / "killnet.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        f"from helpers.models import small_image_mlp\ndef net():\n    return small_image_mlp({SHAPE})\n"
    )
    store = tmp_path / "run.sqlite"
    command = [
        sys.executable,
        "-m",
        "verifier.commands.app",
        "certify",
        "--model",
        "killnet:net",
        "--data",
        data,
        "--quiet",
    ]
    command += ["--first", str(EXAMPLES // 4), "--stages", ",".join(STAGES)]
    command += ["--eps", str(EPS), "--batch-size", str(BATCH), "--out", str(store), "--resume"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    while committed_rows(store) == 0 and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL, "it was done before it was killed"
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    report = Report.open(store)
    assert len(report.meta["sessions"]) == 2
    assert_equal(report, run(str(tmp_path / "undisturbed.sqlite"), data, EXAMPLES // 4))


def committed_rows(store: Path) -> int:
    return len(Report.open(store).rows()) if store.exists() and store.stat().st_size > 0 else 0
