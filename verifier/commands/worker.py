"""What `verifier bench --in-process` starts (verifier/vnncomp/warm.py): loads all that instances need, then forks.

Reads orders from its standard input, a line of JSON each: the arguments of `verifier vnnlib`, and a file for what it
says on its standard error. Writes a line with a number each: 0 once everything is loaded; for an order the id of the
process that has it, and then its exit code, negative for a signal. The end of the input is the end of the worker, and
of the process that it has then.

Nothing is computed here, and onnxruntime, which starts a thread when it is imported, is left to those who need it: a
process of one thread can be forked, and what comes of it is as new.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import traceback
from typing import NoReturn

from verifier.commands.allocator import keep_freed_memory
from verifier.commands.exit_code import ExitCode
from verifier.commands.stdout import own_stdout
from verifier.commands.torch_start import load_torch
from verifier.commands.vnnlib import main as decide_one


def main() -> None:
    keep_freed_memory()
    orders, out = os.fdopen(os.dup(0), "rb", buffering=0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    _load()
    _say(out, 0)
    for line in orders:
        order = json.loads(line)
        code = _forked(order["arguments"], order["errors"], orders.fileno(), out)
        _say(out, code)


def _load() -> None:
    """Everything that an instance may need; what it leaves is never garbage."""
    gc.disable()
    load_torch()
    import scipy.sparse  # noqa: F401

    import verifier.vnncomp.solve  # noqa: F401
    from verifier.stages import REGISTRY

    len(REGISTRY)  # imports all stages
    gc.enable()
    gc.freeze()


def _say(out: int, number: int) -> None:
    os.write(out, f"{number}\n".encode())


def _forked(arguments: list[str], errors: str, orders: int, out: int) -> int:
    """Decide an instance in a process of its own; returns its exit code. Does not return when the orders end first."""
    ended, alive = os.pipe()  # a process that has ended has closed its side
    worker = os.getpid()
    child = os.fork()
    if child == 0:
        for number in (orders, out, ended):
            os.close(number)
        _decide(arguments, errors, worker)
    os.close(alive)
    _say(out, child)
    said, _, _ = select.select([ended, orders], [], [])
    if ended not in said:  # nobody gives an order before the last one is done: this is the end of them
        os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # not buried: its group is nobody else's until then
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # and whatever it has started
    os.close(ended)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _decide(arguments: list[str], errors: str, worker: int) -> NoReturn:
    """What `verifier vnnlib` does, from the start of its process to its end."""
    code: int = ExitCode.FAILED
    try:
        os.setsid()
        _end_with(worker)
        os.dup2(os.open(errors, os.O_WRONLY), 2)
        own_stdout()
        decide_one(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else ExitCode.FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _end_with(worker: int) -> None:
    """Where Linux can, have this process killed when the worker ends, however that comes about."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != worker:
        os._exit(1)


if __name__ == "__main__":
    main()
