"""`certify(..., jobs=...)`: the answers of one process from several, some of which are killed at work."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.models import labelled, small_mlp
from helpers.reports import assert_equal
from helpers.slow_stages import Dawdling, Deadly
from torch import nn

from verifier import certify
from verifier.certification import ExampleOutcome, Report
from verifier.certification.progress import Tally
from verifier.errors import InputError

EXAMPLES = 48
ROOT = Path(__file__).resolve().parents[2]
#: stages on many examples first, then on one after another, then both
STAGES = ["clean", "interval", "attack", Dawdling(0.02), "dual", "branch"]


def run(model: nn.Module | None = None, **options: Any) -> Report:
    model = small_mlp() if model is None else model
    images, labels = labelled(small_mlp(), (12,), options.pop("examples", EXAMPLES))
    return certify(model, images, labels, **{"eps": 0.05, "progress": False, "stages": STAGES, **options})


def workers() -> list[psutil.Process]:
    """The processes that work for this one."""
    found = []
    for child in psutil.Process().children():
        try:
            if any("popen_loky" in part for part in child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def killer(kills: int, luck: random.Random, killed: list[int]) -> Callable[[Tally], None]:
    """A listener that kills a worker now and then."""

    def listen(tally: Tally) -> None:
        victims = [one for one in workers() if one.pid not in killed] if len(killed) < kills else []
        if tally.done and victims and luck.random() < 0.1:
            victim = luck.choice(victims)
            victim.kill()
            killed.append(victim.pid)

    return listen


@pytest.mark.parametrize(("kills", "examples"), [(1, EXAMPLES), pytest.param(20, 400, marks=pytest.mark.slow)])
def test_killed_workers_lose_nothing(tmp_path: Path, kills: int, examples: int) -> None:
    expected = run(examples=examples)
    assert {e.outcome.value for e in expected.rows()} == {"verified", "falsified"}
    killed: list[int] = []
    store = tmp_path / "run.sqlite"
    found = run(examples=examples, jobs=2, store=store, progress=killer(kills, random.Random(0), killed))
    assert len(killed) == kills and len(set(killed)) == kills
    assert_equal(found, expected)
    assert found.meta["settings"] == expected.meta["settings"], "how many work is no setting of the run"
    assert not workers() and [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]


@pytest.mark.slow
def test_an_example_that_ends_its_workers_becomes_an_error() -> None:
    images, labels = labelled(small_mlp(), (12,), 3)
    images[1, 0] = 5.0
    stages = [Deadly(), "clean", "dual"]
    report = certify(small_mlp(), images, labels, eps=0.05, stages=stages, jobs=2, progress=False)
    errors = [e for e in report.rows() if e.outcome is ExampleOutcome.ERROR]
    assert [e.index for e in errors] == [1] and len(report.rows()) == 3
    assert "ended 3 times" in str(errors[0].error) and "SIGKILL" in str(errors[0].error)


SCRIPT = """
import sys
from helpers.models import labelled
from helpers.slow_stages import Dawdling
from torch import nn
from verifier import certify

class Own(nn.Sequential):  # of the script: workers cannot import it
    pass

import torch
torch.manual_seed(0)
images, labels = labelled(nn.Sequential(nn.Linear(12, 4)), (12,), 60)
model = Own(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
report = certify(model, images, labels, eps=0.01, stages=["clean", Dawdling(0.05), "dual", "branch"], jobs=2,
                 store=sys.argv[1], resume=True, progress=lambda tally: print(tally.done, flush=True))
print("all", len(report.rows()))
"""


@pytest.mark.slow
def test_a_killed_run_leaves_no_workers_and_goes_on(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"`, whose model is its own; ended by Ctrl-C, then by kill -9."""
    script, store = tmp_path / "script.py", tmp_path / "run.sqlite"
    script.write_text(SCRIPT)
    for ending in (signal.SIGINT, signal.SIGKILL, None):
        process = started(script, store)
        before = int(line(process))
        while ending is not None and int(line(process)) < before + 5:
            pass
        children = psutil.Process(process.pid).children(recursive=True) if ending is not None else []
        if ending is not None:
            process.send_signal(ending)
        said, _ = process.communicate(timeout=120)
        assert before == 0 or ending is not signal.SIGINT
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
    assert said.strip().endswith("all 60") and before >= 5
    assert len(Report.open(store).rows()) == 60


def started(script: Path, store: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(script), str(store)], env={**os.environ, "PYTHONPATH": paths}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


class Unsendable(nn.Sequential):
    def __getstate__(self) -> dict[str, object]:
        raise TypeError("holds an open file")


def test_what_cannot_work_is_said_at_once() -> None:
    for wrong in (0, -1, 1.5, "2", True):
        with pytest.raises(InputError, match="jobs must be an integer >= 1"):
            run(jobs=wrong)
    with pytest.raises(InputError, match='executor must be "ray"'):
        run(executor="slurm")
    with pytest.raises(InputError, match="jobs or executor, not both"):
        run(jobs=2, executor="ray")
    with pytest.raises(InputError, match=r"cannot be sent to other processes: TypeError: holds an open file"):
        run(Unsendable(*small_mlp()).eval(), jobs=2)


@pytest.mark.slow
def test_seconds_for_a_batch_keep_it_together() -> None:
    assert_equal(run(jobs=2, examples=20, batch_size=10, budget=100.0), run(examples=20, batch_size=10, budget=100.0))
