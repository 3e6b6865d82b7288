"""One answer by the end of the time limit, whatever the stages do."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable


class Watchdog:
    """Ends this process when the time is up, unless the answer was given before.

    Args:
        seconds: until then; None: never.
        late: gives the answer that is due then, and perhaps the code that the process ends with; called in a thread of
            the watchdog's, before that.
    """

    def __init__(self, seconds: float | None, late: Callable[[], int | None]) -> None:
        self._late, self._turn = late, threading.Lock()
        self._timer = None if seconds is None else threading.Timer(max(0.0, seconds), self._end)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def answered(self) -> None:
        """From now on there is time to answer. Never returns where the watchdog was first."""
        self._turn.acquire()
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        if not self._turn.acquire(blocking=False):
            return
        code = 1
        try:
            code = self._late() or 0
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # stages may be deep inside native code: nothing else ends them
