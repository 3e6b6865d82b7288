"""Layerwise adversarial training (Balunovic & Vechev 2020), row by row: trained, then certified by the ladder.

    python benchmarks/layerwise_training.py ROW... --data DIR --out DIR [--keep DIR] [--plot PNG]

`mnist-0.1` and `mnist-0.3` are the network `small`; `cifar-2` is the paper's own network at 2/255. `stability-0` and
`stability-1` are two short runs of `small` that differ in the penalty on wide bands alone, which is ours and not the
paper's. `few` and `few-shifted` are short runs on few images of CIFAR-10 without and with augmentation. ROWS has their
settings, made for minutes of one core. --images, --epochs and --test say otherwise. What a run of the first three on a
GPU would be is in benchmarks/rows: `python benchmarks/training_rows.py layerwise-cifar-2 --gpu` and so on.

At the end of each phase every region of the network is attacked, around images that are trained on and around images of
the test set (--probe of each; 0: none): what the attack gains from region to region is what the relaxation loses, and
what it gains between the two kinds of images is overfitting.

A run that was stopped goes on where it was, training and certification alike; --test 0 certifies nothing. --keep writes
a record of each run, some kilobytes for a repository: its log, what each phase gained on the held-out images, what the
attacks found, and the counts of its certification. --plot draws accuracies on the held-out images, with a line where a
phase begins.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from overfitting import read
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training import History, LayerwiseAdversarial, train
from training.architectures import architecture
from training.augmentation import augmentation
from training.methods.layerwise import regions, worst_point
from training.network import NetworkInTraining
from training.schedule import Optimiser
from training.training_set import Split
from training.watcher import ProgressBar
from verifier import certify
from verifier.certification.dataset import Dataset
from verifier.normalisation import normalised
from verifier.projection import forward
from verifier.zonotope import Latent

Batch = tuple[Tensor, Tensor]  # images [B, *input] and labels [B]

KINDS = ("clean", "attacked", "verified")

#: two steps of the whole width reach any corner from any start
ATTACK = {"steps": 2, "size": 1.0, "projections": 10, "batch": 100}


@dataclass(frozen=True)
class Row:
    """A run: network, settings, and how many images and epochs it was made for."""

    set: str
    arch: str
    method: LayerwiseAdversarial
    images: int
    epochs: int
    test: int
    measure_every: int = 1
    normalise: str = ""
    augment: str = ""


def mnist(eps: float, **settings: Any) -> LayerwiseAdversarial:
    """At one radius: a long first phase, and a penalty on a tenth of each batch."""
    given = {"optimiser": Optimiser(rate=2e-3), "ramp": 0.3, "stability": 0.5, "sampled": 0.1, "l1": 2e-5}
    return LayerwiseAdversarial(eps=eps, **{**ATTACK, **given, **settings})


def short(stability: float) -> Row:
    method = mnist(0.1, stability=stability, shares=(3.0, 1.0, 1.0, 1.0))
    return Row("mnist", "small", method, 10_000, 12, 500)


def few(augment: str) -> Row:
    given = {**ATTACK, "optimiser": Optimiser(rate=2e-3), "stability": 0.0, "ramp": 0.3, "shares": (3.0, 1.0, 1.0, 1.0)}
    return Row("cifar10", "small", LayerwiseAdversarial(eps=2 / 255, **given), 2500, 12, 0, 3, "cifar10", augment)


ROWS = {
    "mnist-0.1": Row("mnist", "small", mnist(0.1, shares=(4.0, 1.0, 1.0, 1.0)), 60_000, 14, 10_000, 2),
    "mnist-0.3": Row("mnist", "small", mnist(0.3, shares=(4.0, 1.0, 1.0, 1.0), slower=0.5), 60_000, 14, 10_000, 2),
    "cifar-2": Row(
        "cifar10", "colt",
        LayerwiseAdversarial(eps=2 / 255, **ATTACK, stability=0.5, sampled=0.1, slower=0.75, cuts=2),
        20_000, 24, 0, 1, "cifar10", "crop=2,flip",
    ),
    "few": few(""), "few-shifted": few("crop=2,flip"),
    "stability-0": short(0.0),
    "stability-1": short(1.0),
}  # fmt: skip


class Probe(ProgressBar):
    """Also attacks every region at the end of each phase, and keeps what it found in a file."""

    def __init__(self, row: Row, model: nn.Module, samples: Mapping[str, Batch], epochs: int, path: Path) -> None:
        super().__init__()
        self.row, self.model, self.samples, self.path = row, model, samples, path
        self.phases = phases_of(row, model, next(iter(samples.values()))[0], epochs)

    def epoch_ended(self, history: History) -> None:
        super().epoch_ended(history)
        done = len(history.rows)
        if done == len(self.phases) or self.phases[done] != self.phases[done - 1]:
            kept = json.loads(self.path.read_text()) if self.path.exists() else []
            found = {kind: probed(self.row.method, self.model, *sample) for kind, sample in self.samples.items()}
            kept.append({"phase": self.phases[done - 1], "epoch": done, **found})
            self.path.write_text(json.dumps(kept), encoding="utf-8")


def probed(method: LayerwiseAdversarial, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Loss and error at the worst points found in each region at the method's own radius; unstable neurons by layer."""
    network = NetworkInTraining(model, x)
    graph, generator = network.measured(), torch.Generator().manual_seed(0)
    inputs, attacked = method.sets(x), []
    with torch.no_grad():
        whole = forward.estimated(graph, inputs, forward.Draws(50, generator), graph.output)
    for cut in regions(network.graph):

        def losses(point: Tensor, cut: int = cut) -> Tensor:  # [B, *shape] -> [B]
            return cross_entropy(graph.forward_from(cut, point).flatten(1), y, reduction="none")

        before = {i: band for i, band in whole.bands.items() if i in graph.ancestors[cut]}
        point = worst_point(Latent.of(graph, inputs, cut, before), losses, 10, 0.4, generator)
        outputs = graph.forward_from(cut, point).flatten(1).detach()
        wrong = (outputs.argmax(1) != y).double().mean()
        attacked.append({"loss": round(float(cross_entropy(outputs, y)), 4), "error": float(wrong)})
    unstable = [float((band.radius > 0).flatten(1).double().sum(1).mean()) for band in whole.bands.values()]
    return {"regions": attacked, "unstable": unstable}


def phases_of(row: Row, model: nn.Module, x: Tensor, epochs: int) -> list[int]:
    """The index of the phase that each epoch belongs to."""
    run = row.method.begin(NetworkInTraining(model, x), torch.Generator())
    return [run.phase(epoch, epochs).index for epoch in range(epochs)]


def trained(name: str, options: argparse.Namespace) -> tuple[nn.Module, History, list[int]]:
    """Train, or go on, or read what is there; with the index of the phase that each epoch belongs to."""
    row, epochs, folder = ROWS[name], options.epochs or ROWS[name].epochs, options.out / name
    place = argparse.Namespace(data=options.data, set=row.set)
    x, y = read(place, "train", options.images or row.images)
    shape, held = tuple(x.shape[1:]), min(500, len(x) // 5)
    torch.manual_seed(options.seed)
    model: nn.Module = architecture(row.arch, shape, 10)
    if row.normalise:
        model = normalised(model, row.normalise, shape)
    watcher = ProgressBar()
    if options.probe:
        split = Split(Dataset(x, y), None, held, options.seed, x.device)
        used = split.batch(split.used[: options.probe])
        samples = {"trained on": used, "test": read(place, "test", options.probe)}
        watcher = Probe(row, model, samples, epochs, options.out / f"{name}.probe.json")
    found = train(
        model, (x, y), row.method, epochs=epochs, out=folder, resume=True, seed=options.seed, validation=held,
        measure_every=row.measure_every, augment=augmentation(row.augment, shape) if row.augment else None,
        watcher=watcher, about={"row": name, "network": row.arch},
    )  # fmt: skip
    return found.model, found.history, phases_of(row, found.model, x[:1], epochs)


def certified(name: str, model: nn.Module, options: argparse.Namespace) -> Mapping[str, Any] | None:
    """Counts of the first test images by the whole ladder."""
    row = ROWS[name]
    count = row.test if options.test is None else options.test
    if not count:
        return None
    x, y = read(argparse.Namespace(data=options.data, set=row.set), "test", count)
    report = certify(
        model, x, y, row.method.eps, clip=(0, 1), store=options.out / name / "test.sqlite", resume=True,
        example_budget=options.example_budget, progress=False,
    )  # fmt: skip
    counts = report.summary()
    return {
        "images": counts["examples"], "undecided": counts["undecided"],
        "minutes": round(sum(r.seconds for r in report.rows()) / 60, 2),
        **{kind: counts[f"{kind}_accuracy"] for kind in KINDS},
    }  # fmt: skip


def gains(history: History, phases: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracies on the held-out images at the last measurement of each phase."""
    last: dict[int, dict[str, Any]] = {}
    for row, phase in zip(history.rows, phases, strict=False):
        if row["verified"] is not None:
            last[phase] = {"phase": phase, **{kind: row[kind] for kind in ("epoch", *KINDS)}}
    return list(last.values())


def probe_of(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    path = options.out / f"{name}.probe.json"
    return json.loads(path.read_text()) if path.exists() else []


def draw(found: Mapping[str, tuple[History, Sequence[int]]], path: Path) -> None:
    """Accuracies on the held-out images over the epochs, one frame for each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(found), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (name, (history, phases)) in zip(axes, found.items(), strict=True):
        rows = [row for row in history.rows if row["verified"] is not None]
        for kind in KINDS:
            axis.plot([row["epoch"] for row in rows], [row[kind] for row in rows], "o-", markersize=3, label=kind)
        for epoch, (before, after) in enumerate(pairwise(phases), start=1):
            if before != after and epoch < len(history.rows):
                axis.axvline(epoch + 0.5, color="0.6", linestyle="--", linewidth=1)
        axis.set(title=name, xlabel="epoch")
        axis.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", choices=sorted(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/ and cifar10/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--keep", type=Path, help="folder for a record of each run")
    parser.add_argument("--plot", type=Path, help="PNG of the accuracies on the held-out images")
    parser.add_argument("--images", type=int, help="training images, in place of the row's")
    parser.add_argument("--epochs", type=int, help="in place of the row's")
    parser.add_argument("--test", type=int, help="test images, in place of the row's; 0: none")
    parser.add_argument("--example-budget", type=float, default=10.0, help="seconds for each test image")
    parser.add_argument("--probe", type=int, default=200, help="images of each kind to attack after every phase")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = {}
    for name in options.rows:
        model, history, phases = trained(name, options)
        found[name] = history, phases
        counts = certified(name, model, options)
        record = {
            "log": {"settings": history.settings, "about": history.about, "epochs": history.rows},
            "phases": gains(history, phases), "probe": probe_of(name, options), "certified": counts,
        }  # fmt: skip
        print(name, json.dumps({key: record[key] for key in ("phases", "probe", "certified")}), sep="\n", flush=True)
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"layerwise-{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
