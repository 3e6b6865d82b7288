"""Certified against attacked accuracy over the radius of the Wasserstein ball, for which the thesis had no certificate.

    python benchmarks/wasserstein_figures.py --nets DIR --data DIR [--network wk_mnist] [--images 100]
        [--eps 0.001,0.002,0.005,0.01] [--lp 20] [--plot FILE.png]

Per radius, in the thesis's unit (Wong 2020, section 5.1: pixels per unit of mass, 5 x 5 local plans, pixels in [0, 1]):
clean accuracy, accuracy under our attack (projected Sinkhorn), accuracy certified by dual bounds, by optimised ones,
and, on the first `--lp` of the images that are left, by the linear program over the whole set. Every row says how many
images are in no one's hands: neither proved nor broken.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from dual_vs_auto_lirpa import read_network, small_network

from properties import WassersteinBall, robustness
from verifier import Verdict, Verifier

#: what is run one after the other: name of the column, stages
STEPS = (
    ("clean", ["clean"]),
    ("dual", ["dual", "dual-adaptive"]),
    ("attack", ["attack"]),
    ("optimised", ["dual-optimised"]),
    ("lp", ["lp"]),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="wk_mnist")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--eps", default="0.001,0.002,0.005,0.01,0.02")
    parser.add_argument("--lp", type=int, default=20, help="how many of the images that are left the LP is tried on")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    data = "fashion_mnist" if "fashion" in options.network else "mnist"
    arrays = read_network(
        options.nets / f"{options.network}.onnx", options.data / data / f"{data}_test.npz", options.images
    )
    x, y = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    model = small_network(arrays)
    print(f"{options.network}, {len(x)} images, accuracy in per cent")
    rows = [(eps, *at_radius(model, x, y, eps, options.lp)) for eps in map(float, options.eps.split(","))]
    if options.plot is not None:
        draw(sorted(rows), options.plot)


def at_radius(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, most: int
) -> tuple[float, float, float, float]:
    """Accuracy under attack, certified by dual, by optimised bounds, and with the LP; prints the row."""
    open_ = torch.ones(len(x), dtype=torch.bool)
    proved, broken, tried = 0, 0, 0
    certified: dict[str, float] = {}
    for name, stages in STEPS:
        index = open_.nonzero().squeeze(1)
        index = index[:most] if name == "lp" else index
        tried = len(index)
        began, worked = time.perf_counter(), time.process_time()
        if tried:
            verifier = Verifier(model, x[:1], stages=stages)
            result = verifier.run(WassersteinBall(x[index], eps, (0.0, 1.0)), robustness(y[index], verifier.classes))
            for i, verdict in zip(index.tolist(), result.verdict, strict=True):
                open_[i] = verdict is Verdict.UNKNOWN
                proved += verdict is Verdict.VERIFIED
                broken += verdict is Verdict.FALSIFIED
        certified[name] = 100 * proved / len(x)
        spent = f"{time.perf_counter() - began:.0f} s, {time.process_time() - worked:.0f} s of processor"
        found = f"certified {certified[name]:.1f}, broken {100 * broken / len(x):.1f}"
        print(f"    eps {eps:g}, {name}, {tried} images: {found} ({spent})", flush=True)
    attacked = 100 - 100 * broken / len(x)
    print(
        f"  eps {eps:g}: under attack {attacked:.1f}, certified {certified['lp']:.1f}, open {int(open_.sum())} images "
        f"(LP tried on {tried})",
        flush=True,
    )
    return attacked, certified["dual"], certified["optimised"], certified["lp"]


def draw(rows: list[tuple[float, float, float, float, float]], path: Path) -> None:
    """Accuracies over the radius."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    names = ("under attack", "certified: dual", "certified: optimised", "certified: with LP")
    for k, name in enumerate(names):
        line = "--" if k == 3 else "-"  # it often lies on the one before
        axes.plot([r[0] for r in rows], [r[k + 1] for r in rows], line, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel="radius (pixels per unit of mass)", ylabel="accuracy (%)", ylim=(-3, 103))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
