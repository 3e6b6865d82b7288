"""`certify` by several workers against one process: speed where the work is hard, overhead where it is easy.

    python benchmarks/many_workers.py [--images 10000] [--eps 0.03] [--hard-eps 0.07] [--cores 2]

The network and the images are those of the demonstration; for the easy part the images are repeated with a little
noise. Seconds of one call each, of wall time and of all processes' CPUs together, with one thread per process; Ray's
after a short call that starts its processes, those of `jobs` with what starting them takes:

    hard   the 597 held-out digits with all default stages: one process, `jobs=CORES`, Ray with CORES cores
    easy   --images images with the stages clean, interval and dual: one process, Ray with one core

What each call found is compared with what one process found. Ray is left out where it is not installed. The load of the
machine is printed beside each figure: above the number of cores wall times mean little, and CPU seconds still a bit.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import psutil
import torch
from torch import Tensor

from verifier import Report, certify
from verifier.demo import held_out_digits, network

EASY_STAGES = ["clean", "interval", "dual"]


def answers(report: Report) -> list[tuple[object, ...]]:
    return [(e.index, e.outcome, e.prediction) for e in report.rows()]


@dataclass(frozen=True)
class Seconds:
    wall: float
    cpu: float  #: of this process and all that it has started

    @classmethod
    def now(cls) -> Seconds:
        own = psutil.Process()
        times = [own.cpu_times(), *filter(None, map(_cpu_times, own.children(recursive=True)))]
        return cls(time.perf_counter(), sum(t.user + t.system + t.children_user + t.children_system for t in times))

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


def _cpu_times(process: psutil.Process) -> Any:
    """None: it has ended, and its parent has its seconds."""
    try:
        return process.cpu_times()
    except psutil.NoSuchProcess:
        return None


def timed(
    name: str, call: Callable[[], Report], expected: Report | None, base: Seconds | None
) -> tuple[Report, Seconds]:
    """Prints one line; the report and the seconds."""
    began = Seconds.now()
    report = call()
    seconds = Seconds.now() - began
    against = (
        "" if base is None else f"  {seconds.wall / base.wall:.2f} and {seconds.cpu / base.cpu:.2f} of one process"
    )
    pairs = () if expected is None else zip(answers(report), answers(expected), strict=True)
    same = "" if expected is None else f"  differ: {sum(a != b for a, b in pairs)}"
    print(
        f"  {name:22} {seconds.wall:7.2f} s, CPUs {seconds.cpu:7.2f} s{against}{same}  load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return report, seconds


@contextmanager
def ray_cores(cores: int) -> Iterator[None]:
    """A Ray cluster of this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(
        address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20
    )
    try:
        yield
    finally:
        ray.shutdown()


def easy_images(count: int) -> tuple[Tensor, Tensor]:  # [count, 1, 8, 8], [count]
    images, labels = held_out_digits()
    chosen = torch.arange(count) % len(images)
    noise = 0.01 * torch.rand((count, *images.shape[1:]), generator=torch.Generator().manual_seed(0))
    return (images[chosen] + noise).clamp(0, 1), labels[chosen]


def measured(title: str, images: Tensor, labels: Tensor, cores: int, **asked: Any) -> None:
    """One process, processes, and Ray on the same images."""
    model = network()

    def run(count: int | None = None, **workers: Any) -> Report:
        return certify(model, images[:count], labels[:count], clip=(0, 1), progress=False, **asked, **workers)

    print(title)
    run(64)
    expected, base = timed("one process", run, None, None)
    if cores > 1:
        timed(f"jobs={cores}, starting them", lambda: run(jobs=cores), expected, base)
    if find_spec("ray") is None:
        print("  Ray is not installed")
        return
    with ray_cores(cores):
        run(64, executor="ray")
        timed(f"Ray, {cores} cores", lambda: run(executor="ray"), expected, base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="of the easy part")
    parser.add_argument("--eps", type=float, default=0.03, help="of the easy part")
    parser.add_argument("--hard-eps", type=float, default=0.07)
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = held_out_digits()
    measured(f"hard: {len(images)} images, eps {given.hard_eps}", images, labels, given.cores, eps=given.hard_eps)
    easy = easy_images(given.images)
    measured(f"easy: {given.images} images, eps {given.eps}", *easy, 1, eps=given.eps, stages=EASY_STAGES)


if __name__ == "__main__":
    main()
