"""The command line's standard output, which nobody but us writes to. Light: only the standard library."""

from __future__ import annotations

import os
import sys


def own_stdout() -> None:
    """From now on `sys.stdout` alone writes to this process's standard output.

    It gets a descriptor of its own, and descriptor 1, which native libraries print to, becomes the standard error. That
    holds for the whole process: other threads print while a solver is at work (`solvers.stdout` says why that matters),
    and programs that are started here inherit the standard error. Does nothing where `sys.stdout` has been replaced.

    Standard streams that the process was started without become the null device: else a file that is opened takes their
    numbers, and `print(..., file=sys.stderr)`, which would be `file=None`, prints to the standard output.
    """
    _fill()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the process
    old = sys.stdout
    if old is not sys.__stdout__:
        return
    if old is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the process
        return
    old.flush()
    private = os.dup(1)
    sys.stdout = open(  # noqa: SIM115  as long as the process
        private, "w", encoding=old.encoding, errors=old.errors, closefd=False
    )
    sys.stdout.reconfigure(line_buffering=old.line_buffering, write_through=old.write_through)
    os.dup2(2, 1)


def _fill() -> None:
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free
        os.set_inheritable(number, True)
    os.close(number)
