"""Nothing that a solver's native code prints reaches the standard output of who asked it, and nothing of ours is lost.

`capfd` sees what is written to the descriptors, by whichever code.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_backends import Fake, Noisy, honest, shout

from solvers import REGISTRY, Backend, SolveStatus, backend, stdout
from solvers.inline import Inline
from solvers.pool import Pool, Task
from verifier.testing.programs import random_program

ROOT = Path(__file__).resolve().parents[2]
NOISY = "helpers.fake_backends:Noisy"
Captured = pytest.CaptureFixture[str]


def say(line: str) -> None:
    print(line, flush=True)


@pytest.fixture(autouse=True)
def unbuffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """`print` writes to descriptor 1, as it does in a program, not to pytest's own stream."""
    monkeypatch.setattr(sys, "stdout", os.fdopen(1, "w", closefd=False))


def task(whole: bool = False) -> Task:
    program = random_program(3, whole=whole)
    return Task(program, np.random.default_rng(0).normal(size=(2, program.columns)))


def test_the_noise_of_these_tests_is_seen_where_nothing_guards(capfd: Captured) -> None:
    shout("bare")
    with stdout.away():
        pass  # flushes the C library's buffer, outward, as it begins
    assert capfd.readouterr().out == "NOISE bare\nNOISE bare, held back\n"


@pytest.mark.parametrize("real", sorted(REGISTRY))
@pytest.mark.parametrize("whole", [False, True])
def test_a_session_prints_nothing(real: str, whole: bool, capfd: Captured) -> None:
    """The backend as it is, and one that is certain to print at every step."""
    if not REGISTRY[real]().available():
        pytest.skip(f"{real} is not installed")
    wanted = task(whole)
    for kind in (backend(real), Noisy(real)):
        with kind.load(wanted.program) as session:
            session.set_bounds(np.array([0]), wanted.program.lower[:1], wanted.program.upper[:1])
            assert session.minimise(wanted.costs[0]).status is SolveStatus.OPTIMAL
    out, err = capfd.readouterr()
    assert out == ""
    for step in ("made", "loaded", "set", "asked", "answered", "closed"):
        assert f"NOISE {step}\n" in err and f"NOISE {step}, held back\n" in err


@pytest.mark.parametrize("solve", [lambda: Inline(NOISY), lambda: Pool(1, NOISY)], ids=["in process", "in a worker"])
def test_executors_print_nothing(solve: Callable[[], Inline | Pool], capfd: Captured) -> None:
    executor = solve()
    ((_, answers),) = executor.run([task()])
    executor.close()
    out, err = capfd.readouterr()
    assert [answer.status for answer in answers] == [SolveStatus.OPTIMAL] * 2
    assert out == "" and "NOISE made\n" in err and "NOISE answered\n" in err


def test_what_a_solver_prints_on_request_is_not_lost(capfd: Captured) -> None:
    pytest.importorskip("highspy")
    from solvers.highs import Highs

    with Highs(output_flag=True).load(task().program) as session:
        session.minimise(task().costs[0])
    out, err = capfd.readouterr()
    assert out == "" and "HiGHS" in err


def test_what_is_printed_before_and_after_keeps_its_place(capfd: Captured) -> None:
    say("before")
    with backend(NOISY).load(task().program) as session:
        say("between")
        session.minimise(task().costs[0])
    say("after")
    assert capfd.readouterr().out == "before\nbetween\nafter\n"


def test_a_callback_of_ours_is_heard(capfd: Captured) -> None:
    def told(value: float, point: np.ndarray) -> bool:
        say("an incumbent")
        return False

    fake = Fake(honest, points=lambda program: [(0.0, np.zeros(program.columns))])
    highs: Backend = backend("highs")
    for kind, at_least in ((fake, 1), (highs, 1)):
        program = task(whole=True).program
        with kind.load(program) as session:
            session.minimise(-np.ones(program.columns), on_incumbent=told)
        lines = capfd.readouterr().out.splitlines()
        assert len(lines) >= at_least and set(lines) == {"an incumbent"}


def test_an_error_inside_gives_the_output_back(capfd: Captured) -> None:
    with pytest.raises(RuntimeError), stdout.away():
        raise RuntimeError
    with pytest.raises(ValueError, match="costs must be"), backend("highs").load(task().program) as session:
        session.minimise(np.zeros(3))
    say("here")
    assert capfd.readouterr().out == "here\n"


def test_threads_are_counted(capfd: Captured) -> None:
    """The first to leave does not give the output back while another is at work."""
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with stdout.away():
            inside.set()
            leave.wait(30)
            shout("of the other thread")

    other = threading.Thread(target=work)
    other.start()
    assert inside.wait(30)
    with stdout.away(), stdout.away():
        shout("of this thread")
    leave.set()
    other.join()
    say("after")
    out, err = capfd.readouterr()
    assert out == "after\n" and err.count("NOISE") == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_is_forked_meanwhile_has_its_output(capfd: Captured) -> None:
    with stdout.away():
        child = os.fork()
        if child == 0:
            os.write(1, b"the child\n")
            with stdout.away():
                shout("of the child")
            os.write(1, b"and again\n")
            os._exit(0)
        os.waitpid(child, 0)
        shout("of the parent")
    out, err = capfd.readouterr()
    assert out == "the child\nand again\n" and "of the child, held back" in err and "of the parent" in err


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes descriptors")
@pytest.mark.parametrize(("closed", "expected"), [("1>&-", ""), ("2>&-", "2 optimal\n"), ("1>&- 2>&-", "")])
def test_a_process_without_standard_streams(closed: str, expected: str) -> None:
    """Solvers work, in this process and in others, and what they print goes nowhere."""
    script = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(ROOT / "tests" / "solvers")!r}]
from solvers import backend
from solvers.pool import Pool
from test_stdout import NOISY, task
with backend(NOISY).load(task().program) as session:
    session.minimise(task().costs[0])
with Pool(1, NOISY) as pool:
    ((_, answers),) = pool.run([task()])
if {closed!r}.startswith("2"):
    print(len(answers), answers[0].status.value)
sys.exit(0 if [a.status.value for a in answers] == ["optimal"] * 2 else 3)
"""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", script],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
