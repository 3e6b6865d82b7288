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
import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from data_sets import images
from torch import Tensor, nn

from properties.numbers import number_of
from training import AdversarialTraining, FastTraining, TrainingMethod, train
from training.architectures import architecture
from training.schedule import Optimiser, Stepped
from training.watcher import ProgressBar
from verifier import attack
from verifier.normalisation import normalised

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


def read(options: argparse.Namespace, part: str, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images [N, C, H, W] in [0, 1] and labels [N] of "train" or "test".

    Raises:
        SystemExit: a file is not there; the message says which, and where it comes from.
    """
    folder = options.data / options.set
    files = sorted(folder.glob(f"{options.set}_{part}*.npz"))
    if not files:
        raise SystemExit(
            f"{folder} holds no {options.set}_{part}*.npz: give --data the folder with mnist/mnist_train.npz or "
            "cifar10/cifar10_train*.npz and the test sets beside them, npz files with arrays images (uint8) and labels"
        )
    if options.set == "mnist":
        return images(options.data, part=part, count=count)
    arrays = []
    for file in files:
        with np.load(file) as archive:
            arrays.append((archive["images"], archive["labels"]))
        if sum(len(y) for _, y in arrays) >= count:
            break
    x, y = (np.concatenate(parts)[:count] for parts in zip(*arrays, strict=True))
    tensor = torch.from_numpy(x).float() / 255
    return tensor.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y.astype(np.int64))


@dataclass(frozen=True)
class Run:
    """One training run; `name` is its folder."""

    name: str
    method: TrainingMethod
    seed: int


def trained(run: Run, options: argparse.Namespace, **more: Any) -> Any:
    """Train, or go on, or read what is there."""
    x, y = read(options, "train", options.images)
    torch.manual_seed(run.seed)
    model: nn.Module = architecture(options.arch, tuple(x.shape[1:]), 10)
    if options.set == "cifar10":
        model = normalised(model, options.set, x.shape[1:])
    watcher = ProgressBar()
    return train(
        model, (x, y), run.method, epochs=options.epochs, out=options.out / run.name, resume=True, seed=run.seed,
        stages=(), device=options.device, watcher=watcher, **more,
    )  # fmt: skip


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
            model, history = trained(Run(f"{name}_watched_{seed}", method, seed), options, validation=0)
            found = len(history.rows), *accuracies(model, x, y, options)
            both = {True: found, False: found}  # the watch alone changes nothing: it draws no random numbers of the run
            if history.stopped:
                blind = Run(f"{name}_blind_{seed}", replace(method, collapse=0.0), seed)
                model, history = trained(blind, options, validation=0)
                both[False] = len(history.rows), *accuracies(model, x, y, options)
            for watched in (False, True):
                rows.append((start, step, watched, seed, *both[watched]))
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


def line(row: Sequence[Any]) -> str:
    return "| " + " | ".join(f"{v:.2%}" if isinstance(v, float) and k > 3 else str(v) for k, v in enumerate(row)) + " |"


def written(rows: Sequence[Sequence[Any]], head: Sequence[str], path: Path) -> None:
    """As CSV, and as Markdown on stdout."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", *map(line, rows), sep="\n")


def draw_steps(rows: Sequence[tuple[Any, ...]], path: Path) -> None:
    """Accuracy under PGD over the size of the step, the mean of the seeds: figures 4.4 and 4.5 in one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for watched, name in ((False, "to the last epoch"), (True, "stopped at a collapse")):
        sizes = sorted({row[1] for row in rows})
        chosen = [[row[6] for row in rows if row[1] == size and row[2] == watched] for size in sizes]
        axis.plot(sizes, [mean(values) for values in chosen], "o-", label=name)
        axis.fill_between(sizes, [min(values) for values in chosen], [max(values) for values in chosen], alpha=0.2)
    axis.set(xlabel="step / eps", ylabel="accuracy under PGD", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=100)


def steps(options: argparse.Namespace) -> None:
    cases = [("uniform", float(size)) for size in options.sizes.split(",")]
    rows = single_steps(cases, options)
    written(rows, HEAD, options.out / f"{options.set}_steps.csv")
    if options.plot is not None:
        draw_steps(rows, options.plot)


def starts(options: argparse.Namespace) -> None:
    written(single_steps(STARTS, options), HEAD, options.out / f"{options.set}_starts.csv")


def many_epochs(options: argparse.Namespace) -> None:
    """Of every seed: best and last error under attack on the test set, and the same on the training images."""
    quarter = options.epochs / 4
    rows = []
    for seed in map(int, options.seeds.split(",")):
        method = AdversarialTraining(
            eps=options.eps, steps=options.attack, step=2.5 / options.attack, batch=options.batch,
            rate=Stepped(quarter, 0.1, after=quarter), optimiser=OPTIMISERS[options.optimiser](options.rate),
        )  # fmt: skip
        run = Run(f"{options.set}_few_{options.images}_{options.epochs}_{seed}", method, seed)
        history = trained(
            run, options, held_out=read(options, "test", options.test), measure_every=options.every
        ).history
        measured = [row for row in history.rows if row["attacked"] is not None]
        best = max(measured, key=lambda row: row["attacked"])
        last = mean(1 - row["attacked"] for row in measured[-5:])
        error = 1 - best["attacked"]
        rows.append((seed, options.images, best["epoch"], len(history.rows), error, last, last - error,
                     best["train_error"], history.rows[-1]["train_error"]))  # fmt: skip
    head = ("seed", "images", "best epoch", "epochs", "best", "last", "difference", "training, then", "training, last")
    written(rows, head, options.out / f"{options.set}_epochs.csv")


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
    parser.add_argument("--plot", type=Path, help="PNG of accuracy over step sizes (steps)")
    options = parser.parse_args(arguments)
    action, count, epochs = PARTS[options.part]
    options.images, options.epochs = options.images or count, options.epochs or epochs
    options.eps = EPS[options.set] if options.eps is None else options.eps
    options.out.mkdir(parents=True, exist_ok=True)
    action(options)


if __name__ == "__main__":
    main()
