"""Whole test sets decided: exact robust error, which stage decided what, at what cost, in how much memory.

    python benchmarks/exact_decision.py --nets DIR_WITH_ONNX --data DIR_WITH_MNIST_AND_FASHION_MNIST \
        --network wk17a_mnist [--images 10000] [--example-budget 600]

The l-infinity ball of radius eps around each image, cut to [0, 1]. `--alone` runs each stage named in `--stages` by
itself instead of one after another, and then the default ladder: the ablation.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from data_sets import images
from lp_warm_start import read

from properties import LinfBall, robustness
from verifier import Result, Verdict, Verifier


@dataclass
class Tally:
    """What a run decided."""

    verdicts: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)
    trust: Counter[str] = field(default_factory=Counter)
    open: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, first: int, result: Result) -> None:
        for i, verdict in enumerate(result.verdict):
            self.verdicts[verdict.value] += 1
            self.by[result.decided_by[i] or "nobody"] += 1
            trust = result.trust[i]
            if trust is not None:
                self.trust[trust.name] += 1
            if verdict is Verdict.UNKNOWN:
                self.open.append(first + i)


def images_for(data: Path, network: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The test images and labels that go with a network's name."""
    return images(data, "fashion_mnist" if "fashion" in network else "mnist", count=count)


def decide(verifier: Verifier, x: torch.Tensor, y: torch.Tensor, arguments: argparse.Namespace) -> Tally:
    tally, began = Tally(), time.perf_counter()
    for start in range(0, len(x), 500):
        part = slice(start, start + 500)
        ball = LinfBall(x[part], arguments.eps, (0.0, 1.0))
        spec = robustness(y[part], verifier.classes)
        tally.add(start, verifier.run(ball, spec, example_budget=arguments.example_budget))
        if arguments.verbose:
            print(start, dict(tally.verdicts), f"{time.perf_counter() - began:.0f} s", flush=True)
    tally.seconds = time.perf_counter() - began
    return tally


def show(title: str, tally: Tally, verifier: Verifier) -> None:
    count = sum(tally.verdicts.values())
    error = 100 * (1 - tally.verdicts["verified"] / count)
    found = ", ".join(f"{n} {v}" for v, n in tally.verdicts.items())
    print(f"{title}: {found}; robust error {error:.2f} %, {tally.seconds:.1f} s, trust {dict(tally.trust)}")
    print(f"  decided by {dict(tally.by)}")
    for rung in verifier.ladder.rungs():
        if rung.attempted:
            print(f"  {rung.stage.name:17} {rung.decided:6} of {rung.attempted:6}, {rung.price:.4f} s each")
    if tally.open:
        print(f"  undecided: {tally.open[:30]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="wk17a_mnist")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--example-budget", type=float, default=600.0)
    parser.add_argument("--stages", help="comma-separated; default the ladder, which adapts")
    parser.add_argument("--alone", action="store_true", help="each of --stages by itself, then the ladder")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    network = read(arguments.nets / f"{arguments.network}.onnx")
    x, y = images_for(arguments.data, arguments.network, arguments.images)
    names = None if arguments.stages is None else arguments.stages.split(",")
    plans = [[name] for name in names or ()] + [None] if arguments.alone else [names]
    for plan in plans:
        verifier = Verifier(network, x[:1], stages=plan)
        title = "default ladder" if plan is None else ",".join(plan)
        show(f"{arguments.network}, {title}", decide(verifier, x, y, arguments), verifier)
    peak = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"peak memory: {peak[0]:.0f} MiB, largest worker {peak[1]:.0f} MiB")


if __name__ == "__main__":
    main()
