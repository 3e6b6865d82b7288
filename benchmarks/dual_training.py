"""Training by dual bounds on MNIST: tables 2 and 3 and figure 2 of Wong et al. (2018), at sizes for a CPU.

    python benchmarks/dual_training.py table --data DIR --out DIR [--images 60000] [--epochs 12] [--projections 10]
    python benchmarks/dual_training.py k --data DIR --out DIR [--projections 10,50,exact] [--plot k.png]
    python benchmarks/dual_training.py width --data DIR --out DIR [--archs wide:1,wide:2,wide:4,deep:1,deep:2]
    python benchmarks/dual_training.py cascade --data DIR --out DIR [--count 3]

`table` trains one network and gives its error by the bound that it was trained on, which is what the paper prints, and
by the ladder. `k` is figure 2: robust error on the training images (by the estimates, as they are trained on) and on
test images (by the exact bound) after each epoch, for numbers of projections. `width` is table 3, by the bound.
`cascade` trains each network on what those before it do not certify, and has the error of the first one alone and of
all by both rules of verifier.network_answer.Rule: `first` is the paper's Algorithm 2, `agreed` Algorithm 4 of Wong's
thesis (2020).

The settings are those of appendix G but for epochs, batch and projections. No image is held out: weights are those of
the last epoch. Every run has a folder below --out, goes on where it was stopped, and is not run again. Tables are CSV
files in --out, too. Minutes are of the processor, training alone (`k`: with what was measured).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from data_sets import images
from torch import Tensor, nn

from training import DualTraining, train, train_cascade
from training.architectures import MNIST, architecture
from training.history import History
from training.watcher import ProgressBar
from verifier import NetworkCascade, certify, import_torch, verify

CLASSES = 10
#: the trained bound: what the paper's errors are by
BOUND = ("interval", "dual")
TOGETHER = 500  #: images that are bounded at once


def trained(
    arch: str, projections: int | None, options: argparse.Namespace, **settings: Any
) -> tuple[nn.Sequential, History]:
    """Train, or go on, or read what is there."""
    x, y = images(options.data, part="train", count=options.images)
    torch.manual_seed(options.seed)
    model = architecture(arch, MNIST, CLASSES)
    chosen = {"validation": 0, "stages": (), **settings}
    _, history = train(
        model, (x, y), method(projections, options), epochs=options.epochs,
        out=folder(arch, projections, options), resume=True, seed=options.seed, device=options.device,
        watcher=ProgressBar(), **chosen,
    )  # fmt: skip
    return model.cpu(), history


def folder(arch: str, projections: int | None, options: argparse.Namespace) -> Path:
    """Of a run."""
    kind = f"{options.part}_{arch.replace(':', '')}_{options.eps:g}_{projections or 'exact'}"
    return Path(options.out / f"{kind}_{options.images}x{options.epochs}_{options.seed}")


def method(projections: int | None, options: argparse.Namespace) -> DualTraining:
    return DualTraining(eps=options.eps, projections=projections, batch=options.batch)


def tested(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    return images(options.data, count=options.test)


def error_of(model: nn.Module, options: argparse.Namespace) -> float:
    """On the test images."""
    x, y = tested(options)
    with torch.no_grad():
        return float((model(x).argmax(1) != y).float().mean())


def robust_error_of(model: nn.Module | NetworkCascade, options: argparse.Namespace) -> float:
    """By the bound alone, on the test images; of a cascade, by its certificates."""
    x, y = tested(options)
    stages = None if isinstance(model, NetworkCascade) else BOUND
    proved = sum(
        verify(model, part, options.eps, label=label, clip=(0, 1), stages=stages).summary()["verified"]
        for part, label in zip(x.split(TOGETHER), y.split(TOGETHER), strict=True)
    )
    return 1 - proved / len(x)


def minutes(history: History) -> float:
    return float(history.about["processor_minutes"])


def one(options: argparse.Namespace) -> None:
    """`table`."""
    rows = []
    for projections in options.projections:
        model, history = trained(options.archs[0], projections, options)
        x, y = tested(options)
        store = folder(options.archs[0], projections, options) / f"test_{len(x)}.sqlite"
        report = certify(
            model, x, y, options.eps, clip=(0, 1), store=store, resume=True, example_budget=options.example_budget,
            progress=False,
        )  # fmt: skip
        found = report.summary()
        rows.append((
            options.archs[0], projections or "exact", options.images, options.epochs, minutes(history),
            error_of(model, options), robust_error_of(model, options), 1 - found["verified_accuracy"],
            1 - found["attacked_accuracy"], found["undecided"],
        ))  # fmt: skip
    head = (
        "net", "k", "images", "epochs", "minutes", "error", "robust error by the bound", "by the ladder",
        "error under attack", "undecided",
    )  # fmt: skip
    written(rows, head, options.out / "table.csv")


def numbers_of_projections(options: argparse.Namespace) -> None:
    """`k`."""
    rows = []
    for projections in options.projections:
        _, history = trained(options.archs[0], projections, options, held_out=tested(options), stages=BOUND)
        spent = minutes(history) / len(history.rows)
        rows += [
            (projections or "exact", row["epoch"], spent, row["train_robust_error"], 1 - row["verified"])
            for row in history.rows
        ]
    written(rows, ("k", "epoch", "minutes", "robust error, training", "robust error, test"), options.out / "k.csv")
    if options.plot is not None:
        draw(rows, options.plot)


def widths(options: argparse.Namespace) -> None:
    """`width`."""
    rows = []
    for arch in options.archs:
        model, history = trained(arch, options.projections[0], options)
        graph = import_torch(model, torch.zeros(1, *MNIST))
        units = sum(graph.nodes[i].size for i in graph.pre_activations)
        rows.append((arch, units, minutes(history), error_of(model, options), robust_error_of(model, options)))
    written(rows, ("net", "units", "minutes", "error", "robust error"), options.out / "width.csv")


def in_cascade(options: argparse.Namespace) -> None:
    """`cascade`."""
    x, y = images(options.data, part="train", count=options.images)
    trained = train_cascade(
        lambda: architecture(options.archs[0], MNIST, CLASSES), (x, y), method(options.projections[0], options),
        epochs=options.epochs, count=options.count, certified_by=BOUND, device=options.device, validation=0,
        stages=(), out=options.out / f"cascade_{options.eps:g}", resume=True, seed=options.seed, watcher=ProgressBar(),
    )  # fmt: skip
    first = trained.cascade.networks[0]
    assert isinstance(first, nn.Module)
    used = sum(map(minutes, trained.histories))
    rows: list[tuple[Any, ...]] = [("first network", used, error_of(first, options), robust_error_of(first, options))]
    for rule in ("first", "agreed"):
        cascade = replace(trained.cascade, rule=rule)
        label = torch.cat([cascade.predict(part).label for part in tested(options)[0].split(TOGETHER)])
        error = float((label != tested(options)[1]).float().mean())
        rows.append((f"cascade, rule {rule}", used, error, robust_error_of(cascade, options)))
    print("images:", *trained.images)
    written(rows, ("classifier", "minutes", "error", "robust error"), options.out / f"cascade_{options.eps:g}.csv")


def written(rows: Sequence[Sequence[Any]], head: Sequence[str], path: Path) -> None:
    """As CSV, and as Markdown on stdout."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])

    def text(name: str, value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.1f}" if name == "minutes" else f"{value:.2%}".replace("%", " %")

    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(map(text, head, row)) + " |")


def draw(rows: Sequence[tuple[Any, ...]], path: Path) -> None:
    """Robust error on training and test images over the epochs, as a PNG: figure 2."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for column, axis in enumerate(figure.subplots(1, 2, sharey=True), 3):
        for k in dict.fromkeys(row[0] for row in rows):
            mine = [row for row in rows if row[0] == k]
            axis.plot([row[1] for row in mine], [row[column] for row in mine], "o-", markersize=3, label=f"k = {k}")
        axis.set(xlabel="epoch", yscale="log", title=f"robust error ({('training', 'test')[column - 3]})")
        axis.grid(alpha=0.3, which="both")
    figure.axes[0].legend()
    figure.savefig(path, dpi=90)


#: what there is to run, and its images, epochs, projections and networks
PARTS: dict[str, tuple[Callable[[argparse.Namespace], None], int, int, str, str]] = {
    "table": (one, 60_000, 12, "10", "small"),
    "k": (numbers_of_projections, 2000, 10, "10,50,exact", "small"),
    "width": (widths, 5000, 10, "10", "wide:1,wide:2,wide:4,deep:1,deep:2"),
    "cascade": (in_cascade, 10_000, 10, "10", "small"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/mnist_train.npz and mnist_test.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and tables")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--images", type=int, help="training images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--projections", help='numbers of them with commas; "exact" for none')
    parser.add_argument("--archs", help="names in training.architectures, with commas")
    parser.add_argument("--count", type=int, default=3, help="networks of a cascade")
    parser.add_argument("--example-budget", type=float, default=10.0, help="seconds of the ladder for each test image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", type=Path, help="PNG of figure 2")
    options = parser.parse_args(arguments)
    action, count, epochs, projections, archs = PARTS[options.part]
    options.images, options.epochs = options.images or count, options.epochs or epochs
    chosen = (options.projections or projections).split(",")
    options.projections = [None if k == "exact" else int(k) for k in chosen]
    options.archs = (options.archs or archs).split(",")
    options.out.mkdir(parents=True, exist_ok=True)
    action(options)


if __name__ == "__main__":
    main()
