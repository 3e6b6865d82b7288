"""Is training with a single step as robust as with forty? Both networks verified exactly (Wong 2020, section 4.2.1).

    python benchmarks/fast_adversarial.py --data DIR_WITH_MNIST [--eps 0.1] [--epochs 10] [--images 60000]
        [--steps 40] [--test 10000] [--seconds 120] [--methods fast,pgd] [--nets DIR] [--device cuda]

The network of Tjeng et al. (`training.architectures.small`) is trained on MNIST by the fast method and by PGD, whose 40
steps make the way that the thesis's do together (0.01 each at eps 0.3: ours shrink). Optimiser, schedule, batches and
epochs are the same, so that only the attack differs. Then, beside the thesis's table 4.4 (trained at eps 0.3: so
`--eps 0.3` is the like for like): clean accuracy, accuracy under PGD (50 steps, 10 restarts) at 0.1 and 0.3, and the
share that our ladder verifies at 0.1. What is neither verified nor broken within `--seconds` counts as undecided.
`--nets` keeps the trained networks; where one is there already it is resumed, or read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from data_sets import images
from torch import nn

from training import AdversarialTraining, FastTraining, TrainingMethod, train
from training.architectures import small
from verifier import attack, certify

RADIUS = 0.1  #: at which networks are verified
#: what the thesis's 40 steps of 0.01 go together, in multiples of its radius of 0.3
WAY = 40 * 0.01 / 0.3
#: table 4.4, in per cent: clean, PGD at 0.1, PGD at 0.3, verified at 0.1
THESIS = {"pgd": (99.20, 97.66, 89.90, 96.7), "fast": (99.20, 97.53, 88.77, 96.8)}


def first_step(steps: int) -> float:
    """Of steps that shrink linearly to a tenth and go as far together as the thesis's, as a fraction of eps."""
    return WAY / sum(1 - 0.9 * k / steps for k in range(steps))


def method_named(name: str, eps: float, rate: float, steps: int) -> TrainingMethod:
    fast = FastTraining(eps=eps)
    optimiser = type(fast.optimiser)(fast.optimiser.kind, rate, fast.optimiser.momentum, fast.optimiser.weight_decay)
    same = {"eps": eps, "optimiser": optimiser, "rate": fast.rate, "batch": fast.batch}
    return FastTraining(**same) if name == "fast" else AdversarialTraining(steps=steps, step=first_step(steps), **same)


def trained(name: str, options: argparse.Namespace) -> nn.Module:
    """The network that a method makes; prints how that went."""
    torch.manual_seed(options.seed)
    out = None if options.nets is None else options.nets / f"{name}_{options.eps:g}"
    began, worked = time.perf_counter(), time.process_time()
    model, history = train(
        small(), images(options.data, part="train", count=options.images),
        method_named(name, options.eps, options.rate, options.steps),
        epochs=options.epochs, device=options.device, seed=options.seed, stages=(), out=out, resume=out is not None,
    )  # fmt: skip
    best = history.best or {}
    spent = f"{time.perf_counter() - began:.0f} s, {time.process_time() - worked:.0f} s of processor"
    print(f"{name}: {len(history.rows)} epochs in {spent}, best epoch {best.get('epoch')}", flush=True)
    if history.stopped:
        print(f"  stopped: {history.stopped}", flush=True)
    return model.eval()


def under_attack(model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> float:
    """Accuracy under PGD with the steps and restarts of the thesis's evaluation."""
    device = next(model.parameters()).device
    return 1 - attack(model, x.to(device), eps, label=y.to(device), clip=(0, 1), steps=50, restarts=10).error


def measured(model: nn.Module, options: argparse.Namespace) -> tuple[list[float], str]:
    """Clean, attacked at 0.1 and at 0.3, and verified accuracy, in per cent; and a remark on the last."""
    x, y = images(options.data, count=options.test)
    attacked = [under_attack(model, x, y, eps) for eps in (RADIUS, 0.3)]
    report = certify(model, x, y, RADIUS, clip=(0, 1), example_budget=options.seconds, progress=options.progress)
    s = report.summary()
    remark = f"{s['undecided']} undecided, trust {s['trust']}, {s['seconds']:.0f} s to verify"
    return [100 * v for v in (s["clean_accuracy"], *attacked, s["verified_accuracy"])], remark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--eps", type=float, default=0.1, help="radius to train for; the thesis's is 0.3")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40, help="of PGD in training")
    parser.add_argument("--images", type=int, default=60_000, help="training images, of which 1000 at most choose")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--seconds", type=float, default=120.0, help="per example of the test set, for the verifier")
    parser.add_argument("--methods", default="fast,pgd")
    parser.add_argument("--rate", type=float, default=FastTraining(eps=0.1).optimiser.rate, help="highest rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nets", type=Path, help="folder to keep the runs in")
    parser.add_argument("--progress", action="store_true")
    options = parser.parse_args()
    head = f"{'trained by':22}{'clean':>9}{'PGD 0.1':>9}{'PGD 0.3':>9}{'verified 0.1':>14}"
    lines = [head]
    for name in options.methods.split(","):
        figures, remark = measured(trained(name, options), options)
        lines.append(_line(f"{name}, eps {options.eps:g}", figures) + f"   {remark}")
        lines.append(_line("  thesis, eps 0.3", THESIS[name]))
        print("\n".join([head, *lines[-2:]]), flush=True)
    print(f"\n{options.test} test images, {options.images} training images, {options.epochs} epochs")
    print("\n".join(lines))


def _line(name: str, figures: tuple[float, ...] | list[float]) -> str:
    clean, near, far, verified = figures
    return f"{name:22}{clean:9.2f}{near:9.2f}{far:9.2f}{verified:14.2f}"


if __name__ == "__main__":
    main()
