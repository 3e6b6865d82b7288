"""What the host has to do where bounds are computed on a device: what that proves is proved again on the CPU.

    python benchmarks/device_rigour.py --nets DIR --data DIR [--network wk_mnist] [--images 40] [--stages dual]

Test images are verified on the CPU alone, and on a CUDA device that is pretended (tests/device; its work is done by the
CPU, too, and counted apart). Operators and multiplications of the host in both, the CPU seconds of all, and of the part
that proves again. On a real device the seconds that it saves are those of all beside that part.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

# ruff: noqa: E402  the device has to be there before torch is
from device.pretence import load, pretended

load()

import torch
from data_sets import images
from device.host_work import HostWork

from properties import LinfBall, robustness
from verifier import OnnxModel
from verifier.api import Verifier
from verifier.cascade import Cascade


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="wk_mnist")
    parser.add_argument("--data-set", default="mnist")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--stages", default="dual")
    options = parser.parse_args()
    again = timed_again()
    for device in ("cpu", "cpu", "cuda"):  # the first one warms up
        print(told_of(options, device, again))


def told_of(options: argparse.Namespace, device: str, again: list[float]) -> str:
    """A line about one run, by a clock of what is proved again."""
    x, y = images(options.data, options.data_set, count=options.images)
    with pretended() as account:
        model = OnnxModel.load(options.nets / f"{options.network}.onnx")
        verifier = Verifier(model, x, stages=options.stages.split(","), device=device)
        sets, spec = LinfBall(x, options.eps, clip=(0.0, 1.0)), robustness(y, verifier.classes)
        with HostWork() as work:
            result = verifier.run(sets, spec)
        again[0], began = 0.0, time.process_time()
        verifier.run(sets, spec)
        seconds, launches = time.process_time() - began, account.launches
    trusts = sorted({trust.name for trust in result.trust if trust is not None})
    return (
        f"{device}: {result.summary()} {trusts}; the host: {work.operators} operators, {work.flops / 1e9:.2f} GFLOP; "
        f"{launches} launches; {seconds:.2f} s of CPU, {again[0]:.2f} s of them to prove again"
    )


def timed_again() -> list[float]:
    """A clock of CPU seconds that are spent on proving again, in its one entry."""
    clock, real = [0.0], Cascade._bounded

    def bounded(self: Cascade, *given: object) -> object:
        began = time.process_time()
        try:
            return real(self, *given)  # type: ignore[arg-type]
        finally:
            clock[0] += time.process_time() - began

    Cascade._bounded = bounded  # type: ignore[assignment, method-assign]
    return clock


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
