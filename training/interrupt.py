"""Ctrl-C between two steps of a run, where its checkpoint can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether Ctrl-C was pressed, while it waits for the end of a step."""

    asked = False
    waits = True  #: False: it interrupts at once, as ever


@contextmanager
def patient() -> Iterator[Interrupt]:
    """Inside, the first Ctrl-C is noted, and a second one interrupts at once.

    Nothing changes in other threads than the main one, or where the program handles Ctrl-C in a way of its own.
    """
    interrupt = Interrupt()
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return

    def noted(number: int, frame: Any) -> None:
        if interrupt.asked or not interrupt.waits:
            raise KeyboardInterrupt
        interrupt.asked = True

    signal.signal(signal.SIGINT, noted)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
