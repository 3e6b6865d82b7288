"""Lists of instances that get into trouble: they hang, crash, or look for what others left behind."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest

from helpers.onnx_files import vnnlib, write_absolute

#: a stage of another distribution, which does what the first input of the box says
TROUBLE = '''
import ctypes
import os
import signal
from pathlib import Path

import torch

from verifier.stages import Stage, StageReport, register

RUNS = []


@register
class Trouble(Stage):
    """Hangs where nothing but a kill helps, or ends its process; sees whether another instance was here before."""

    name = "trouble"
    cost_rank = 1
    trust = None

    def supports(self, query):
        return True

    def run(self, query, bounds, budget):
        asked = int(query.inputs.center().flatten()[0])
        if RUNS or torch.initial_seed() == 1:
            raise RuntimeError("an instance left something behind")
        RUNS.append(asked)
        torch.manual_seed(1)
        torch.set_num_threads(3)
        if asked == 10 and not Path("cured").exists():
            Path("hangs").write_text(str(os.getpid()))
            ctypes.PyDLL(None).sleep(1000)  # holds Python's lock: no thread of the process can end it
        if asked == 20:
            os._exit(7)
        if asked == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return StageReport()
'''
STAGES = ("--stages", "trouble,attack,dual-adaptive")


def troubled_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of instances, and a distribution with the stage that everybody who is started from here finds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trouble.py").write_text(TROUBLE)
    (tmp_path / "trouble-1.0.dist-info").mkdir()
    (tmp_path / "trouble-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: trouble\nVersion: 1.0\n")
    (tmp_path / "trouble-1.0.dist-info" / "entry_points.txt").write_text("[verifier.stages]\ntrouble = trouble\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    write_absolute(tmp_path / "net.onnx")
    for name, first, constraint in (
        ("sat", 0, "(>= Y_0 0.5)"), ("unsat", 0, "(>= Y_0 9.5)"), ("hangs", 10, "(>= Y_0 0.5)"),
        ("exits", 20, "(>= Y_0 0.5)"), ("killed", 30, "(>= Y_0 0.5)"),
    ):  # fmt: skip
        box = [(str(first), f"{first}.5"), ("-0.5", "0.5")]
        (tmp_path / f"{name}.vnnlib").write_text(vnnlib(box, 2, constraint))
    return tmp_path


def rows(folder: str) -> list[dict[str, str]]:
    with (Path(folder) / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(folder: str) -> dict[str, tuple[str, str]]:
    """What became of each instance, without what a note says of wall time."""
    return {row["name"]: (row["status"], re.sub(r"[\d.]+ s\b", "", row["note"])) for row in rows(folder)}
