"""Keeps what native solvers print off the standard output, which belongs to the program that asked them.

HiGHS 1.16 prints a banner from its constructor, before any option can silence it, and others print licences, warnings
and licence servers' names. That is written by C to file descriptor 1: replacing `sys.stdout` does not stop it. So the
descriptor itself is pointed at the standard error while a solver is at work: what a solver says is not lost, and who
reads our output sees only ours. Where there is no standard error it goes to the null device.

Three kinds of process:

- a worker (`solvers.worker`) is all ours, answers on a descriptor of its own, and points 1 away for good as it starts;
- so does the command line (`verifier.commands.stdout`), whose `sys.stdout` then writes to another descriptor: a thread
  such as the one that keeps the time limit prints its answer while a solver is deep inside native code;
- the program of somebody who calls us as a library keeps its descriptor 1. `away` borrows it for the length of one call
  to a solver, and gives it back while the solver calls back (`back`). A descriptor belongs to the whole process: what
  other threads of that program flush in the meantime goes to the standard error as well, where it is at least not lost.

`solvers.base` puts `away` around every call of every backend, so that no backend has to think of it. What a backend
prints in Python, through `sys.stdout`, is not native and is left alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Guard:
    """Descriptor 1, pointed away from the first `enter` to the last `leave`: calls count, from whichever thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.saved: int | None = None  # where descriptor 1 belongs; None also where it is not open

    def enter(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.saved = _pointed_away()
            self.inside += 1

    def leave(self) -> bool:
        """Whether anybody was inside."""
        with self.lock:
            if self.inside == 0:
                return False
            self.inside -= 1
            if self.inside == 0:
                self._restore()
            return True

    def forked(self) -> None:
        """In the child of a fork: the threads that were inside are not in it, so it begins anew."""
        self.lock = threading.Lock()
        self.inside = 0
        self._restore()

    def _restore(self) -> None:
        if self.saved is not None:
            _flush()
            os.dup2(self.saved, 1)
            os.close(self.saved)
            self.saved = None


_GUARD = _Guard()
if hasattr(os, "register_at_fork"):  # a fork while another thread holds the lock would leave it held for ever
    os.register_at_fork(
        before=lambda: _GUARD.lock.acquire(),
        after_in_parent=lambda: _GUARD.lock.release(),
        after_in_child=_GUARD.forked,
    )


@contextmanager
def away() -> Iterator[None]:
    """Inside, what native code writes to descriptor 1 goes to the standard error. Any thread, nested as one likes."""
    _GUARD.enter()
    try:
        yield
    finally:
        _GUARD.leave()


@contextmanager
def back() -> Iterator[None]:
    """Inside an `away`: the standard output for code that a solver calls back, unless other threads are away too."""
    was_away = _GUARD.leave()
    try:
        yield
    finally:
        if was_away:
            _GUARD.enter()


def quiet(method: Callable[..., Result]) -> Callable[..., Result]:
    """The method inside `away`; a callback that it is given by the name `on_incumbent` runs inside `back`."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Result:
        told = kwargs.get("on_incumbent")
        if told is not None:
            kwargs["on_incumbent"] = _heard(told)
        with away():
            return method(*args, **kwargs)

    return call


def _heard(told: Callable[..., Result]) -> Callable[..., Result]:
    @functools.wraps(told, assigned=(), updated=())
    def call(*args: Any) -> Result:
        with back():
            return told(*args)

    return call


def _pointed_away() -> int | None:
    """Points descriptor 1 at the standard error; returns a copy of what it was. None where it is not open."""
    # opened first: where descriptor 2 is closed, a copy of 1 would take its number
    nowhere = None if _has_standard_error() else os.open(os.devnull, os.O_WRONLY)
    try:
        saved = os.dup(1)
        _flush()  # what was printed before this belongs where it was printed to
        os.dup2(2 if nowhere is None else nowhere, 1)
        return saved
    except OSError:
        return None
    finally:
        if nowhere is not None:
            os.close(nowhere)


def _has_standard_error() -> bool:
    """Not where the process was started without one: a file that was opened since may have its number."""
    try:
        os.fstat(2)
    except OSError:
        return False
    return sys.__stderr__ is not None


def _flush() -> None:
    """Writes out what the C library holds back of its `stdout`: a buffer keeps it until after the solver is done."""
    flush = _c_flush()
    if flush is not None:
        flush()


@functools.cache
def _c_flush() -> Callable[[], int] | None:
    """fflush(stdout). Only that stream: to flush all waits for a thread that reads from another. None: not found."""
    with suppress(OSError, AttributeError, ValueError):
        if sys.platform == "win32":
            library = ctypes.CDLL("ucrtbase")
            library.__acrt_iob_func.restype = ctypes.c_void_p
            stream = ctypes.c_void_p(library.__acrt_iob_func(1))
        else:
            library = ctypes.CDLL(None)
            stream = ctypes.c_void_p.in_dll(library, "__stdoutp" if sys.platform == "darwin" else "stdout")
        return functools.partial(library.fflush, stream)
    return None
