"""Seconds of a training step with each way to call the module at points (training.passes), in one run.

    python benchmarks/training_passes.py [--device cuda]

`small` on images of random numbers of the shapes of MNIST and CIFAR-10, batch 100, `adversarial` with 5 steps and
`mtl-ibp` with 4. Seconds are of the processor, on the CPU: others may be at work beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from training import train
from training.architectures import architecture
from training.method import METHODS, Progress
from training.watcher import Watcher
from verifier.errors import InputError

SHAPES = (1, 28, 28), (3, 32, 32)
METHODS_ASKED: dict[str, dict[str, Any]] = {"adversarial": {"steps": 5}, "mtl-ibp": {"warm_up": 0.0, "attack_steps": 4}}
PASSES: tuple[dict[str, Any], ...] = {}, {"channels_last": True}, {"amp": "bfloat16"}, {"compile": True}
#: the first steps of a run are not counted
BEGINNING = 3


class Clock(Watcher):
    """Seconds from step to step."""

    def __init__(self, device: str) -> None:
        self.on_cpu, self.times, self.last = device == "cpu", [], 0.0

    def stepped(self, progress: Progress, loss: Tensor) -> None:  # loss []
        if not self.on_cpu:
            torch.cuda.synchronize()
        now = time.process_time() if self.on_cpu else time.perf_counter()
        if self.last:
            self.times.append(now - self.last)
        self.last = now

    def warned(self, text: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for shape in SHAPES:
        x, y = torch.rand(800, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(800) % 10
        for name, settings in METHODS_ASKED.items():
            for passes in PASSES:
                torch.manual_seed(0)
                method, clock = METHODS[name](eps=0.1, batch=100, **settings), Clock(options.device)
                given = {"epochs": 2 if passes.get("compile") else 1, "validation": 0, "device": options.device}
                try:
                    train(architecture("small", shape, 10), (x, y), method, watcher=clock, **given, **passes)
                except InputError as error:
                    print(shape, name, passes, error)
                    continue
                print(shape, name, passes, f"{statistics.median(clock.times[BEGINNING:]):.3f} s a step", flush=True)


if __name__ == "__main__":
    main()
