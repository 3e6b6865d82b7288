"""Figure 2, figure 4b and table 1 of Raghunathan et al. (2018), with networks that our methods train.

    python benchmarks/raghunathan_training.py run sdp dual standard frobenius spectral mixed --data DIR --out DIR
    python benchmarks/raghunathan_training.py run published --nets DIR --data DIR --out DIR
    python benchmarks/raghunathan_training.py draw DIR/raghunathan_*.json --table TABLE.csv --plot PICTURE.png

`run` trains networks with one hidden layer on MNIST, measures them on the test set over the radius, and writes a record
of each into --out. A training run has a folder there and goes on where it was stopped; certificates and records are
kept, so that what is there is not made again. `draw` makes a table and a picture of records.

The names are those of the paper's networks: NT-NN standard, Fro-NN frobenius, Spe-NN spectral, AT-NN mixed, SDP-NN sdp,
and LP-NN of its table 1 and of table 3.2 of Wong's thesis, dual. `published` is the SDP-NN of its authors.

Balls are not cut to [0, 1], as in the papers; only at the last radius both are measured. Errors are shares of images
that are not proved right on the whole ball, by the semidefinite bound (eq. 16), its dual variables as a short ascent
leaves them, without the program being solved (figure 4b), both norms (eqs. 17 and 18) and the dual bound with fixed
slopes of Wong & Kolter (2018), which the papers call LP bound; and of images that PGD on the cross-entropy breaks.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from data_sets import images
from lp_warm_start import read
from sdp_figures import by_norms, dual, pairs, unproved
from torch import Tensor, nn

from properties import LinfBall, robustness
from training import AdversarialTraining, DualTraining, NormTraining, SdpTraining, Standard, TrainingMethod, train
from training.architectures import two_layer
from training.checkpoint import replaced
from training.run_folder import LOG_JSON
from training.schedule import Optimiser
from training.sdp_dual import certificates_from_duals, starting_duals
from training.watcher import ProgressBar
from verifier import attack
from verifier.attacks import PGD, CrossEntropy
from verifier.attacks.starts import Random
from verifier.graph import Graph
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.sdp import SdpBounds

EPS = 0.1
BOUNDS = ("semidefinite", "dual variables", "spectral", "frobenius", "dual, fixed slopes")
HEAD = ("network", "eps", "clipped", "clean", "PGD", *BOUNDS)
ADAM = Optimiser(rate=3e-3)


@dataclass(frozen=True)
class Network:
    """One of the papers' networks: what it is called there, how it is trained here, and for how many epochs."""

    title: str
    method: TrainingMethod
    epochs: int
    images: int = 60_000


NETWORKS = {
    "standard": Network("NT-NN", Standard(eps=EPS, clip=None), 10),
    "frobenius": Network("Fro-NN", NormTraining(eps=EPS, clip=None, norm="frobenius", weight=0.08), 10),
    "spectral": Network("Spe-NN", NormTraining(eps=EPS, clip=None, norm="spectral", weight=0.09), 10),
    # a weight of 0.5 for the adversarial loss beside the clean one
    "mixed": Network("AT-NN", AdversarialTraining(eps=0.3, clean=2 / 3, steps=40, step=1 / 3, batch=100), 8, 20_000),
    "sdp": Network("SDP-NN", SdpTraining(eps=EPS, clip=None, batch=100, optimiser=ADAM, reweigh=3), 12),
    "dual": Network("LP-NN", DualTraining(eps=EPS, clip=None, projections=None, batch=100), 12, 20_000),
}
PUBLISHED = "published"


def trained(name: str, options: argparse.Namespace) -> nn.Module:
    """Train, or go on, or read what is there."""
    which = NETWORKS[name]
    x, y = images(options.data, part="train", count=options.images or which.images)
    torch.manual_seed(options.seed)
    network = two_layer(tuple(x.shape[1:]), 10, options.hidden)
    about = {"network": f"training.architectures:two_layer:{options.hidden}", "data": ["mnist_train.npz"]}
    return train(
        network, (x, y), which.method, epochs=options.epochs or which.epochs, out=options.out / name, resume=True,
        seed=options.seed, validation=0, stages=(), watcher=ProgressBar(), about=about,
    ).model  # fmt: skip


def solved(graph: Graph, path: Path) -> tuple[SdpBounds, float]:
    """The certificates of all pairs of classes, kept in a file, and seconds of the processor that they took now."""
    if path.exists():
        return SdpBounds.load(path, graph), 0.0
    began, bounds = time.process_time(), SdpBounds(graph)
    bounds.solve(pairs(10))
    bounds.save(path)
    return bounds, time.process_time() - began


def from_duals(graph: Graph) -> SdpBounds:
    """Certificates from dual variables as training starts an epoch with them: no program is solved."""
    rows = pairs(10)
    return certificates_from_duals(graph, rows, starting_duals(graph, rows, torch.Generator().manual_seed(0)))


def broken(
    network: nn.Module, x: Tensor, label: Tensor, ball: LinfBall, options: argparse.Namespace
) -> float:  # [B, *input], [B]
    """Share of images that PGD breaks: the cross-entropy, from random points of the ball."""
    search = PGD(options.steps, options.restarts, loss=CrossEntropy(), start=Random(), first=Random())
    return attack(network, x, input_set=ball, label=label, method=search).error


def measured(network: nn.Module, options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Errors over the radius on the test images, and the mean reach of a pair at radius EPS."""
    x, y = images(options.data, count=options.test)
    graph, precise = import_torch(network, x[:1]), import_torch(network, x[:1]).to(dtype=torch.float64)
    (bounds, seconds), quick = solved(precise, path), from_duals(precise)
    ways: dict[str, tuple[Graph, Callable[[Query], Tensor]]] = {
        "semidefinite": (precise, bounds.lower), "dual variables": (precise, quick.lower),
        "spectral": (precise, by_norms(bounds, bounds.spectral)),
        "frobenius": (precise, by_norms(bounds, bounds.frobenius)), "dual, fixed slopes": (graph, dual),
    }  # fmt: skip
    with torch.no_grad():
        clean = float((graph.forward(x).flatten(1).argmax(1) != y).double().mean())
    rows = []
    for eps, clip in [*((eps, None) for eps in options.eps), (options.eps[-1], (0.0, 1.0))]:
        row: dict[str, Any] = {"eps": eps, "clipped": clip is not None, "clean": clean}
        few = slice(options.attacked)
        row["PGD"] = broken(network, x[few], y[few], LinfBall(x[few], eps, clip), options)
        for name, (used, bound) in ways.items():
            query = Query.of(used, LinfBall(x.to(used.dtype), eps, clip), robustness(y, 10))
            row[name] = unproved(bound, query)[0] / 100
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    unit = torch.ones_like(x[:1], dtype=torch.float64)
    certified = {"semidefinite": bounds, "dual variables": quick}
    reach = {name: float(EPS * found.reach(pairs(10), unit).mean()) for name, found in certified.items()}
    attacked = {"attacked": min(options.attacked, len(x)), "steps": options.steps, "restarts": options.restarts}
    return {"rows": rows, "reach": reach, "seconds of certificates": round(seconds, 1), "test": len(x), **attacked}


def balance(network: nn.Module, bounds: SdpBounds, x: Tensor, label: Tensor) -> float:  # [N, *input], [N]
    """The lambda of eq. 15 at which hinge loss and penalty pull the scale of the outputs equally, on training images.

    A network that minimises eq. 15 has its lambda here. Times s, its outputs have the hinge loss mean(1 - s margin)^+
    and the penalty s lambda sum_ij w_ij max <M_ij, P>, with w_ij the shares of the pairs in eq. 12.
    """
    unit = torch.ones_like(x[:1], dtype=torch.float64)
    value = torch.zeros(10, 10, dtype=torch.float64)
    for row, reach in zip(pairs(10), bounds.reach(pairs(10), unit)[0], strict=True):
        i, j = int(row.argmax()), int(row.argmin())
        value[i, j] = value[j, i] = 4 * reach
    with torch.no_grad():
        outputs = network(x).double()
    true = outputs.gather(1, label.unsqueeze(1))
    others = outputs.scatter(1, label.unsqueeze(1), -torch.inf)
    margin = true.squeeze(1) - others.amax(1)
    worst = (others - true + EPS / 4 * value[label]).argmax(1)
    return float((margin * (margin < 1)).mean() / value[label, worst].mean())


def run(options: argparse.Namespace) -> None:
    """A record of each network that is asked for."""
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        record = options.out / f"raghunathan_{name}.json"
        if record.exists():
            print(f"{record} is there")
            continue
        if name == PUBLISHED:
            if options.nets is None:
                raise SystemExit("give --nets the folder with sdp_mnist.onnx, the network that is published")
            network, log = read(options.nets / "sdp_mnist.onnx").float().eval(), None
        else:
            network = trained(name, options)
            log = json.loads((options.out / name / LOG_JSON).read_text(encoding="utf-8"))
        path = options.out / f"{name}.certificates.npz"
        found = measured(network, options, path)
        if name in ("sdp", PUBLISHED):
            x, y = images(options.data, part="train", count=options.images)
            precise = import_torch(network, x[:1]).to(dtype=torch.float64)
            found["balance"] = balance(network, SdpBounds.load(path, precise), x, y)
        text = json.dumps({"network": name, "log": log, "certified": None, "measured": found}, indent=1) + "\n"
        replaced(record, lambda beside, text=text: beside.write_text(text, encoding="utf-8"))  # type: ignore[misc]
        print(f"{name}: {record}")


def rows_of(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Of the table, in the order of HEAD."""
    return [(record["network"], *(row[name] for name in HEAD[1:])) for row in record["measured"]["rows"]]


def draw(options: argparse.Namespace) -> None:
    """The table, as CSV and Markdown, and with --plot figure 2: one panel for each network."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in options.records]
    rows = [row for record in records for row in rows_of(record)]
    with options.table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEAD, *rows])
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for row in rows:
        print("| " + " | ".join([*map(str, row[:3]), *(f"{100 * v:.2f} %" for v in row[3:])]) + " |")
    if options.plot is not None:
        picture(records, options.plot)


def picture(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Errors over the radius, the unclipped ones, a panel for each network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(3, len(records))
    down = -(-len(records) // across)
    figure = Figure(figsize=(3.6 * across, 3 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    styles = {"frobenius": ":", "spectral": "-.", "dual, fixed slopes": "--", "semidefinite": "-", "PGD": "o-"}
    for axis, record in zip(axes, records, strict=False):
        rows = [row for row in record["measured"]["rows"] if not row["clipped"]]
        for name, style in styles.items():
            points = [(0.0, rows[0]["clean"]), *((row["eps"], row[name]) for row in rows)]
            axis.plot(*zip(*points, strict=True), style, label=name, markersize=3)
        known = NETWORKS.get(record["network"])
        axis.set(title=record["network"] if known is None else f"{known.title} ({record['network']})", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    for axis in axes[len(records) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize=7)
    figure.supxlabel("eps")
    figure.supylabel("error on the test images")
    figure.savefig(path, dpi=80)


def numbers(text: str) -> list[float]:
    return sorted(float(part) for part in text.split(","))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    asked = parts.add_parser("run", help="train and measure networks")
    asked.set_defaults(action=run)
    asked.add_argument("names", nargs="+", choices=(*NETWORKS, PUBLISHED), metavar="NAME")
    asked.add_argument("--data", type=Path, required=True, help="folder with mnist/mnist_train.npz and mnist_test.npz")
    asked.add_argument("--out", type=Path, required=True, help="folder for runs, certificates and records")
    asked.add_argument("--nets", type=Path, help="folder with sdp_mnist.onnx (published)")
    asked.add_argument("--hidden", type=int, default=500, help="units of the hidden layer")
    asked.add_argument("--images", type=int, help="training images; default the network's own number")
    asked.add_argument("--epochs", type=int, help="default the network's own number")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--test", type=int, default=10_000, help="test images for the bounds")
    asked.add_argument("--attacked", type=int, default=1000, help="test images, the first, for PGD")
    asked.add_argument("--steps", type=int, default=40, help="of PGD")
    asked.add_argument("--restarts", type=int, default=5, help="of PGD")
    asked.add_argument("--eps", type=numbers, default=[0.01, 0.025, 0.05, 0.075, EPS], help="radii, with commas")
    drawn = parts.add_parser("draw", help="table and picture of records")
    drawn.set_defaults(action=draw)
    drawn.add_argument("records", nargs="+", type=Path)
    drawn.add_argument("--table", type=Path, required=True, help="CSV")
    drawn.add_argument("--plot", type=Path, help="PNG")
    options = parser.parse_args(arguments)
    options.action(options)


if __name__ == "__main__":
    main()
