"""Ctrl-C at any moment of `verify`: KeyboardInterrupt, and the process verifies as before."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.environment import importing

#: interrupts `verify` at given shares of what it calls: in a process of its own, which an abort would end
SCRIPT = """
import signal, sys, warnings
import torch
from torch import nn
from verifier import verify

torch.manual_seed(0)
torch.set_num_threads(2)
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
x = torch.rand(2, 6)


class Moment:  # the call or return of that number; None: where C++ waits for Python in the midst of tracing
    def __init__(self, number):
        self.number, self.count = number, 0

    def __call__(self, frame, event, argument):
        self.count += 1
        inside = event == "return" and frame.f_code.co_name == "__torch_dispatch__"
        if self.count == self.number or (self.number is None and inside):
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)


def calls(number):
    moment = Moment(number)
    sys.setprofile(moment)
    try:
        result = verify(model, x, 0.02)
        return moment.count, result
    finally:
        sys.setprofile(None)


def of_the_process():
    return list(warnings.filters), sys.stderr, torch.backends.cudnn.conv.fp32_precision, signal.getsignal(signal.SIGINT)


def interrupted(number):
    try:
        calls(number)
    except KeyboardInterrupt:
        return
    raise AssertionError(number)


for number in map(int, sys.argv[2].split()):  # before anything is loaded
    interrupted(number)
expected, before = verify(model, x, 0.02).verdict, of_the_process()
number, _ = calls(0)
for moment in [None, *(max(1, int(float(share) * number)) for share in sys.argv[1].split())]:
    interrupted(moment)
    assert of_the_process() == before, moment
    assert verify(model, x, 0.02).verdict == expected, moment
print("verified again")
"""


def run(shares: str, first: str) -> None:
    command = [sys.executable, "-c", SCRIPT, shares, first]
    ended = subprocess.run(command, env=importing(), capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0 and ended.stdout.split() == ["verified", "again"], ended.stdout + ended.stderr


def test_ctrl_c_in_the_midst_of_an_import() -> None:
    run("0.2 0.6", "")


@pytest.mark.slow
def test_ctrl_c_at_many_moments() -> None:
    run(" ".join(str(k / 60) for k in range(60)), "100 3000 100000")
