"""Seconds per training step and peak memory of every method, against plain training of the same network, in one run.

    python benchmarks/training_cost.py [--methods ibp,dual] [--arch wide:1,wide:4] [--batch 50,100] [--shape 3,32,32]
      [--device cuda]

Every pair of method and network is measured in a process of its own, whose peak memory it is; `ratio` is to plain
training of that network with that batch. Inputs are random numbers, of MNIST's shape unless another is given, labels
random. Methods that start with a small radius are measured at their last one, where they cost most. Seconds are of the
processor, on the CPU: others may be at work beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace

import torch

from training.architectures import MNIST, architecture
from training.method import METHODS, Progress
from training.network import NetworkInTraining

SETTINGS = {"dual": {"projections": 10}, "layerwise": {"projections": 10}}


def measure(
    name: str, arch: str, batch: int, eps: float, steps: int, device: str, shape: tuple[int, ...]
) -> dict[str, float]:
    """Median seconds of a step, and the peak of what the process or the device held beyond the start, in MiB."""
    torch.manual_seed(0)
    model = architecture(arch, shape, 10).to(device)
    x, label = torch.rand(batch, *shape).to(device), torch.randint(10, (batch,)).to(device)
    kind = METHODS.named_part(name)
    method = replace(kind(eps=eps, **SETTINGS.get(name, {})), batch=batch)
    network = NetworkInTraining(model, x)
    run = method.begin(network, torch.Generator().manual_seed(0))
    progress = Progress(99, 0, 1, 100)
    optimiser = method.optimiser.over(run.parameters(progress))
    clock = time.process_time if device == "cpu" else time.perf_counter
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, []
    for _ in range(steps + 1):
        began = clock()
        optimiser.zero_grad()
        run.loss(x, label, progress).value.backward()
        optimiser.step()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    units = sum(network.graph.nodes[i].size for i in network.graph.activations)
    return {"seconds": sorted(times[1:])[steps // 2], "peak": peak, "units": units}


def in_process(*arguments: str) -> dict[str, float] | None:
    """`measure` in a fresh process; None where it failed."""
    done = subprocess.run([sys.executable, __file__, "--one", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(sorted(set(METHODS) - {"standard", "sdp"})))
    parser.add_argument("--arch", default="small")
    parser.add_argument("--batch", default="50")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", default=",".join(map(str, MNIST)))
    parser.add_argument("--one", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, arch, batch, eps, steps, device, shape = options.one
        size = tuple(map(int, shape.split(",")))
        print(json.dumps(measure(name, arch, int(batch), float(eps), int(steps), device, size)))
        return
    print(
        "| network | units | batch | method | ms per step | ratio to plain | peak MiB |\n|---|---|---|---|---|---|---|"
    )
    for arch in options.arch.split(","):
        for batch in options.batch.split(","):
            rest = (arch, batch, str(options.eps), str(options.steps), options.device, options.shape)
            plain = in_process("standard", *rest)
            for name in ["standard", *options.methods.split(",")]:
                found = plain if name == "standard" else in_process(name, *rest)
                if found is None or plain is None:
                    print(f"| {arch} | | {batch} | {name} | failed | | |")
                    continue
                ratio = found["seconds"] / plain["seconds"]
                print(
                    f"| {arch} | {found['units']:.0f} | {batch} | {name} | {1000 * found['seconds']:.1f} "
                    f"| {ratio:.1f} | {found['peak']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
