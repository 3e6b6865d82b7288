"""Train the network that `verifier.demo` ships: robust loss on scikit-learn's digits, a minute or two on a CPU.

OMP_NUM_THREADS=1 python -m training.digits --out verifier/data/digits.safetensors

On one thread the sums are taken in one order, and the same machine writes the same file byte for byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from properties import LinfBall
from training.dual_loss import robust_loss
from verifier.demo import EPS, TRAINING_IMAGES, architecture, digits
from verifier.graph.torch_import import import_torch


def train(epochs: int = 30, batch: int = 100, eps: float = EPS, seed: int = 0) -> torch.nn.Module:
    """Wong & Kolter's training: Adam on the robust loss, with eps growing over the first half."""
    torch.manual_seed(seed)
    images, labels = digits()
    images, labels = images[:TRAINING_IMAGES], labels[:TRAINING_IMAGES]
    model = architecture().eval()
    graph = import_torch(model, images[:1])  # holds the model's own parameters
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(epochs):
        radius = eps * min(1.0, 2 * (epoch + 1) / epochs)
        certified = 0
        for index in torch.randperm(len(images)).split(batch):
            certified += _step(graph, optimiser, images[index], labels[index], radius)
        schedule.step()
        print(f"epoch {epoch + 1:3d}  eps {radius:.3f}  certified {certified / len(images):6.1%} of the training set")
    return model


def _step(graph, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, eps: float) -> int:  # type: ignore[no-untyped-def]
    """One descent step; returns how many examples of the batch are certified."""
    loss, margins = robust_loss(graph, LinfBall(x, eps, (0, 1)), y)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return int((margins > 0).all(1).sum())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(arguments)
    from safetensors.torch import save_file

    model = train(options.epochs)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
