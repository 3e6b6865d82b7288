"""How adversarial training overfits: catastrophically to single steps, slowly to few images (Wong 2020, chapter 4).

    python benchmarks/overfitting.py steps --set mnist --data DIR --out DIR [--sizes 0.25,1,2] [--seeds 0,1,2]
    python benchmarks/overfitting.py starts --set mnist --data DIR --out DIR
    python benchmarks/overfitting.py epochs --set cifar10 --data DIR --out DIR [--images 1000] [--epochs 200]
        [--eps 4/255] [--batch 32] [--attack 10]

`steps` is figures 4.4 and 4.5: the fast method with steps of each size (in multiples of eps), without the watch and
with it, and the accuracy of what comes out under PGD on test images. `starts` is tables 4.1 and 4.3: starts by name.
`epochs` is figure 4.1 and a row of table 4.10: PGD training with a learning rate that falls by ten after a half and
three quarters of the run, on few images, and the error on the test set under attack, the best of all epochs beside the
mean of the last five measurements. As in the thesis, the best is that on the test set.

The radii are 0.3 (MNIST) and 8/255 (CIFAR-10), if `--eps` gives no other. The thesis's networks for CIFAR-10 are a
PreAct ResNet-18; ours is `small` behind a normalisation, or another by `--arch`. Every run has a folder below --out,
goes on where it was stopped, and is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from thesis_runs import Run, line, read, trained, written
from torch import Tensor, nn

from properties.numbers import number_of
from training import AdversarialTraining, FastTraining
from training.history import History
from training.schedule import Optimiser, Stepped
from verifier import attack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EPS = {"mnist": 0.3, "cifar10": 8 / 255}

#: figure 4.4, from 1/255 to 16/255 at eps 8/255
SIZES = "0.125,0.25,0.5,0.75,1,1.25,1.5,1.75,2"

#: of table 4.1 (the first four) and table 4.3 (the last three of MNIST): start and step
STARTS = (
    ("zero", 1.0), ("previous", 1.0), ("uniform", 1.0), ("uniform", 1.25), ("uniform", 2.0), ("uniform", 0.5),
    ("hypercube", 0.5), ("hypercube", 1.0),
)  # fmt: skip

#: of `epochs`. The second is the thesis's; without batch norm it does not get off the ground at its rate
OPTIMISERS = {
    "adam": lambda rate: Optimiser("adam", rate or 1e-3),
    "sgd": lambda rate: Optimiser("sgd", rate or 0.1, momentum=0.9, weight_decay=5e-4),
}

HEAD = ("start", "step", "watched", "seed", "epochs", "clean", "under PGD")


def fast(options: argparse.Namespace, **settings: Any) -> FastTraining:
    optimiser = Optimiser(rate=options.rate) if options.rate else FastTraining(eps=0.0).optimiser
    return FastTraining(eps=options.eps, optimiser=optimiser, **settings)


def single_steps(cases: Sequence[tuple[str, float]], options: argparse.Namespace) -> list[tuple[Any, ...]]:
    """A row for each start and step, watched or not, and seed."""
    x, y = read(options, "test", options.test)
    rows = []
    for start, step in cases:
        for seed in map(int, options.seeds.split(",")):
            method = fast(options, start=start, step=step)
            name = f"{options.set}_{start}_{step:g}"
            # no image is held out: the weights are those of the last epoch, or those that the watch brings back
            model, history = trained(Run(f"{name}_watched_{seed}", method, seed, options.epochs), options, validation=0)
            found = len(history.rows), *accuracies(model, x, y, options)
            both = {True: found, False: found}  # the watch alone changes nothing: it draws no random numbers of the run
            if history.stopped:
                blind = Run(f"{name}_blind_{seed}", replace(method, collapse=0.0), seed, options.epochs)
                model, history = trained(blind, options, validation=0)
                both[False] = len(history.rows), *accuracies(model, x, y, options)
            for watched in (False, True):
                rows.append((start, f"{step:g}", "yes" if watched else "no", seed, *both[watched]))
                print(line(rows[-1]), flush=True)
    return rows


def accuracies(model: nn.Module, x: Tensor, y: Tensor, options: argparse.Namespace) -> tuple[float, float]:
    """Clean, and under PGD, on images x [N, C, H, W] with labels y [N]."""
    found = attack(
        model.cpu(), x, options.eps, label=y, clip=(0, 1), steps=options.steps, restarts=options.restarts
    )  # fmt: skip
    with torch.no_grad():
        clean = float((model(x).argmax(1) == y).float().mean())
    return clean, 1 - found.error


def drawn(path: Path, draw: Callable[[Axes], None], **axes: str) -> None:
    """A picture of shares over something, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    draw(axis)
    axis.set(ylim=(0, 1), **axes)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=100)


def draw_steps(rows: Sequence[tuple[Any, ...]], axis: Axes) -> None:
    """Accuracy under PGD over the size of the step, the mean of the seeds: figures 4.4 and 4.5 in one."""
    for watched, name in (("no", "to the last epoch"), ("yes", "stopped at a collapse")):
        sizes = sorted({float(row[1]) for row in rows})
        chosen = [[row[6] for row in rows if float(row[1]) == size and row[2] == watched] for size in sizes]
        axis.plot(sizes, [mean(values) for values in chosen], "o-", label=name)
        axis.fill_between(sizes, [min(values) for values in chosen], [max(values) for values in chosen], alpha=0.2)


def draw_epochs(histories: Sequence[History], axis: Axes) -> None:
    """Errors over the epochs, of each seed: figure 4.1."""
    for history in histories:
        first = history is histories[0]
        for name, colour in (("attacked", "C3"), ("clean", "C0")):
            measured = [(row["epoch"], 1 - row[name]) for row in history.rows if row[name] is not None]
            label = {"attacked": "test, under attack", "clean": "test, clean"}[name]
            axis.plot(*zip(*measured, strict=True), colour, label=label if first else None)
        label = "training, under attack" if first else None
        axis.plot(history.column("epoch"), history.column("train_error"), "C1--", label=label)


def steps(options: argparse.Namespace) -> None:
    cases = [("uniform", float(size)) for size in options.sizes.split(",")]
    rows = single_steps(cases, options)
    written(rows, HEAD, options.out / f"{options.set}_steps.csv")
    if options.plot is not None:
        drawn(options.plot, partial(draw_steps, rows), xlabel="step / eps", ylabel="accuracy under PGD")


def starts(options: argparse.Namespace) -> None:
    written(single_steps(STARTS, options), HEAD, options.out / f"{options.set}_starts.csv")


def many_epochs(options: argparse.Namespace) -> None:
    """Of every seed: best and last error under attack on the test set, and the same on the training images."""
    quarter = options.epochs / 4
    rows: list[tuple[Any, ...]] = []
    histories: list[History] = []
    for seed in map(int, options.seeds.split(",")):
        method = AdversarialTraining(
            eps=options.eps, steps=options.attack, step=2.5 / options.attack, batch=options.batch,
            rate=Stepped(quarter, 0.1, after=quarter), optimiser=OPTIMISERS[options.optimiser](options.rate),
        )  # fmt: skip
        run = Run(f"{options.set}_few_{options.images}_{options.epochs}_{seed}", method, seed, options.epochs)
        history = trained(
            run, options, held_out=read(options, "test", options.test), measure_every=options.every
        ).history
        histories.append(history)
        measured = [row for row in history.rows if row["attacked"] is not None]
        best = max(measured, key=lambda row: row["attacked"])
        last = mean(1 - row["attacked"] for row in measured[-5:])
        error = 1 - best["attacked"]
        rows.append((seed, options.images, best["epoch"], len(history.rows), error, last, last - error,
                     best["train_error"], history.rows[-1]["train_error"]))  # fmt: skip
    head = ("seed", "images", "best epoch", "epochs", "best", "last", "difference", "training, then", "training, last")
    written(rows, head, options.out / f"{options.set}_epochs.csv")
    if options.plot is not None:
        drawn(options.plot, partial(draw_epochs, histories), xlabel="epoch", ylabel="error")


#: what there is to run, its number of training images, and its epochs
PARTS = {"steps": (steps, 60_000, 10), "starts": (starts, 60_000, 10), "epochs": (many_epochs, 1000, 200)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--set", choices=sorted(EPS), default="mnist")
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/ and cifar10/")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and tables")
    parser.add_argument("--arch", default="small")
    parser.add_argument("--images", type=int, help="training images")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate", type=float, help="highest learning rate; default the method's")
    parser.add_argument("--optimiser", choices=sorted(OPTIMISERS), default="adam", help="of the part epochs")
    parser.add_argument("--sizes", default=SIZES, help="of steps, in multiples of eps")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--steps", type=int, default=50, help="of PGD at the end")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--eps", type=number_of, help="default 0.3 (mnist), 8/255 (cifar10)")
    parser.add_argument("--batch", type=int, default=128, help="of the part epochs")
    parser.add_argument(
        "--attack", type=int, default=10, help="steps of PGD in training, 2.5 eps long at first together (epochs)"
    )
    parser.add_argument("--every", type=int, default=1, help="epochs between measurements (epochs)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--plot", type=Path, help="PNG of accuracy over step sizes (steps), of errors over epochs (epochs)"
    )
    options = parser.parse_args(arguments)
    action, count, epochs = PARTS[options.part]
    options.images, options.epochs = options.images or count, options.epochs or epochs
    options.eps = EPS[options.set] if options.eps is None else options.eps
    options.out.mkdir(parents=True, exist_ok=True)
    action(options)


if __name__ == "__main__":
    main()
