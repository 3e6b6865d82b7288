"""Sizes of trees by rules of branching, on one list of problems with the same bounds of neurons, in one run.

    python benchmarks/branching_rules.py --instances LIST/instances.csv [--first 20] [--most 5000]

Of each instance (a network and a property, as `verifier bench` takes them) bounds by optimised slopes are found once,
and then the open clauses are searched with each rule, until they are proved or the tree has `--most` subdomains:

- `tried`: what the searches use (verifier.branching.split.TriedGains);
- `babsr`: the neuron of the largest score of Bunel et al. (2020), section 5.3, nothing tried;
- `fsb`: filtered smart branching (De Palma et al. 2021): the best by that score, and as many by the upper line's part
  of it alone, are tried, and the one whose worse half is bounded best is split;
- `estimates`: the estimates of `tried` alone, nothing tried.

Counterexamples are not looked for: what is open is open. A row per instance that some rule needs a tree for, and the
geometric means of sizes and CPU seconds over those that all rules close.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from properties.vnnlib_floats import batches
from properties.vnnlib_hull import float32_hull
from verifier.arithmetic import precise_arithmetic
from verifier.bound_map import Bounds
from verifier.branching.dual import BackwardPass, SubdomainDual
from verifier.branching.matrices import Matrices
from verifier.branching.search import SearchSettings, SubdomainSearch
from verifier.branching.split import Halved, SplitRule, TriedGains, places, tried
from verifier.branching.subdomains import Subdomains
from verifier.budget import Budget
from verifier.graph.onnx_model import OnnxModel
from verifier.ops.base import Activation
from verifier.query import Query
from verifier.stages import stage
from verifier.vnncomp.bench_list import instances_of
from verifier.vnncomp.solve import read_property


@dataclass(frozen=True)
class Babsr:
    """The score of Bunel et al. (2020): what the bound would gain, to first order, by fixing a ReLU.

    Biases are those of the condensed network, the constants of what its neurons read.

    Args:
        tried: neurons by the score, and as many by the intercept's part alone, that are tried; 0: the best is taken.
    """

    tried: int = 0

    def choose(
        self, dual: SubdomainDual, halved: Halved, subdomains: Subdomains, backward: BackwardPass
    ) -> tuple[Tensor, Tensor]:  # [D] int64 and [D]
        at = places(dual, halved, subdomains)
        score, intercept = (torch.where(at.isnan(), -torch.inf, s) for s in self.scores(dual, backward))
        if self.tried == 0:
            best = score.argmax(1, keepdim=True)
            return best[:, 0], at.gather(1, best)[:, 0]
        count = min(self.tried, score.shape[1])
        entries = torch.cat([score.topk(count, 1).indices, intercept.topk(count, 1).indices], 1)
        worse = tried(dual, subdomains, backward, entries, at).amin(0)
        worse = torch.where(at.gather(1, entries).isnan(), -torch.inf, worse)
        best = entries.gather(1, worse.argmax(1, keepdim=True))
        return best[:, 0], at.gather(1, best)[:, 0]

    def scores(self, dual: SubdomainDual, backward: BackwardPass) -> tuple[Tensor, Tensor]:  # [D, Z] each
        lower, upper = dual.ends
        slope, nu_hat = upper / (upper - lower), backward.nu_hat
        intercept = nu_hat.clamp(max=0) * (-lower * slope)
        bias = nu_hat * dual.net.bias
        moved = torch.maximum(bias * (slope - 1), bias * slope)
        return (moved + intercept).abs(), intercept.abs()


RULES: dict[str, SplitRule] = {
    "tried": TriedGains(4), "babsr": Babsr(), "fsb": Babsr(tried=3), "estimates": TriedGains(1),
}  # fmt: skip


class _Blind:
    """Looks for no counterexample."""

    value = math.inf

    def follow(self, forms: Tensor) -> bool:  # [D, n]
        return False

    def look(self, points: Tensor) -> bool:  # [k, n]
        return False


def problem(network: Path, property_file: Path) -> tuple[Query, Bounds] | None:
    """An instance's one case and its bounds by optimised slopes; None where there is nothing to branch on."""
    model, prop = OnnxModel.load(network), read_property(property_file)
    (part, *more) = batches(float32_hull(prop), 1)
    graph = model.graph.to("cpu", torch.float64)
    query = Query.of(graph, part.box(model.input_shape), part.spec)
    ops = [graph.nodes[i].op for i in graph.activations]
    if more or part.with_inputs or not all(isinstance(op, Activation) and op.piecewise_linear for op in ops):
        return None
    bounds = Bounds()
    for name in ("interval", "dual-adaptive", "dual-optimised"):
        report = stage(name).run(query, bounds, Budget())
        bounds = bounds.intersect(report.bounds)
    assert report.lower is not None
    return None if query.spec.worst(report.lower).min() > 0 else (query, bounds)


def searched(query: Query, bounds: Bounds, rule: SplitRule, most: int) -> tuple[int, float, float]:
    """Subdomains of the tree, the share of it that is closed, and CPU seconds."""
    began = time.process_time()
    dual = SubdomainDual.of(Matrices.of(query, bounds), query.spec.clause)
    enough = torch.zeros(query.spec.rows.shape[1], dtype=torch.float64)
    search = SubdomainSearch(dual, enough, SearchSettings(most=most, rule=rule))
    clauses = torch.arange(query.spec.clauses)
    found = search.run(clauses, _Blind(), math.inf, lambda: False)
    return search.tree.size, found.closed, time.process_time() - began


def compare(name: str, query: Query, bounds: Bounds, most: int) -> dict[str, tuple[int, float, float]] | None:
    found = {rule: searched(query, bounds, chooser, most) for rule, chooser in RULES.items()}
    cells = []
    for size, closed, seconds in found.values():
        share = "" if closed == 1 else f" ({closed:.0%})"
        cells.append(f"{f'{size}{share}':>9} {seconds:4.0f} s")
    print(f"{name[:44]:<44}", *cells, sep="  ", flush=True)
    return found if all(closed == 1 for _, closed, _ in found.values()) else None


def mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=Path, required=True)
    parser.add_argument("--first", type=int, default=10**9, help="instances of the list")
    parser.add_argument("--most", type=int, default=5000, help="subdomains of a tree")
    arguments = parser.parse_args()
    print(" " * 44, *(f"{rule:>16}" for rule in RULES), sep="  ")
    closed = []
    with precise_arithmetic(), torch.no_grad():
        for instance in instances_of(arguments.instances)[: arguments.first]:
            asked = problem(instance.network, instance.property_file)
            found = None if asked is None else compare(instance.name, *asked, arguments.most)
            if found is not None:
                closed.append(found)
    if closed:
        print(f"{len(closed)} that all rules close, in units of the first rule")
        first, *_ = RULES
        for rule in RULES:
            size, seconds = (mean([found[rule][k] / found[first][k] for found in closed]) for k in (0, 2))
            print(f"  {rule:<10} size {size:.2f}, CPU seconds {seconds:.2f}")


if __name__ == "__main__":
    main()
