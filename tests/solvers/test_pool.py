"""The pool of worker processes: nothing is lost, nothing outlives it, and it never builds far ahead."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from solvers import SolveStatus
from solvers.highs import Highs
from solvers.pool import Pool, Task
from verifier.testing.programs import hard, random_program

FAKES = "helpers.fake_backends"
ROOT = Path(__file__).parents[2]


def task(seed: int, questions: int = 2, **limits: float) -> Task:
    """Costs begin with a positive number: the fakes act at a negative one."""
    costs = np.random.default_rng(seed).normal(size=(questions, 10))
    costs[:, 0] = np.abs(costs[:, 0])
    return Task(random_program(seed), costs, **limits)


def acting(seed: int, at: int = 1, **limits: float) -> Task:
    """Of three questions, a fake acts at the one numbered `at`."""
    plain = task(seed, 3, **limits)
    plain.costs[at, 0] = -1.0
    return plain


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def gone(processes: list[psutil.Process], seconds: float = 5.0) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    others = set(children())  # of other tests in this process
    with Pool(2) as shared:
        yield shared
        workers = [child for child in children() if child not in others]
    assert gone(workers)


def test_answers_are_those_of_a_session(pool: Pool) -> None:
    tasks = [task(seed, 3) for seed in range(7)]
    found = dict(pool.run(tasks))
    assert sorted(found) == list(range(7))
    for number, t in enumerate(tasks):
        with Highs().load(t.program) as session:
            alone = [session.minimise(cost) for cost in t.costs]
        for a, b in zip(alone, found[number], strict=True):
            assert (a.status, a.dual_bound) == (b.status, b.dual_bound)
            assert a.row_duals is not None and b.row_duals is not None and (a.row_duals == b.row_duals).all()


def test_draws_lazily(pool: Pool) -> None:
    drawn = 0

    def source() -> Iterator[Task]:
        nonlocal drawn
        for seed in range(10):
            drawn += 1
            yield task(seed)

    run = pool.run(source())
    assert drawn == 0
    for done, _ in enumerate(run):
        assert drawn <= done + pool.workers + 1
    assert drawn == 10


def test_leaving_early_drops_the_rest(pool: Pool) -> None:
    p, cost = hard()
    slow = Task(p, cost[None], seconds=30)
    start = time.monotonic()
    for _, answers in pool.run([task(0), slow, slow, slow]):
        assert answers[0].status is SolveStatus.OPTIMAL
        break
    assert [n for n, _ in pool.run([task(1)])] == [0]  # and the pool goes on
    assert time.monotonic() - start < 15


def test_an_error_of_the_source_comes_out(pool: Pool) -> None:
    def source() -> Iterator[Task]:
        yield task(0)
        raise LookupError

    with pytest.raises(LookupError):
        list(pool.run(source()))
    assert len(list(pool.run([task(1)]))) == 1


def test_limits(pool: Pool) -> None:
    p, cost = hard()
    costs = np.stack([cost] * 3)
    each = Task(p, costs, question_seconds=0.2)
    whole = Task(p, costs, seconds=0.4)
    bound = Task(p, costs[:2], seconds=20, stop_above=np.array([-25.0, -30.0]))
    found = dict(pool.run([each, whole, bound]))
    assert [a.status for a in found[0] + found[1]] == [SolveStatus.LIMIT] * 6
    assert all(a.dual_bound <= a.incumbent < 0 for a in found[0])
    assert found[1][2].dual_bound == -np.inf  # never asked
    assert [a.status for a in found[2]] == [SolveStatus.BOUND_REACHED] * 2


def test_an_incumbent_stops_its_task_only(pool: Pool) -> None:
    p, cost = hard()
    seen: list[tuple[int, int]] = []

    def decide(number: int, question: int, value: float, x: np.ndarray) -> bool:
        assert cost @ x == pytest.approx(value) and p.violation(x) < 3e-6
        seen.append((number, question))
        return number == 0 and value < -10

    start = time.monotonic()
    tasks = [Task(p, np.stack([cost] * 3), seconds=60), Task(p, cost[None], seconds=1.0)]
    found = dict(pool.run(tasks, decide))
    assert [a.status for a in found[0]] == [SolveStatus.INTERRUPTED] * 3 and found[0][0].incumbent < -10
    assert [a.status for a in found[1]] == [SolveStatus.LIMIT]
    assert {number for number, _ in seen} == {0, 1} and time.monotonic() - start < 20


def test_tasks_that_do_not_fit_raise() -> None:
    p = random_program(0)
    with pytest.raises(ValueError, match="costs must be"):
        Task(p, np.zeros((2, 9)))
    with pytest.raises(ValueError, match="stop_above must be"):
        Task(p, np.zeros((2, 10)), stop_above=np.zeros(3))
    with pytest.raises(ValueError, match="does not exist"):
        Pool(1, "no such solver")


@pytest.mark.parametrize(("fake", "word"), [("Crash", "died with code -11"), ("Raise", "the solver broke")])
def test_a_worker_that_fails_loses_only_its_open_questions(fake: str, word: str) -> None:
    with Pool(1, f"{FAKES}:{fake}") as pool:
        found = dict(pool.run([task(0), acting(1), task(2), acting(3, at=0), task(4)]))
    statuses = [[a.status for a in found[n]] for n in range(5)]
    good, bad = SolveStatus.OPTIMAL, SolveStatus.FAILED
    assert statuses == [[good] * 2, [good, bad, bad], [good] * 2, [bad] * 3, [good] * 2]
    assert word in found[1][1].message and found[1][1].dual_bound == -np.inf


def test_a_worker_killed_while_idle_is_replaced() -> None:
    before = children()
    with Pool(1) as pool:
        list(pool.run([task(0)]))
        (worker,) = [c for c in children() if c not in before]
        worker.kill()
        worker.wait(5)
        ((_, answers),) = pool.run([task(1)])
    assert [a.status for a in answers] == [SolveStatus.OPTIMAL] * 2


@pytest.mark.parametrize("limits", [{"seconds": 0.3}, {"question_seconds": 0.3}])
def test_a_hanging_worker_is_killed_with_its_children(limits: dict[str, float]) -> None:
    start = time.monotonic()
    with Pool(1, f"{FAKES}:Hang", grace=0.5) as pool:
        found = dict(pool.run([acting(0, **limits), task(1)]))
        assert [a.status for a in found[0]] == [SolveStatus.OPTIMAL, SolveStatus.LIMIT, SolveStatus.LIMIT]
        assert [a.status for a in found[1]] == [SolveStatus.OPTIMAL] * 2
        assert "overran" in found[0][1].message
    assert time.monotonic() - start < 20
    assert gone([p for p in psutil.process_iter() if "child of a hanging solver" in " ".join(command(p))])


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_what_a_solver_prints_does_not_matter() -> None:
    with Pool(1, f"{FAKES}:Print") as pool:
        ((_, answers),) = pool.run([acting(0)])
    assert [a.status for a in answers] == [SolveStatus.OPTIMAL] * 3


def test_workers_are_recycled() -> None:
    with Pool(1, f"{FAKES}:WhoAmI", recycle=2) as pool:
        who = [answers[0].dual_bound for _, answers in pool.run(task(n, 1) for n in range(5))]
    assert who[0] == who[1] != who[2] == who[3] != who[4]


def test_closing() -> None:
    before = children()
    pool = Pool(2)
    list(pool.run([task(0), task(1)]))
    workers = [c for c in children() if c not in before]
    assert workers
    pool.close()
    pool.close()
    assert not any(psutil.pid_exists(w.pid) for w in workers)  # not even a zombie
    with pytest.raises(ValueError, match="closed"):
        list(pool.run([task(0)]))


SCRIPT = f"""
guard_was_missing = True
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(ROOT / "tests" / "solvers")!r}]
from test_pool import Pool, Task, task, hard
"""


def script(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT + body], stdout=subprocess.PIPE, text=True,
        # a shell's background jobs ignore Ctrl-C, and their children with them: not what is tested here
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_a_script_needs_no_guard_and_is_not_imported(tmp_path: Path) -> None:
    body = "for _, a in Pool(1, 'helpers.fake_backends:WhoAmI').run([task(0)]): print(*a[0].row_duals)\n"
    path = tmp_path / "script.py"
    path.write_text(SCRIPT + body)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0.0", "0.0"], done.stderr  # no torch, not the script; and it ended by itself


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(death: signal.Signals) -> None:
    """The workers are in the middle of a solve; a child forked from the parent holds its pipes open."""
    body = """
import threading, time
if os.fork() == 0:
    time.sleep(20); os._exit(0)
p, cost = hard()
seen = set()
def decide(number, question, value, x):
    if number not in seen:
        seen.add(number)
        print("solving", flush=True)
for _ in Pool(2).run([Task(p, cost[None], seconds=60)] * 2, decide): pass
"""
    parent = script(body)
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == ["solving\n"] * 2
    family = psutil.Process(parent.pid).children(recursive=True)
    workers = [p for p in family if "solvers.worker" in " ".join(p.cmdline())]
    assert len(workers) == 2
    parent.send_signal(death)
    try:
        parent.wait(10)
        assert gone(workers, 10)
    finally:
        for process in family:
            if process.is_running():
                process.kill()
        parent.stdout.close()


def growth(tasks: int) -> float:
    """MiB that a worker has grown by, over that many small programs, after it has warmed up."""
    others = children()
    with Pool(1, recycle=10**9) as pool:
        list(pool.run(task(n, 1) for n in range(200)))
        (worker,) = [c for c in children() if c not in others]
        before = worker.memory_info().rss
        list(pool.run(task(n % 50, 1) for n in range(tasks)))
        return (worker.memory_info().rss - before) / 2**20


def test_memory_does_not_grow() -> None:
    assert growth(1800) < 4


@pytest.mark.slow
def test_memory_does_not_grow_over_many() -> None:
    assert growth(10_000) < 4


def test_the_interpreter_that_leaves_a_pool_open_ends() -> None:
    parent = script("p = Pool(1); print([len(a) for _, a in p.run([task(0)])])\nraise SystemExit(3)\n")
    out, _ = parent.communicate(timeout=30)
    assert out == "[2]\n" and parent.returncode == 3
