"""Train the network that `verifier.demo` ships: exact dual bounds on scikit-learn's digits, some minutes on a CPU.

OMP_NUM_THREADS=1 python -m training.digits --out verifier/data/digits.safetensors

On one thread the sums are taken in one order, and the same machine writes the same file byte for byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from training.methods.dual import DualTraining
from training.run import train
from training.schedule import Cosine, Optimiser, Ramp
from training.watcher import ProgressBar, Watcher
from verifier.demo import EPS, TRAINING_IMAGES, architecture, digits

METHOD = DualTraining(
    eps=EPS,
    projections=None,
    ramp=Ramp(start=1 / 30, end=0.5),
    optimiser=Optimiser(rate=3e-3),
    rate=Cosine(),
    batch=100,
)


def trained(epochs: int = 30, watcher: Watcher | None = None) -> nn.Module:
    """The network, from the training images alone; none are held out, so that it is the one of the last epoch."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = architecture()
    images, labels = digits()
    data = images[:TRAINING_IMAGES], labels[:TRAINING_IMAGES]
    return train(model, data, METHOD, epochs=epochs, validation=0, watcher=watcher).model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(arguments)
    from safetensors.torch import save_file

    model = trained(options.epochs, ProgressBar())
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
