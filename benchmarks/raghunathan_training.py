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
that are not proved right on the whole ball: by the semidefinite bound (eq. 16), at dual variables of a short ascent
and, of sdp and published, at those of the solved program (figure 4b); by both norms (eqs. 17 and 18); by the dual
bound with fixed slopes of Wong & Kolter (2018), which the papers call LP bound. And of images that PGD on the
cross-entropy breaks. The last two are of the first --few test images.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
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
HEAD = ("network", "eps", "clipped", "clean", "solved", "semidefinite", "spectral", "frobenius", "PGD", "dual")
ADAM = Optimiser(rate=3e-3)


@dataclass(frozen=True)
class Network:
    """One of the papers' networks: what it is called there, how it is trained here, and for how many epochs."""

    title: str
    method: TrainingMethod
    epochs: int
    images: int


NETWORKS = {
    "standard": Network("NT-NN", Standard(eps=EPS, clip=None, batch=100), 10, 20_000),
    "frobenius": Network(
        "Fro-NN", NormTraining(eps=EPS, clip=None, batch=100, norm="frobenius", weight=0.08), 10, 20_000
    ),
    "spectral": Network(
        "Spe-NN", NormTraining(eps=EPS, clip=None, batch=100, norm="spectral", weight=0.09), 10, 20_000
    ),
    # a weight of 0.5 for the adversarial loss beside the clean one; the paper's attack has 40 steps
    "mixed": Network("AT-NN", AdversarialTraining(eps=0.3, clean=2 / 3, steps=5, step=0.5, batch=100), 5, 10_000),
    "sdp": Network("SDP-NN", SdpTraining(eps=EPS, clip=None, batch=100, optimiser=ADAM, reweigh=3), 12, 60_000),
    "dual": Network("LP-NN", DualTraining(eps=EPS, clip=None, projections=None, optimiser=ADAM), 6, 10_000),
}
PUBLISHED = "published"
#: whose programs are solved
SOLVED = ("sdp", PUBLISHED)


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


def solved(graph: Graph, path: Path) -> SdpBounds:
    """The best certificates of all pairs of classes, kept in a file."""
    if path.exists():
        return SdpBounds.load(path, graph)
    bounds = SdpBounds(graph)
    bounds.solve(pairs(10))
    bounds.save(path)
    return bounds


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


def measured(network: nn.Module, options: argparse.Namespace, certificates: Path | None) -> dict[str, Any]:
    """Errors over the radius on the test images, and the mean reach of a pair at radius EPS."""
    x, y = images(options.data, count=options.test)
    graph, few = import_torch(network, x[:1]), slice(options.few)
    precise = graph.to(dtype=torch.float64)
    quick = from_duals(precise)
    certified = {"semidefinite": quick}
    if certificates is not None:
        certified["solved"] = solved(precise, certificates)
    ways: dict[str, Callable[[Query], Tensor]] = {
        **{name: bounds.lower for name, bounds in certified.items()},
        "spectral": by_norms(quick, quick.spectral), "frobenius": by_norms(quick, quick.frobenius),
    }  # fmt: skip
    with torch.no_grad():
        clean = float((graph.forward(x).flatten(1).argmax(1) != y).double().mean())
    rows = []
    for eps, clip in [*((eps, None) for eps in options.eps), (options.eps[-1], (0.0, 1.0))]:
        row: dict[str, Any] = {"eps": eps, "clipped": clip is not None, "clean": clean}
        query = Query.of(precise, LinfBall(x.double(), eps, clip), robustness(y, 10))
        row |= {name: unproved(bound, query)[0] / 100 for name, bound in ways.items()}
        ball = LinfBall(x[few], eps, clip)
        row["PGD"] = broken(network, x[few], y[few], ball, options)
        row["dual"] = unproved(dual, Query.of(graph, ball, robustness(y[few], 10)))[0] / 100
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    unit = torch.ones_like(x[:1], dtype=torch.float64)
    reach = {name: float(EPS * found.reach(pairs(10), unit).mean()) for name, found in certified.items()}
    size = {"test": len(x), "few": min(options.few, len(x)), "steps": options.steps, "restarts": options.restarts}
    return {"rows": rows, "reach": reach, **size}


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
        path = options.out / f"{name}.certificates.npz" if name in SOLVED else None
        found = measured(network, options, path)
        if path is not None:
            x, y = images(options.data, part="train", count=options.images)
            precise = import_torch(network, x[:1]).to(dtype=torch.float64)
            found["balance"] = balance(network, SdpBounds.load(path, precise), x, y)
        text = json.dumps({"network": name, "log": log, "certified": None, "measured": found}, indent=1) + "\n"
        replaced(record, lambda beside, text=text: beside.write_text(text, encoding="utf-8"))  # type: ignore[misc]
        print(f"{name}: {record}")


def rows_of(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Of the table, in the order of HEAD."""
    return [(record["network"], *(row.get(name, "") for name in HEAD[1:])) for row in record["measured"]["rows"]]


def draw(options: argparse.Namespace) -> None:
    """The table, as CSV and Markdown, and with --plot figure 2: one panel for each network."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in options.records]
    rows = [row for record in records for row in rows_of(record)]
    with options.table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEAD, *rows])
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for row in rows:
        shares = ("" if v == "" else f"{100 * v:.2f} %" for v in row[3:])
        print("| " + " | ".join([*map(str, row[:3]), *shares]) + " |")
    if options.plot is not None:
        picture(records, options.plot)


def picture(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Errors over the radius, the unclipped ones, a panel for each network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = math.ceil(math.sqrt(len(records)))
    down = -(-len(records) // across)
    figure = Figure(figsize=(3.6 * across, 3 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    styles = {"frobenius": ":", "spectral": "-.", "dual": "--", "semidefinite": "-", "PGD": "o-"}
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
    figure.savefig(path, dpi=70)


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
    asked.add_argument("--few", type=int, default=500, help="test images, the first, for PGD and dual bound")
    asked.add_argument("--steps", type=int, default=20, help="of PGD")
    asked.add_argument("--restarts", type=int, default=3, help="of PGD")
    asked.add_argument("--eps", type=numbers, default=[0.025, 0.05, EPS], help="radii, with commas")
    drawn = parts.add_parser("draw", help="table and picture of records")
    drawn.set_defaults(action=draw)
    drawn.add_argument("records", nargs="+", type=Path)
    drawn.add_argument("--table", type=Path, required=True, help="CSV")
    drawn.add_argument("--plot", type=Path, help="PNG")
    options = parser.parse_args(arguments)
    options.action(options)


if __name__ == "__main__":
    main()
