"""Robust error of Wong & Kolter's own networks over whole test sets, beside the figures that their paper prints.

    python benchmarks/paper_figures.py --nets DIR_WITH_ONNX --data DIR_WITH_MNIST_AND_FASHION_MNIST [--images 10000]

For each network, unclipped and clipped to [0, 1]: clean error, error reached by the attack, and robust error by the
dual bound with fixed slopes (what the paper reports), with adaptive slopes, and by the default ladder (either).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from dual_vs_auto_lirpa import read_network, small_network

from properties import LinfBall, robustness
from verifier import Verdict, Verifier

#: network: (data set, the paper's clean error, its robust error), in per cent; Wong & Kolter (2018), table 1, eps 0.1
NETWORKS = {
    "wk_mnist": ("mnist", 1.80, 5.82),
    "wk17a_mnist": ("mnist", None, None),
    "wk_fashion_mnist": ("fashion_mnist", 21.73, 34.53),
}


def proved(verifier: Verifier, x: torch.Tensor, y: torch.Tensor, clip: tuple[float, float] | None) -> np.ndarray:
    """Verdicts as codes: 1 VERIFIED, -1 FALSIFIED, 0 UNKNOWN."""
    codes = {Verdict.VERIFIED: 1, Verdict.FALSIFIED: -1, Verdict.UNKNOWN: 0}
    out: list[int] = []
    for start in range(0, len(x), 512):
        part = slice(start, start + 512)
        result = verifier.run(LinfBall(x[part], 0.1, clip), robustness(y[part], verifier.classes))
        out += [codes[v] for v in result.verdict]
    return np.array(out)


def table(name: str, nets: Path, data: Path, count: int) -> None:
    """Print one network's rows."""
    data_set, paper_clean, paper_robust = NETWORKS[name]
    arrays = read_network(nets / f"{name}.onnx", data / data_set / f"{data_set}_test.npz", count)
    network = small_network(arrays)
    x, y = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    with torch.no_grad():
        clean = 100 * float((network(x).argmax(1) != y).float().mean())
    print(
        f"{name}: {len(x)} images, clean error {clean:.2f} % (paper {paper_clean}), paper's robust error {paper_robust}"
    )
    for clip in (None, (0.0, 1.0)):
        row = []
        for stages in (["dual"], ["dual-adaptive"], None):
            began = time.perf_counter()
            verdicts = proved(Verifier(network, x[:1], stages=stages), x, y, clip)
            seconds = time.perf_counter() - began
            row.append(f"{100 * (verdicts != 1).mean():.2f} % ({seconds:.0f} s)")
        attacked = 100 * (verdicts == -1).mean()
        print(
            f"  {'clipped' if clip else 'unclipped':10s} robust error: fixed {row[0]}, adaptive {row[1]}, "
            f"ladder {row[2]}; error under attack {attacked:.2f} %; undecided {100 * (verdicts == 0).mean():.2f} %",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    for name in NETWORKS:
        table(name, options.nets, options.data, options.images)


if __name__ == "__main__":
    main()
