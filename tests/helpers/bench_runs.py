"""`verifier bench` in a process of its own, as far as an instance that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from helpers.environment import ROOT


def hanging(*arguments: str, seconds: float = 60.0) -> subprocess.Popen[str]:
    """The process, in this folder, once the network in troubled.py has written its process's id to the file `hangs`."""
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    process = subprocess.Popen(
        [sys.executable, "-m", "verifier", "bench", "list.csv", *arguments],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + seconds
    while not (Path("hangs").exists() and Path("hangs").read_text()):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process
