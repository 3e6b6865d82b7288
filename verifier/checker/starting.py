"""Ctrl-C while processes are started. Needs the standard library alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C that comes inside is handled on leaving, and what is started inside never hears it.

    A terminal sends it to all processes: one that is about to start would end with a traceback, and one whose parent
    is interrupted half-way through starting it would find half of what it needs. Who starts them ends them.
    """
    came: list[FrameType | None] = []
    handler: Any = signal.getsignal(signal.SIGINT)
    ours = callable(handler) and threading.current_thread() is threading.main_thread()  # no other thread handles it
    blocks = hasattr(signal, "pthread_sigmask")
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: came.append(frame))
    try:
        # of this thread alone, and inherited by processes and threads: another one may still take the signal for us
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else set()
        try:
            yield
        finally:
            if blocks:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)
            if came:
                handler(signal.SIGINT, came[-1])
