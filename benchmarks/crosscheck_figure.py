"""The figure of Wong's thesis (2020, figure 3.8): dual bounds against the linear program, for three kinds of training.

    python benchmarks/crosscheck_figure.py --nets DIR_WITH_ONNX --data DIR_WITH_MNIST --out out [--images 20]

One architecture (Wong & Kolter's `small`), first test images of MNIST, with three sets of weights: trained robustly
(the published wk17a_mnist), trained for accuracy alone (here: Adam on cross-entropy), and random as torch initialises
them. Writes crosscheck.png and one CSV per network, prints the gaps, and fails where a law is broken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from dual_vs_auto_lirpa import read_network, small_network
from rich.console import Console
from torch import nn

from verifier.comparison import CrossCheck, crosscheck
from verifier.comparison.plot import draw


def untrained(arrays: dict[str, np.ndarray], seed: int = 0) -> nn.Module:
    """The architecture with torch's initial weights."""
    torch.manual_seed(seed)
    network = small_network(arrays)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.reset_parameters()
    return network


def standard(arrays: dict[str, np.ndarray], data: Path, steps: int = 600, batch: int = 100, seed: int = 0) -> nn.Module:
    """The architecture trained on the training images, without a thought of robustness."""
    network = untrained(arrays, seed)
    with np.load(data) as archive:
        images, labels = archive["images"], torch.from_numpy(archive["labels"].astype(np.int64))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        index = torch.randint(len(images), (batch,))
        x = torch.from_numpy(images[index.numpy()]).float().unsqueeze(1) / 255
        loss = nn.functional.cross_entropy(network(x), labels[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True, help="directory with wk17a_mnist.onnx")
    parser.add_argument("--data", type=Path, required=True, help="directory with mnist/mnist_{train,test}.npz")
    parser.add_argument("--out", type=Path, required=True, help="directory for the picture and the tables")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--exact-seconds", type=float, default=0.0, help="for each row; 0: no exact values")
    parser.add_argument("--only", choices=("robust", "random", "standard"), action="append")
    options = parser.parse_args()
    mnist = options.data / "mnist"
    arrays = read_network(options.nets / "wk17a_mnist.onnx", mnist / "mnist_test.npz", options.images)
    makers = {
        "robust": lambda: small_network(arrays),
        "random": lambda: untrained(arrays),
        "standard": lambda: standard(arrays, mnist / "mnist_train.npz"),
    }
    x, y = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    options.out.mkdir(parents=True, exist_ok=True)
    reports: dict[str, CrossCheck] = {}
    for name in options.only or makers:
        network = makers[name]()
        with torch.no_grad():
            correct = int((network(x).argmax(1) == y).sum())
        print(f"{name}: {correct} of {len(x)} correct", flush=True)
        report = crosscheck(
            network, x, options.eps, label=y, clip=(0, 1), exact_seconds=options.exact_seconds, progress=_say
        )
        Console().print(report.table())
        report.to_csv(options.out / f"crosscheck_{name}.csv")
        reports[name] = report
        draw(reports, options.out / "crosscheck.png")
    for report in reports.values():
        report.check()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
