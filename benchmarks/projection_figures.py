"""Figures 6 and 7 of Wong et al. (2018) redrawn: how good the median estimator is, and what the exact bound costs.

    python benchmarks/projection_figures.py --nets DIR_WITH_ONNX --data DIR_WITH_MNIST --out FOLDER \
        [--examples 10] [--memory 2000] [--deep 1 2 3 4] [--device cuda]

Figure 6: relative errors of the estimated widths of the second convolution's neurons, in a random network and in a
robustly trained one (wk17a_mnist). Figure 7: seconds of the robust loss with its gradient, and the memory that is kept
between the two, for one MNIST-sized example at a time, exact and with 50 projections, on the paper's networks Deep(k),
whose units and weights grow linearly with k. (The paper has one 3 by 3 convolution. Our exact bound of that is linear
in its units as well, by intervals and patches.) The exact bound stops where it would pass --memory.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from data_sets import images
from lp_warm_start import read
from torch import Tensor, nn

from properties import LinfBall, robustness
from training.architectures import deep
from training.dual_loss import robust_loss
from verifier.attacks.losses import cross_entropy
from verifier.bound_map import Bounds, Interval
from verifier.graph import Graph
from verifier.graph.torch_import import import_torch
from verifier.projection import Draws, cauchy_scale, estimated_margins
from verifier.projection.forward import project
from verifier.query import Query
from verifier.relaxation.interval import SOURCE, propagate
from verifier.zonotope import bands, region

ROWS = (10, 50, 100)
EPS = 0.1


# figure 6 ------------------------------------------------------------------------------------------------------------


def relative_errors(graph: Graph, ball: LinfBall, rows: int) -> Tensor:
    """Of the widths of all neurons of the second convolution, against their exact l1 norms: [B * n]."""
    with torch.no_grad():
        query = Query.of(graph, ball, robustness(torch.zeros(ball.batch, dtype=torch.int64), 10))
        ranges = propagate(query, Bounds())
        node = graph.pre_activations[1]
        known = Bounds({i: Interval.of(*ranges[i], SOURCE) for i in graph.pre_activations})
        low, high = region(graph, ball, known, node).interval()
        draws = Draws(rows, torch.Generator().manual_seed(rows))
        noise = project(graph, ball, bands(graph, known, node), node, draws)
        assert noise.cauchy is not None
        return (cauchy_scale(noise.cauchy) / (0.5 * (high - low)) - 1).flatten()


def random_like(model: nn.Module) -> nn.Module:
    """The same architecture with the weights that PyTorch starts from."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


def figure_6(arguments: argparse.Namespace) -> dict[str, list[Tensor]]:
    x, _ = images(arguments.data, count=arguments.examples)
    path = arguments.nets / "wk17a_mnist.onnx"
    ball, found = LinfBall(x, EPS, (0.0, 1.0)), {}
    for name, model in (("random", random_like(read(path))), ("robustly trained", read(path))):
        graph = import_torch(model.eval(), x[:1])
        found[name] = [relative_errors(graph, ball, rows) for rows in ROWS]
        for rows, errors in zip(ROWS, found[name], strict=True):
            print(
                f"{name:17} r = {rows:3}: mean {float(errors.mean()):+.4f}, deviation {float(errors.std()):.4f} "
                f"(Li et al.: {math.pi / 2 / math.sqrt(rows):.4f}), worst {float(errors.abs().max()):.2f}"
            )
    return found


# figure 7 ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    units: int
    seconds: float  #: per example
    megabytes: float  #: kept for the gradient


def cost(k: int, projections: int | None, arguments: argparse.Namespace) -> Cost:
    """Of loss and gradient, averaged over examples taken one at a time."""
    device = arguments.device
    x, y = (t.to(device) for t in images(arguments.data, count=arguments.examples))
    torch.manual_seed(0)
    graph = import_torch(deep(k=k).to(device).eval(), x[:1])
    units = sum(graph.nodes[i].size for i in graph.pre_activations)
    generator = torch.Generator(device).manual_seed(0)

    def loss(i: int) -> Tensor:
        ball = LinfBall(x[i : i + 1], EPS, (0.0, 1.0))
        if projections is None:
            return robust_loss(graph, ball, y[i : i + 1])[0]
        query = Query.of(graph, ball, robustness(y[i : i + 1], 10))
        return cross_entropy(estimated_margins(query, Draws(projections, generator))).mean()

    kept = megabytes_kept(lambda: loss(0))
    began = time.perf_counter()
    for i in range(arguments.examples):
        loss(i).backward()
    if device != "cpu":
        torch.cuda.synchronize()
    return Cost(units, (time.perf_counter() - began) / arguments.examples, kept)


def megabytes_kept(function: Callable[[], Tensor]) -> float:
    """What autograd keeps between a function and its gradient, each storage once."""
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in sizes:
            alive.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function().backward()
    return sum(sizes.values()) / 2**20


def figure_7(arguments: argparse.Namespace) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {"exact": [], "50 random projections": []}
    for name, projections in (("exact", None), ("50 random projections", 50)):
        before = 1
        for k in arguments.deep:
            last = found[name][-1] if found[name] else None
            if projections is None and last is not None:
                expected = last.megabytes * (k / before) ** 2
                if expected > arguments.memory:
                    print(f"{name}: Deep({k}) would keep {expected:.0f} MB at least; stopped")
                    break
            found[name].append(cost(k, projections, arguments))
            before = k
            done = found[name][-1]
            print(f"{name:22} {done.units:8} units: {done.seconds:.4f} s, {done.megabytes:.0f} MB", flush=True)
    return found


def draw(errors: dict[str, list[Tensor]], costs: dict[str, list[Cost]], out: Path) -> None:
    """projections.png: the histograms above, time and memory below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 7))
    for axis, (name, found) in zip(axes[0], errors.items(), strict=True):
        for rows, values in zip(ROWS, found, strict=True):
            axis.hist(values.numpy(), bins=80, range=(-1, 1), histtype="step", density=True, label=f"r = {rows}")
        axis.set(title=f"{name} layer", xlabel="relative error of the median estimator", ylabel="density")
        axis.legend()
    for axis, quantity, label in zip(
        axes[1], ("seconds", "megabytes"), ("seconds per example", "kept for the gradient, MB"), strict=True
    ):
        for name, found in costs.items():
            axis.plot([c.units for c in found], [getattr(c, quantity) for c in found], marker="o", label=name)
        axis.set(xlabel="hidden units", ylabel=label)
        axis.legend()
    figure.tight_layout()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "projections.png", dpi=150)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--examples", type=int, default=10)
    parser.add_argument("--memory", type=float, default=2000, help="megabytes at which the exact bound stops")
    parser.add_argument("--deep", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(given)
    draw(figure_6(arguments), figure_7(arguments), arguments.out)
    print(f"drawn in {arguments.out / 'projections.png'}")


if __name__ == "__main__":
    main()
