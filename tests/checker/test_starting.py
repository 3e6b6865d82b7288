"""Ctrl-C while processes start: a terminal sends it to all of them, and one line of ours is all that is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.environment import importing

#: sends Ctrl-C to its whole process group some seconds after it has begun to start processes
AUDIT = """
import os, signal, sys, threading
from pathlib import Path
from verifier.checker.audit import audit
from verifier.checker.network import CanonicalNetwork, CanonicalNode

if __name__ == "__main__":
    network = CanonicalNetwork((CanonicalNode("input", (), 1, {}, {}),))
    for seconds in map(float, sys.argv[1].split()):
        threading.Timer(seconds, os.killpg, (0, signal.SIGINT)).start()
        try:
            while True:
                list(audit([Path("none")] * 4, network, jobs=3))
        except KeyboardInterrupt:
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
            print("interrupted")
"""


def audits_interrupted(folder: Path, moments: list[float]) -> None:
    script = folder / "script.py"
    script.write_text(AUDIT)
    ended = subprocess.run(
        [sys.executable, str(script), " ".join(map(str, moments))],
        env=importing(), capture_output=True, text=True, timeout=120, start_new_session=True,
    )  # fmt: skip
    assert (ended.stdout.split(), ended.stderr) == (["interrupted"] * len(moments), "")


def test_ctrl_c_while_checkers_start(tmp_path: Path) -> None:
    audits_interrupted(tmp_path, [0.06, 0.1])


@pytest.mark.slow
def test_ctrl_c_at_many_moments_of_an_audit(tmp_path: Path) -> None:
    audits_interrupted(tmp_path, [k / 20 for k in range(1, 25)])


@pytest.mark.slow
@pytest.mark.parametrize("later", [0.0, 0.2, 0.5, 1.0, 2.0])
def test_ctrl_c_while_the_workers_of_a_run_start(tmp_path: Path, later: float) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", images=rng.random((50, 1, 8, 8), np.float32), labels=np.zeros(50, np.int64))
    command = "certify --model verifier.demo:network --data d.npz --clip 0,1 --eps 0.3 --out run.sqlite --jobs 2"
    run = subprocess.Popen(
        [sys.executable, "-m", "verifier", *command.split()],
        env=importing(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "run.sqlite").exists():  # just before the workers
        assert run.poll() is None
        time.sleep(0.02)
    time.sleep(later)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130 and "Traceback" not in said and "failed" not in said, said
    assert said.splitlines()[-1].startswith("interrupted"), said
