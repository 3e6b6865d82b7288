"""Rows of real networks over their linear relaxation: ours against a cold solve of the same arrays in the same run.

    python benchmarks/lp_warm_start.py --nets DIR_WITH_ONNX --data DIR_WITH_MNIST [--network wk17a_mnist] [--images 10]

For the images with the least certain bounds, all rows of each: seconds of CPU time per row of

    cold, default    a fresh highspy.Highs, passModel, its default settings
    cold, simplex    the same with our settings: serial dual simplex, no presolve, no scaling
    ours             one session per image, each row from the basis that its dual bound is

and of building the program. The optima are compared, and each is recomputed from its duals by weak duality.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from properties import LinfBall, robustness
from solvers import Program, backend
from solvers.base import Basis
from solvers.highs import COMMON, CONTINUOUS, _arrays
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.encoding import Encoder, Encoding
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.multipliers import dual_bound
from verifier.stages.dual import DualStage

Array = np.ndarray


class Normalise(nn.Module):
    """(x - mean) / deviation, the numbers of an MNIST network that carries them."""

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.deviation


def conv_network(first: nn.Conv2d, second: nn.Conv2d, size: int) -> list[nn.Module]:
    """Two convolutions, a hidden layer of 100, ten classes."""
    tail = [nn.Flatten(), nn.Linear(size, 100), nn.ReLU(), nn.Linear(100, 10)]
    return [first, nn.ReLU(), second, nn.ReLU(), *tail]


def read(path: Path) -> nn.Sequential:
    """A network by its file's name: one of Wong & Kolter's, COLT's or the SDP paper's MNIST networks."""
    import onnx
    from onnx import numpy_helper

    weights = [torch.tensor(numpy_helper.to_array(t)) for t in onnx.load(str(path)).graph.initializer]
    if path.stem == "sdp_mnist":
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10)]
    elif path.stem.startswith("colt_mnist"):
        layers = conv_network(nn.Conv2d(1, 32, 5, 2, 2), nn.Conv2d(32, 64, 4, 2, 1), 3136)
        layers = [Normalise(weights.pop(0), weights.pop(0)), *layers]
    else:
        layers = conv_network(nn.Conv2d(1, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1), 1568)
    network = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), weights, strict=True):
            parameter.copy_(value)
    return network


def hardest(network: nn.Sequential, images: Path, count: int, eps: float) -> tuple[Query, Bounds]:
    """Of the first 300 test images that are classified rightly, those whose worst bound is nearest to zero."""
    with np.load(images) as archive:
        x = torch.from_numpy(archive["images"][:300]).float().unsqueeze(1) / 255
        y = torch.from_numpy(archive["labels"][:300].astype(np.int64))
    with torch.no_grad():
        right = network(x).argmax(1) == y
        x, y = x[right], y[right]
        graph = import_torch(network, x[:1]).to(dtype=torch.float64)
        query = Query.of(graph, LinfBall(x, eps, (0.0, 1.0)), robustness(y, 10))
        report = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget())
    assert report.lower is not None
    chosen = query.spec.worst(report.lower).abs().argsort()[:count]
    return query.select(chosen), report.bounds.select(chosen)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def cold(program: Program, cost: Array, settings: dict[str, object]) -> float:
    """The optimum by a solver that knows nothing yet."""
    import highspy

    solver = highspy.Highs()
    for option, value in {**COMMON, **settings}.items():
        solver.setOptionValue(option, value)
    solver.passModel(*_arrays(program))
    solver.changeColsCost(program.columns, np.arange(program.columns, dtype=np.int32), cost)
    solver.run()
    return float(solver.getInfo().objective_function_value)


def ours(encoding: Encoding, costs: Array) -> tuple[list[float], Array]:
    """All optima in one session, and the row duals [S, m]."""
    starts: list[Basis] = encoding.starts(costs)
    with backend("highs").load(encoding.program) as session:
        answers = []
        for cost, start in zip(costs, starts, strict=True):
            session.start(start)
            answers.append(session.minimise(cost))
    return [a.dual_bound for a in answers], np.stack([a.row_duals for a in answers])


def compare(query: Query, bounds: Bounds) -> dict[str, list[float]]:
    """Seconds: per row of each way to solve, and per program of building and of solving all rows."""
    encoder = Encoder(query.graph)
    encoder.relaxed(query.inputs.select(torch.tensor([0])), bounds.select(torch.tensor([0])))  # what it keeps
    seconds: dict[str, list[float]] = {}
    worst = 0.0
    for i in range(query.batch):
        one = torch.tensor([i])
        part, known = query.select(one), bounds.select(one)

        def build(part: Query = part, known: Bounds = known) -> tuple[Encoding, Array, Array]:
            encoding = encoder.relaxed(part.inputs, known)
            costs, constants = encoding.cost(part.spec.rows[0].double().numpy(), part.spec.offset[0].double().numpy())
            return encoding, costs, constants

        took, (encoding, costs, constants) = timed(build)  # type: ignore[misc]
        seconds.setdefault("build, all rows", []).append(took)
        took, (optima, duals) = timed(lambda e=encoding, c=costs: ours(e, c))  # type: ignore[misc]
        seconds.setdefault("ours, all rows", []).append(took)
        seconds.setdefault("ours", []).append(took / len(costs))
        for name, settings in (("cold, default", {}), ("cold, simplex", CONTINUOUS)):
            runs = [timed(lambda e=encoding, c=c, s=settings: cold(e.program, c, s)) for c in costs]  # type: ignore[misc]
            seconds.setdefault(name, []).append(sum(t for t, _ in runs) / len(costs))
            worst = max(worst, max(abs(float(v) - o) for (_, v), o in zip(runs, optima, strict=True)))  # type: ignore[arg-type]
        recomputed = dual_bound(part, known, encoding.multipliers(duals))[0].numpy()
        worst = max(worst, float(np.abs(recomputed - constants - optima).max()))
    print(f"largest difference between any two of the optima and the recomputed bounds: {worst:.1e}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default="wk17a_mnist")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--eps", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = read(options.nets / f"{options.network}.onnx")
    query, bounds = hardest(network, options.data / "mnist" / "mnist_test.npz", options.images, options.eps)
    seconds = compare(query, bounds)
    for name, values in seconds.items():
        print(f"{name:16s} median {1e3 * statistics.median(values):8.2f} ms   most {1e3 * max(values):8.2f} ms")
    for name in ("cold, default", "cold, simplex"):
        ratios = [a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)]
        print(f"ours against {name}: {statistics.median(ratios):.1f} times faster per row (least {min(ratios):.1f})")


if __name__ == "__main__":
    main()
