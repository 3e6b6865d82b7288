"""What a dual bound costs in each geometry: seconds per threat model, as ratios to l-infinity's, in one run.

    python benchmarks/threat_models.py --nets DIR --data DIR [--network wk_mnist] [--images 512] [--rounds 3]

Radii are chosen so that about as many neurons are unstable as under l-infinity with eps 0.1. Rounds are interleaved;
the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from dual_vs_auto_lirpa import read_network, small_network

from properties import InputSet, L1Ball, L2Ball, LinfBall, robustness
from verifier import Verifier
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.stages import stage

CLIP = (0.0, 1.0)


def kinds(x: torch.Tensor) -> dict[str, InputSet]:
    """The sets to compare, l-infinity first."""
    return {
        "linf 0.1": LinfBall(x, 0.1),
        "l2 0.1": L2Ball(x, 0.1),
        "l1 0.1": L1Ball(x, 0.1),
        "linf 0.1 in [0, 1]": LinfBall(x, 0.1, CLIP),
        "l2 0.1 in [0, 1]": L2Ball(x, 0.1, CLIP),
        "l1 0.1 in [0, 1]": L1Ball(x, 0.1, CLIP),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="wk_mnist")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stage", default="dual")
    options = parser.parse_args()
    data = "fashion_mnist" if "fashion" in options.network else "mnist"
    arrays = read_network(
        options.nets / f"{options.network}.onnx", options.data / data / f"{data}_test.npz", options.images
    )
    x, y = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    verifier = Verifier(small_network(arrays), x[:1])
    spec, bound = robustness(y, verifier.classes), stage(options.stage)
    seconds: dict[str, list[float]] = {}
    proved, unstable = {}, {}
    for _ in range(options.rounds):
        for name, inputs in kinds(x).items():
            query = Query.of(verifier.graph, inputs, spec)
            began = time.perf_counter()
            with torch.no_grad():
                report = bound.run(query, Bounds(), Budget())
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            assert report.lower is not None
            proved[name] = 100 * float((report.lower > 0).all(1).float().mean())
            unstable[name] = sum(
                float(((i.lower < 0) & (i.upper > 0)).flatten(1).sum(1).float().mean())
                for _, i in report.bounds.items()
            )
    base = statistics.median(next(iter(seconds.values())))
    print(f"{options.network}, stage {options.stage}, {len(x)} images, {torch.get_num_threads()} threads")
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(
            f"  {name:20s} {len(x) / middle:7.0f} images/s, {middle / base:5.2f} x linf; "
            f"unstable neurons {unstable[name]:6.1f}; proved {proved[name]:5.1f} %"
        )


if __name__ == "__main__":
    main()
