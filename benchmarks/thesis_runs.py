"""Training runs and tables of the scripts on chapters 4 and 5 of Wong's thesis: resumed, kept, printed."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_sets import images
from torch import Tensor, nn

from training import TrainingMethod, train
from training.architectures import architecture
from training.run import Trained
from training.watcher import ProgressBar
from verifier.normalisation import normalised


def read(options: argparse.Namespace, part: str, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images [N, C, H, W] in [0, 1] and labels [N] of "train" or "test".

    Args:
        options: with `data`, the folder of all sets, and `set`, "mnist" or "cifar10".

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
    epochs: int


def trained(run: Run, options: argparse.Namespace, start: Mapping[str, Tensor] | None = None, **more: Any) -> Trained:
    """Train, or go on, or read what is there.

    Args:
        start: weights to begin with; default drawn from the run's seed.
        options: with `data`, `set`, `images`, `arch`, `out` (the folder of all runs) and `device`.
        more: of `train`.
    """
    x, y = read(options, "train", options.images)
    torch.manual_seed(run.seed)
    model: nn.Module = architecture(options.arch, tuple(x.shape[1:]), 10)
    if options.set == "cifar10":
        model = normalised(model, options.set, x.shape[1:])
    if start is not None:
        model.load_state_dict(start)
    return train(
        model, (x, y), run.method, epochs=run.epochs, out=options.out / run.name, resume=True,
        seed=run.seed, stages=(), device=options.device, watcher=ProgressBar(), **more,
    )  # fmt: skip


def line(row: Sequence[Any]) -> str:
    """A row in Markdown; floats in it are shares."""
    return "| " + " | ".join(f"{v:.1%}" if isinstance(v, float) else str(v) for v in row) + " |"


def written(rows: Sequence[Sequence[Any]], head: Sequence[str], path: Path) -> None:
    """As CSV, and as Markdown on stdout."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *[[round(v, 6) if isinstance(v, float) else v for v in row] for row in rows]])
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", *map(line, rows), sep="\n")
