"""Each stage alone on networks of true size, under a limit: seconds, and peak memory.

    python benchmarks/limits.py resnet18 [--budget 60] [--stages interval,dual,attack]
    python benchmarks/limits.py FOLDER/TinyYOLO.onnx

One image. `resnet18` is a ResNet-18 of full width for 32 x 32 images, with random weights. Every stage runs in a
process of its own; the processor time and the memory are those of that process and of all that it has started (workers
of solvers) together, the memory as seen ten times a second, import and comparison of the model included; what these
take alone is the line `import`. Of a detector the first output is asked not to fall by more than 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import torch
from torch import Tensor, nn

from properties import LinfBall, Specification, robustness
from verifier import Verifier
from verifier.loading import load_model

STAGES = (
    "import", "clean", "interval", "dual", "dual-adaptive", "attack", "dual-optimised", "branch", "dual-cases",
    "zonotope", "dual-free", "lp", "milp-1", "milp",
)  # fmt: skip


class Block(nn.Module):
    """Two convolutions and a shortcut, normalised."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        same = stride == 1 and inside == width
        self.shortcut = nn.Sequential() if same else nn.Sequential(nn.Conv2d(inside, width, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:  # [B, inside, H, W] -> [B, width, H / stride, W / stride]
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """He et al. (2016) for 32 x 32 images: a first convolution of 64 channels, four groups of two blocks."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inside = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inside, width, stride), Block(width, width, 1)]
        inside = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)).eval()


def run(network: str, stage: str, budget: float, eps: float) -> None:
    """One stage, in this process; prints how it ended."""
    torch.set_num_threads(1)
    model = resnet18() if network == "resnet18" else load_model(network)
    shape = (3, 32, 32) if isinstance(model, nn.Module) else tuple(model.input_shape)  # type: ignore[union-attr]
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    verifier = Verifier(model, x, stages=["clean" if stage == "import" else stage])
    if stage == "import":
        print("-")
        return
    outputs = verifier.predict(x)
    if verifier.classes <= 10:
        spec = robustness(outputs.argmax(1), verifier.classes)
    else:
        rows = torch.zeros(1, 1, verifier.classes)
        rows[0, 0, 0] = 1.0
        spec = Specification(rows, 1.0 - outputs[:, :1].double(), torch.zeros(1, dtype=torch.int64))
    result = verifier.run(LinfBall(x, eps), spec, budget)
    reason = result.reason[0]
    print(result.verdict[0].value, "" if reason is None else reason.value, f"margin {float(result.margins.min()):.3g}")


class Family(threading.Thread):
    """What a process and those that it has started take, looked at until it ends."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.ended = process, 0, threading.Event()
        self.cpu: dict[int, float] = {}  #: seconds of each process

    def run(self) -> None:
        while not self.ended.wait(0.1):
            with suppress(psutil.Error):
                first = psutil.Process(self.process)
                self.peak = max(self.peak, sum(map(self._look, [first, *first.children(recursive=True)])))

    def _look(self, one: psutil.Process) -> int:
        """Its bytes at the moment; 0 where it has just ended."""
        try:
            times, size = one.cpu_times(), int(one.memory_info().rss)
        except psutil.Error:
            return 0
        self.cpu[one.pid] = times.user + times.system
        return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each stage")
    parser.add_argument("--eps", type=float, default=1 / 255)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        run(arguments.network, arguments.stages, arguments.budget, arguments.eps)
        return
    print(f"{'stage':16} {'seconds':>8} {'CPU s':>8} {'peak MiB':>9}  answer")
    for stage in arguments.stages.split(","):
        options = ["--alone", "--stages", stage, "--budget", str(arguments.budget), "--eps", str(arguments.eps)]
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, __file__, arguments.network, *options], stdout=subprocess.PIPE, text=True
        )
        family = Family(child.pid)
        family.start()
        assert child.stdout is not None
        answer = child.stdout.read().strip()
        _, status, usage = os.wait4(child.pid, 0)
        family.ended.set()
        family.join()
        child.returncode = os.waitstatus_to_exitcode(status)
        said = answer if child.returncode == 0 else f"ended with {child.returncode}"
        # the system's own sum knows no worker that outlives its parent, ours not the last tenth of a second
        cpu = max(usage.ru_utime + usage.ru_stime, sum(family.cpu.values()))
        wall, peak = time.perf_counter() - began, max(family.peak / 2**20, usage.ru_maxrss / 1024)
        print(f"{stage:16} {wall:8.1f} {cpu:8.1f} {peak:9.0f}  {said}", flush=True)


if __name__ == "__main__":
    main()
