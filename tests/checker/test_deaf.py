"""What `deaf_to_interrupts` does with Ctrl-C, in this process: nothing inside, one call of the handler on leaving."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from verifier.checker.starting import deaf_to_interrupts


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """The frames that a handler of Ctrl-C was called with; another thread may take the signal for this one."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are handled in the main thread alone")
    frames: list[Any] = []
    done = threading.Event()
    before = signal.signal(signal.SIGINT, lambda number, frame: frames.append(frame))
    other = threading.Thread(target=done.wait, daemon=True)
    other.start()
    yield frames
    done.set()
    other.join()
    signal.signal(signal.SIGINT, before)


def blocked() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("times", [0, 1, 3])
def test_what_comes_inside_is_handled_once_on_leaving(heard: list[Any], times: int) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with deaf_to_interrupts():
        assert blocked() and signal.getsignal(signal.SIGINT) is not handler
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigpending()  # a step of Python, at which a handler would be called
        assert not heard
    assert len(heard) == min(times, 1) and not blocked()
    assert signal.getsignal(signal.SIGINT) is handler
    os.kill(os.getpid(), signal.SIGINT)
    assert len(heard) == min(times, 1) + 1, "it hears again"


def test_who_ignores_ctrl_c_goes_on_ignoring_it(heard: list[Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deaf_to_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert not heard and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_starts_what_it_starts(heard: list[Any]) -> None:
    """It may neither set nor call a handler."""
    found: list[bool] = []
    handler = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with deaf_to_interrupts():
            found.extend([blocked(), signal.getsignal(signal.SIGINT) is handler])
        found.append(not blocked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True, True, True] and not heard
