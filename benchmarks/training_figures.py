"""The `small` network trained on MNIST by each method, at eps 0.1, and the whole test set certified by the ladder.

    python benchmarks/training_figures.py --data DIR_WITH_MNIST --out DIR [--methods standard,mtl-ibp,dual] [--images N]

Settings are those of RECIPES, made for about twenty minutes of one core each; `--epochs 60` trains longer. A run that
was stopped goes on where it was, training and certification alike. The rows of the papers, which had a GPU and 60 to
100 epochs, are printed beside ours: Wong et al. (2018), table 2, Raghunathan et al. (2018), table 1 (another network).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from data_sets import images

from training import (
    AdversarialTraining,
    DualTraining,
    IntervalTraining,
    LayerwiseAdversarial,
    MixedTraining,
    Standard,
    TrainingMethod,
    train,
)
from training.architectures import small
from training.run_folder import LOG_JSON
from training.schedule import Optimiser
from training.watcher import ProgressBar
from verifier import certify

EPS = 0.1
#: a few epochs of interval training get further with it than with a rate of 1e-3
FASTER = Optimiser(rate=3e-3)


@dataclass(frozen=True)
class Recipe:
    """A method with the epochs that it takes on a CPU."""

    method: Callable[[], TrainingMethod]
    epochs: int
    measure_every: int = 1  #: epochs; bounds of a network that was not trained for them take long


RECIPES = {
    "standard": Recipe(lambda: Standard(eps=EPS, batch=100), 10, measure_every=5),
    "adversarial": Recipe(lambda: AdversarialTraining(eps=EPS, batch=100), 10, measure_every=5),
    "dual": Recipe(lambda: DualTraining(eps=EPS, projections=10), 12),
    "ibp": Recipe(lambda: IntervalTraining(eps=EPS, optimiser=FASTER), 28, measure_every=5),
    "layerwise": Recipe(
        lambda: LayerwiseAdversarial(
            eps=EPS, optimiser=FASTER, steps=2, size=1.0, projections=10, shares=(3.0, 2.0, 1.0, 1.0)
        ),
        10,
        measure_every=2,
    ),
    "mtl-ibp": Recipe(lambda: MixedTraining(eps=EPS, optimiser=FASTER), 30, measure_every=5),
}

PAPERS = """
| paper | clean error | robust error |
|---|---|---|
| Wong et al. 2018, small, exact dual | 1.26 % | 4.48 % |
| Wong et al. 2018, small, 50 projections | 1.37 % | 4.99 % |
| Wong et al. 2018, small, cascade | 3.13 % | 3.13 % |
| Wong & Kolter 2018, small | 1.80 % | 5.82 % |
| Raghunathan et al. 2018, 784-500-10 | 4.2 % | 35 % |
"""


def run(name: str, arguments: argparse.Namespace) -> str:
    """Train and certify; a row of the table."""
    recipe, folder = RECIPES[name], arguments.out / name
    torch.manual_seed(arguments.seed)
    x, y = images(arguments.data, part="train", count=arguments.images)
    model, history = train(
        small(), (x, y), recipe.method(),
        epochs=arguments.epochs or recipe.epochs, out=folder, resume=True, seed=arguments.seed,
        measure_every=recipe.measure_every, device=arguments.device, watcher=ProgressBar(),
    )  # fmt: skip
    minutes = sum(row["seconds"] for row in history.rows) / 60
    x, y = images(arguments.data, count=arguments.test)
    report = certify(
        model.cpu(), x, y, EPS, clip=(0, 1), store=folder / "test.sqlite",
        resume=True, example_budget=arguments.example_budget, progress=False,
    )  # fmt: skip
    s = report.summary()
    return (
        f"| {name} | {len(history.rows)} | {minutes:.0f} | {1 - s['clean_accuracy']:.2%} "
        f"| {1 - s['attacked_accuracy']:.2%} | {1 - s['verified_accuracy']:.2%} | {s['undecided']} |"
    )


def draw(names: list[str], folder: Path, path: Path) -> None:
    """Verified and attacked error on the validation images over the share of each run, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, kind in zip(axes, ("verified", "attacked"), strict=True):
        for name in names:
            rows = json.loads((folder / name / LOG_JSON).read_text())["epochs"]
            measured = [row for row in rows if row[kind] is not None]
            share = [row["epoch"] / len(rows) for row in measured]
            axis.plot(share, [1 - row[kind] for row in measured], "o-", markersize=3, label=name)
        axis.set(yscale="log", xlabel="share of the run", title=f"1 - {kind} accuracy, eps {EPS:g}")
        axis.grid(alpha=0.3, which="both")
    axes[0].legend()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/mnist_train.npz and mnist_test.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(RECIPES))
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--images", type=int, default=60_000, help="training images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--example-budget", type=float, default=10.0, help="seconds for each test image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", type=Path, help="PNG of the errors over the runs")
    arguments = parser.parse_args()
    rows = [run(name, arguments) for name in arguments.methods.split(",")]
    print("| method | epochs | minutes | clean error | error under attack | robust error | undecided |")
    print("|---|---|---|---|---|---|---|", *rows, sep="\n")
    print(PAPERS)
    if arguments.plot is not None:
        draw(arguments.methods.split(","), arguments.out, arguments.plot)


if __name__ == "__main__":
    main()
