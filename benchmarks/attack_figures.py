"""Error of real networks under attack over whole test sets, beside the figures that papers print.

    python benchmarks/attack_figures.py --nets DIR_WITH_ONNX --data DIR_WITH_MNIST_AND_FASHION_MNIST \
        --network sdp_mnist [--eps 0.1] [--clip] [--attack clean,fgsm,pgd] [--images 10000]

Each attack is on the l-infinity ball around each image, cut to [0, 1] with `--clip`, and its points are replayed in
the model in float64. `--steps` and `--restarts` go to the attacks that have them. The error under all attacks together
is the last line. The SDP paper (Raghunathan et al. 2018) prints 4.2 % clean error and 15-16 % under PGD at eps 0.1 for
sdp_mnist.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from exact_decision import images_for
from lp_warm_start import read

from properties import LinfBall
from verifier import attack
from verifier.attacks import LOSSES, PGD, REGISTRY, STARTS, Attack, make


def prepared(name: str, arguments: argparse.Namespace) -> Attack:
    """The attack of that name with the options that it has."""
    if not isinstance(make(name), PGD):
        return make(name, seed=arguments.seed)
    loss, start = LOSSES[arguments.loss](), STARTS[arguments.start]()
    options = {"step": arguments.step, "momentum": arguments.momentum, "targeted": arguments.targeted}
    return make(name, steps=arguments.steps, restarts=arguments.restarts, loss=loss, start=start, seed=arguments.seed,
                **options)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="sdp_mnist")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--clip", action="store_true", help="cut the balls to [0, 1]")
    parser.add_argument("--attack", default="fgsm,pgd", help=f"comma-separated, of {', '.join(sorted(REGISTRY))}")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=12)
    parser.add_argument("--step", type=float, default=0.3)
    parser.add_argument("--momentum", type=float, default=0.75)
    parser.add_argument("--loss", default="margin", choices=sorted(LOSSES))
    parser.add_argument("--start", default="random", choices=sorted(STARTS))
    parser.add_argument("--targeted", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    network = read(arguments.nets / f"{arguments.network}.onnx")
    x, y = images_for(arguments.data, arguments.network, arguments.images)
    with torch.no_grad():
        wrong = network(x).argmax(1) != y
    cut = "cut to [0, 1]" if arguments.clip else "not cut"
    print(
        f"{arguments.network}, {len(x)} images, eps {arguments.eps}, {cut}: clean {100 * wrong.double().mean():.2f} %"
    )
    ball, together = LinfBall(x, arguments.eps, (0.0, 1.0) if arguments.clip else None), wrong.clone()
    for name in arguments.attack.split(","):
        began = time.perf_counter()
        found = attack(network, x, input_set=ball, label=y, method=prepared(name, arguments))
        seconds, together = time.perf_counter() - began, together | found.success
        print(f"  {name:12} {100 * found.error:.2f} %, {int(found.success.sum())} images, {seconds:.1f} s", flush=True)
    print(f"  {'together':12} {100 * together.double().mean():.2f} %")


if __name__ == "__main__":
    main()
