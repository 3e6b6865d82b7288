"""Programs that are forks are what python would have started: the same to look at, and apart from each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import preloaded

PROGRAM = """
import os, sys, wave
seen = hasattr(wave, "seen")
wave.seen = True
print(__name__, sys.argv, os.getcwd(), os.environ.get("COLOUR"), seen, sys.stdin.read())
print([p for p in sys.path if p.startswith(os.environ["BELOW"])], file=sys.stderr)
assert "verifier" not in sys.modules and "helpers" not in sys.modules
if sys.argv[1:] == ["wait"]:
    import time
    time.sleep(60)
if sys.argv[1:] == ["raise"]:
    raise ValueError("no")
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="programs are no forks there")
def test_a_fork_is_what_python_starts(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "program.py"
    script.write_text(PROGRAM)
    (tmp_path / "module.py").write_text(PROGRAM)
    env = {**os.environ, "COLOUR": "green", "BELOW": str(tmp_path), "PYTHONPATH": str(tmp_path / "scripts")}
    forms = (["-m", "module", "3"], ["-P", str(script), "0"], [str(script), "0"], [str(script), "raise"])
    plain = [preloaded.run(form, tmp_path, env, 60) for form in forms]
    with preloaded.preloaded("wave", "not_installed"):
        forked = [preloaded.run(form, tmp_path, env, 60) for form in forms]
        with pytest.raises(subprocess.TimeoutExpired):
            preloaded.run([str(script), "wait"], tmp_path, env, 1)
    assert [done.returncode for done in forked] == [3, 0, 0, 1]
    for one, other in zip(plain, forked, strict=True):
        assert (one.returncode, one.stdout) == (other.returncode, other.stdout)
        assert one.stderr.splitlines()[0] == other.stderr.splitlines()[0]
        assert one.stderr.splitlines()[-1] == other.stderr.splitlines()[-1]
    assert "PRELOADED_PYTHON" not in os.environ
