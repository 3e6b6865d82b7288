"""When torch.export may run: alone, with flags that it accepts, silently, and out of the reach of Ctrl-C.

It changes what belongs to the whole process while it works: how every `nn.Module` is called, whether some backends are
used, which modes are on. Two at once break each other, and a module that another thread calls is taken for a part of
what is traced. An exception out of a signal leaves all that behind, or goes through C++ and ends the process.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from types import FrameType
from typing import Any, TextIO, cast

from verifier.arithmetic import precise_arithmetic
from verifier.quiet import quiet_warnings


@contextmanager
def tracing() -> Iterator[None]:
    """For torch.export and what else it brings: `importing`, in full precision, mute, and not interrupted."""
    with importing(), precise_arithmetic(), later_signals(), muted_torch():
        yield


@contextmanager
def importing() -> Iterator[None]:
    """One thread at a time is inside, and no other is inside `running_modules`. Nested as one likes."""
    with _TRAFFIC.inside(_TRAFFIC.importers, lambda me: {*_TRAFFIC.importers, *_TRAFFIC.runners} <= {me}):
        yield


@contextmanager
def running_modules() -> Iterator[None]:
    """For calls of users' modules: any number of threads at once, while no other one is inside `importing`."""
    with _TRAFFIC.inside(_TRAFFIC.runners, lambda me: not _TRAFFIC.importers or me in _TRAFFIC.importers):
        yield


class _Traffic:
    """Which threads are inside, and how often."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.importers: Counter[int] = Counter()
        self.runners: Counter[int] = Counter()

    @contextmanager
    def inside(self, kind: Counter[int], free: Callable[[int], bool]) -> Iterator[None]:
        """Counts this thread among a kind, from when the way is free for it."""
        me = threading.get_ident()
        with self.changed:
            self.changed.wait_for(lambda: free(me))
            kind[me] += 1
        try:
            yield
        finally:
            with self.changed:
                kind[me] -= 1
                if kind[me] == 0:
                    del kind[me]
                    self.changed.notify_all()


_TRAFFIC = _Traffic()
if hasattr(os, "register_at_fork"):  # the other threads are not in the child of a fork
    os.register_at_fork(after_in_child=_TRAFFIC.__init__)  # type: ignore[misc]


@contextmanager
def later_signals() -> Iterator[None]:
    """What arrives inside is handled on leaving: Ctrl-C raises KeyboardInterrupt then.

    Only the main thread handles signals; in others, and where the program handles them in C, there is nothing to do.
    """
    came: list[tuple[int, FrameType | None]] = []
    before: dict[int, Any] = {}

    def later(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    try:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGALRM"):
                number = getattr(signal, name, None)
                if number is not None and callable(signal.getsignal(number)):
                    before[number] = signal.getsignal(number)
                    signal.signal(number, later)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in came[-1:]:
            before[number](number, frame)


@contextmanager
def muted_torch() -> Iterator[None]:
    """Keeps torch's warnings, logs and prints off stderr: what matters of a failure is in the error it raises.

    What other threads log and print goes where it always goes.
    """
    me = threading.get_ident()
    names = [name for name in list(logging.root.manager.loggerDict) if name.partition(".")[0] == "torch"]
    others = _Others(sys.stderr, me)

    def by_another(record: logging.LogRecord) -> bool:
        return record.thread != me

    with ExitStack() as stack:
        for logger in map(logging.getLogger, names):
            logger.addFilter(by_another)
            stack.callback(logger.removeFilter, by_another)
        stack.callback(others.all)
        stack.enter_context(redirect_stderr(cast("TextIO", others)))
        stack.enter_context(quiet_warnings())
        yield


class _Others:
    """The standard error, without what one thread writes."""

    def __init__(self, stream: TextIO | None, thread: int) -> None:
        self._stream, self._thread = stream, thread

    def all(self) -> None:
        """From now on that thread's as well: a log handler that was made inside may have kept this object."""
        self._thread = 0

    def write(self, text: str) -> int:
        if self._stream is None or threading.get_ident() == self._thread:
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
