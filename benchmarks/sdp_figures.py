"""The semidefinite certificate of Raghunathan et al. (2018) on their own network, beside the figures they print.

    python benchmarks/sdp_figures.py --nets DIR_WITH_ONNX --data DIR_WITH_MNIST [--images 10000] [--save FILE]

The l-infinity ball of radius 0.1, not cut to [0, 1], as in the paper (cut as well, in the last rows): the share of test
images that a bound does not prove, for the semidefinite bound (eq. 16), the spectral bound (eq. 17), the Frobenius
bound (eq. 18), and the dual bound with fixed slopes of Wong & Kolter (2018), which is what table 1 calls LP bound.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lp_warm_start import read
from torch import Tensor

from properties import LinfBall, robustness
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.sdp import SdpBounds
from verifier.sdp.bounds import middle_and_radius
from verifier.stages import stage

EPS, PART = 0.1, 500
#: per cent, sections 1 and 6.2 and table 1 (figure 2 gives no numbers for the two norms)
PAPER = {"clean": 4.2, "semidefinite": 35.0, "dual, fixed slopes": 99.0}


def pairs(classes: int) -> Tensor:
    """One row for each pair of classes."""
    identity = torch.eye(classes, dtype=torch.float64)
    return torch.stack([identity[i] - identity[j] for i in range(classes) for j in range(i)])


def show(name: str, error: float, seconds: float) -> None:
    paper = f"{PAPER[name]:.1f} %" if name in PAPER else "-"
    print(f"{name:34} {error:7.2f} % {paper:>9} {seconds:9.1f} s", flush=True)


def unproved(bound: Callable[[Query], Tensor], query: Query) -> tuple[float, float]:
    """Share of examples with a row that is not proved, in per cent, and seconds."""
    began, proved = time.perf_counter(), 0
    for start in range(0, query.batch, PART):
        part = query.select(torch.arange(start, min(start + PART, query.batch)))
        proved += int((part.spec.worst(bound(part)) > 0).sum())
    return 100 * (1 - proved / query.batch), time.perf_counter() - began


def by_norms(bounds: SdpBounds, reach: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Query], Tensor]:
    """Rows less their reach by norms, which depends on the row alone for one radius."""

    def bound(query: Query) -> Tensor:
        middle, radius = middle_and_radius(query.inputs)
        value = query.spec.values(bounds.network.graph.forward(middle).flatten(1))
        rows, of_row = query.spec.rows.flatten(0, 1).unique(dim=0, return_inverse=True)
        return value - reach(rows, radius).gather(1, of_row.reshape(value.shape))

    return bound


def dual(query: Query) -> Tensor:
    lower = stage("dual").run(query, Bounds(), Budget()).lower
    assert lower is not None
    return lower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--save", type=Path, help="where to write the certificates")
    options = parser.parse_args()
    network = read(options.nets / "sdp_mnist.onnx").double()
    with np.load(options.data / "mnist" / "mnist_test.npz") as archive:
        x = torch.from_numpy(archive["images"][: options.images]).double().unsqueeze(1) / 255
        y = torch.from_numpy(archive["labels"][: options.images].astype(np.int64))
    graph = import_torch(network, x[:1])
    with torch.no_grad():
        clean = 100 * float((graph.forward(x).flatten(1).argmax(1) != y).double().mean())

    began, bounds = time.perf_counter(), SdpBounds(graph)
    rows = pairs(10)
    bounds.solve(rows)
    seconds, unit = time.perf_counter() - began, torch.ones(1, 1, 28, 28, dtype=torch.float64)
    values = torch.tensor([found.value for row in rows if (found := bounds.certificate(row)) is not None])
    gap = float((bounds.reach(rows, unit)[0] / values - 1).max())
    means = [float((EPS * f(rows, unit)).mean()) for f in (bounds.reach, bounds.spectral, bounds.frobenius)]
    print(f"{len(bounds)} certificates in {seconds:.1f} s, at most {gap:.1e} above the program's value")
    print("mean reach of a row: semidefinite {:.3f}, spectral {:.3f}, Frobenius {:.3f}".format(*means))
    if options.save is not None:
        bounds.save(options.save)

    print(f"\n{len(x)} images, eps {EPS}\n{'bound':34} {'error':>9} {'paper':>9} {'bounding':>11}")
    show("clean", clean, 0.0)
    for clip in (None, (0.0, 1.0)):
        query, after = Query.of(graph, LinfBall(x, EPS, clip), robustness(y, 10)), ", cut to [0, 1]" if clip else ""
        show("semidefinite" + after, *unproved(bounds.lower, query))
        show("spectral" + after, *unproved(by_norms(bounds, bounds.spectral), query))
        show("Frobenius" + after, *unproved(by_norms(bounds, bounds.frobenius), query))
        show("dual, fixed slopes" + after, *unproved(dual, query))


if __name__ == "__main__":
    main()
