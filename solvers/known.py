"""Whether worker processes would find a solver by its name: they start with nothing of the caller's program."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys

from solvers.base import REGISTRY

#: seconds for a process to import its libraries
_BOOT = 120.0

#: what the process runs that is asked: 0 where it has the solver
_ASKED = """
import pickle, sys
sys.path[:], name = pickle.load(sys.stdin.buffer)
from solvers.base import backend
backend(name)
"""


def elsewhere(name: str) -> bool:
    """Whether a fresh interpreter has the backend of that name: one of a notebook or a script it has not.

    One is started and asked, once for each name, unless the solver is of a file in solvers/.
    """
    part = REGISTRY.get(name)
    return str(getattr(part, "__module__", "")).startswith("solvers.") or _asked(name, tuple(sys.path))


@functools.cache
def _asked(name: str, path: tuple[str, ...]) -> bool:
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", _ASKED],
            input=pickle.dumps((list(path), name)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_BOOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except (OSError, subprocess.TimeoutExpired):  # no process can be started, or none in any useful time
        return False
    return asked.returncode == 0
