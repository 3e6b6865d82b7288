"""Training against l-infinity, l2 and l1 balls at once, beside training against one of them (Wong 2020, table 5.2).

    python benchmarks/union_training.py --data DIR --out DIR [--images 60000] [--epochs 20] [--test 1000]
        [--networks linf,l2,l1,max,augmented,msd]

MNIST, balls of radius 0.3 (l-infinity), 1.5 (l2) and 12 (l1). Six networks are trained adversarially: against each
ball, against the worst of separate attacks on all ("max", the thesis's Worst-PGD), at the points of all ("augmented",
PGD-Aug), and by multi steepest descent ("msd"). Then every network is attacked in each ball by each of our attacks, on
the first `--test` test images. An image stands a row of the table if it is classified rightly and no attack of that row
breaks it. The thesis's figure is beside it; its rows "all" are over more attacks than ours.

Every network begins with the weights of one that was trained plainly for two epochs, and learns for an epoch at a third
of the radii and one at two thirds, before --epochs at the whole: at once at 0.3 a small network with few images does
not get off the ground. The thesis trains at the whole radii from the beginning.

Attacks that look for the nearest counterexample (ddn, carlini-wagner, pointwise) search in the whole valid range; an
image is broken if what they find lies within the radius. Training is by Adam with a rate that falls in the last half of
the run; the thesis has SGD, with a rate that rises first. The network is `small`, or another by --arch; the thesis's is
Madry's. Runs are resumed, and the table is written anew after each network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from thesis_runs import Run, read, trained, written
from torch import Tensor, nn

from training import AdversarialTraining, AugmentedTraining, Standard
from training.schedule import Constant, Linear, Optimiser
from verifier import attack
from verifier.attack_target import AttackTarget, attack_target

RADII = {"linf": 0.3, "l2": 1.5, "l1": 12.0}
UNION = "linf+5*l2+40*l1"  #: the same at radius 0.3

#: network: class, threat, radius, attack in training
NETWORKS: dict[str, tuple[type[AdversarialTraining], str, float, str]] = {
    **{name: (AdversarialTraining, name, eps, "pgd") for name, eps in RADII.items()},
    "max": (AdversarialTraining, UNION, RADII["linf"], "max"),
    "augmented": (AugmentedTraining, UNION, RADII["linf"], "pgd"),
    "msd": (AdversarialTraining, UNION, RADII["linf"], "msd"),
}

#: table 5.2, in per cent, in the order of NETWORKS
THESIS = {
    "clean": (99.1, 99.4, 98.9, 98.9, 99.1, 98.2),
    "linf pgd": (90.3, 0.4, 0.0, 68.4, 83.7, 63.7),
    "linf fgsm": (94.9, 68.6, 6.4, 82.4, 90.9, 81.8),
    "linf, all": (90.3, 0.4, 0.0, 68.4, 83.7, 63.7),
    "l2 pgd": (83.8, 87.0, 70.8, 85.3, 87.9, 84.2),
    "l2 ddn": (82.7, 87.0, 70.8, 85.1, 85.2, 84.3),
    "l2 carlini-wagner": (88.2, 88.1, 75.5, 85.2, 87.5, 85.1),
    "l2 pointwise": (74.3, 97.4, 96.6, 92.7, 89.0, 95.1),
    "l2, all": (45.3, 87.0, 70.3, 82.1, 75.0, 82.6),
    "l1 pgd": (51.8, 49.9, 71.8, 66.5, 57.4, 64.8),
    "l1 pointwise": (2.4, 66.4, 85.2, 60.1, 17.1, 72.8),
    "l1, all": (1.4, 43.4, 71.8, 54.6, 15.6, 62.3),
    "all": (1.4, 0.4, 0.0, 53.7, 15.6, 58.7),
}


def method(name: str, options: argparse.Namespace) -> AdversarialTraining:
    """How a network of the table is trained."""
    kind, threat, eps, search = NETWORKS[name]
    return kind(
        eps=eps, threat=threat, attack=search, steps=options.attack, step=2.5 / options.attack, batch=options.batch,
        optimiser=Optimiser(rate=options.rate), rate=Linear(0.5, 1.0),
    )  # fmt: skip


def network(name: str, options: argparse.Namespace) -> nn.Module:
    """A network of the table: through growing radii, from the plain one. The weights are those of the last epochs."""
    plain = Standard(eps=0.0, batch=options.batch, optimiser=Optimiser(rate=options.rate))
    model = trained(Run("union_plain", plain, options.seed, 2), options, validation=0).model
    whole = method(name, options)
    for share, epochs in ((1 / 3, 1), (2 / 3, 1), (1.0, options.epochs)):
        at = replace(whole, eps=share * whole.eps, rate=whole.rate if share == 1 else Constant())
        run = Run(f"union_{name}_{share:.2g}", at, options.seed, epochs)
        model = trained(run, options, model.state_dict(), validation=0).model
    return model


def standing(model: nn.Module, x: Tensor, y: Tensor, options: argparse.Namespace) -> dict[str, float]:
    """Accuracy on images x [N, 1, 28, 28] with labels y [N], by row of the table."""
    target = attack_target(model.cpu().eval(), x)
    with torch.no_grad():
        wrong = model(x).argmax(1) != y
    changed = attack(target, x, 1.0, label=y, clip=(0, 1), method="pointwise", starts=options.restarts)
    rows, together = {"clean": wrong}, wrong
    for threat, eps in RADII.items():
        broken = dict(broken_by(target, threat, x, y, options))
        if threat != "linf":
            broken["pointwise"] = changed.distance(x, int(threat[1:])) <= eps
        every = torch.stack([wrong, *broken.values()]).any(0)
        rows |= {f"{threat} {name}": found | wrong for name, found in broken.items()}
        rows[f"{threat}, all"] = every
        together = together | every
    rows["all"] = together
    return {name: 1 - float(found.double().mean()) for name, found in rows.items()}


def broken_by(
    target: AttackTarget, threat: str, x: Tensor, y: Tensor, options: argparse.Namespace
) -> Iterator[tuple[str, Tensor]]:
    """Name of an attack by gradients, and which images [N] bool it breaks within the ball."""
    eps = RADII[threat]
    inside: dict[str, Any] = {"threat": threat, "label": y, "clip": (0, 1)}
    yield "pgd", attack(target, x, eps, steps=options.steps, restarts=options.restarts, **inside).success
    if threat == "linf":
        yield "fgsm", attack(target, x, eps, method="fgsm", **inside).success
    if threat == "l2":
        for name in ("ddn", "carlini-wagner"):
            found = attack(target, x, 1.0, label=y, clip=(0, 1), method=name, steps=options.steps)
            yield name, found.distance(x, 2) <= eps


def table(found: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """Of each row of the table ours, in per cent, and the thesis's in parentheses."""
    names = list(NETWORKS)
    return [
        (row, *(f"{100 * found[name][row]:.1f} ({THESIS[row][names.index(name)]})" for name in found)) for row in THESIS
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and the table")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--arch", default="small")
    parser.add_argument("--images", type=int, default=60_000, help="training images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--rate",
        type=float,
        default=1e-3,
        help="learning rate of Adam, which falls to a tenth in the last half of the run",
    )
    parser.add_argument("--attack", type=int, default=50, help="steps of the attack in training")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--steps", type=int, default=100, help="of the attacks at the end")
    parser.add_argument("--restarts", type=int, default=10, help="of those that start at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    options.set = "mnist"
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.networks.split(",")
    unknown = sorted(set(names) - set(NETWORKS))
    if unknown:
        parser.error(f"no network is called {', '.join(unknown)}; there are: {', '.join(NETWORKS)}")
    x, y = read(options, "test", options.test)
    found = {}
    for name in names:
        found[name] = standing(network(name, options), x, y, options)
        print(f"{name}: " + ", ".join(f"{row} {share:.1%}" for row, share in found[name].items()), flush=True)
        written(table(found), ("accuracy in per cent (thesis)", *found), options.out / "union.csv")


if __name__ == "__main__":
    main()
