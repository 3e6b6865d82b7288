"""Accuracy under the Wasserstein attack over its radius, of networks trained in several ways (Wong 2020, figure 5.4).

    python benchmarks/wasserstein_training.py --data DIR --out DIR [--images 60000] [--epochs 15] [--test 1000]
        [--networks standard,linf,wasserstein] [--eps 2.1] [--factor 1.4] [--attack 5] [--plot FILE.png]

MNIST and the network of the thesis, `small`: trained plainly; by PGD for l-infinity at 0.1, in place of the thesis's
network that is proved robust there; and adversarially against Wasserstein balls whose radius grows for each image from
0.1 by a factor up to --eps, some steps at each, until it is broken (section 5.2.1; the defaults are the thesis's). The
two others begin with the weights of the plain network, the thesis's with none. All are attacked as in section 5.2:
radii from 0.3 by factors of 1.1 (--growth), 10 steps at each, until the image is broken or the radius would pass 2. Our
attack begins anew at each radius, the thesis's goes on. Optimisers are Adam; the thesis has SGD. Runs are resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from thesis_runs import Run, read, trained, written
from torch import Tensor, nn

from training import AdversarialTraining, Standard, TrainingMethod
from training.schedule import MultiStep, Optimiser
from verifier import attack_growing

#: the largest radius of the attack, and the smallest
LARGEST, SMALLEST = 2.0, 0.3
#: the networks, and their clean accuracies in table 5.1, in per cent
THESIS = {"standard": 98.90, "linf": 98.20, "wasserstein": 96.95}


def method(name: str, options: argparse.Namespace) -> TrainingMethod:
    """How a network is trained."""
    course = {"optimiser": Optimiser(rate=options.rate), "rate": MultiStep((2 / 3,)), "batch": options.batch}
    if name == "standard":
        return Standard(eps=0.0, **course)
    if name == "linf":
        return AdversarialTraining(eps=0.1, **course)
    return AdversarialTraining(
        eps=options.eps, threat="wasserstein", smallest=0.1, growth=options.factor, steps=options.attack, **course
    )


def radii(growth: float) -> list[float]:
    """Of the attack, growing."""
    found = [SMALLEST]
    while found[-1] * growth <= LARGEST:
        found.append(found[-1] * growth)
    return found


def curve(model: nn.Module, x: Tensor, y: Tensor, options: argparse.Namespace) -> list[float]:
    """Accuracy on images x [N, 1, 28, 28] with labels y [N]: clean, then at each radius."""
    model = model.cpu().eval()
    with torch.no_grad():
        right = model(x).argmax(1) == y
    sizes = radii(options.growth)
    found = attack_growing(
        model, x, sizes, threat="wasserstein", label=y, clip=(0, 1), steps=options.steps, restarts=1
    )  # fmt: skip
    return [float(right.double().mean()), *(1 - error for error in found.errors(sizes))]


def draw(found: dict[str, list[float]], sizes: list[float], path: Path) -> None:
    """Accuracy over the radius."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name, shares in found.items():
        axis.plot([0.0, *sizes], shares, "o-", markersize=3, label=name)
    axis.set(xlabel="radius (pixels per unit of mass)", ylabel="accuracy under attack", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and the table")
    parser.add_argument("--networks", default=",".join(THESIS))
    parser.add_argument("--arch", default="small")
    parser.add_argument("--images", type=int, default=60_000, help="training images")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam, a tenth after two thirds")
    parser.add_argument("--eps", type=float, default=2.1, help="largest radius in training")
    parser.add_argument("--factor", type=float, default=1.4, help="from one radius in training to the next")
    parser.add_argument("--attack", type=int, default=5, help="steps at each radius in training")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--growth", type=float, default=1.1, help="from one radius of the attack to the next")
    parser.add_argument("--steps", type=int, default=10, help="of the attack at each radius")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", type=Path, help="PNG of accuracy over the radius")
    options = parser.parse_args(arguments)
    options.set = "mnist"
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.networks.split(",")
    unknown = sorted(set(names) - set(THESIS))
    if unknown:
        parser.error(f"no network is called {', '.join(unknown)}; there are: {', '.join(THESIS)}")
    if not options.growth > 1:
        parser.error(f"--growth is a factor > 1, got {options.growth}")
    x, y = read(options, "test", options.test)
    found, start = {}, None
    for name in ("standard", *(name for name in names if name != "standard")):
        run = Run(f"wasserstein_{name}", method(name, options), options.seed, options.epochs)
        # the weights of the last epoch: no accuracy chooses among them
        model = trained(run, options, start, validation=0).model
        start = model.state_dict() if name == "standard" else start
        if name in names:
            found[name] = curve(model, x, y, options)
            print(f"{name}: " + " ".join(f"{share:.1%}" for share in found[name]), flush=True)
    sizes = radii(options.growth)
    rows = [(f"{size:.3g}", *shares) for size, *shares in zip([0.0, *sizes], *found.values(), strict=True)]
    written(rows, ("radius", *names), options.out / "wasserstein.csv")
    if options.plot is not None:
        draw(found, sizes, options.plot)


if __name__ == "__main__":
    main()
