"""A training loop of one's own on the bounds of the library: scikit-learn's digits, proved within the radius.

    python examples/bounds_in_training.py --epochs 20

The loss is cross-entropy at lower bounds of all margins (Wong & Kolter 2018, Theorem 2), first by intervals, which are
quick, then by linear relaxations (CROWN); the radius grows with the epochs. The network is imported once: its graph has
the live parameters, so that gradients of the bounds reach them, and what an optimiser does to them the bounds follow.
Prints the loss of every epoch, and at the end what `verify` proves of images that the network has not seen.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import verifier
from verifier.demo import TRAINING_IMAGES, digits
from verifier.graph import Graph

EPS, CLASSES, BATCH = 0.06, 10, 100


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)
    )


def margin_rows(label: Tensor) -> Tensor:  # [B] -> [B, CLASSES, CLASSES]
    """Row j of example b is output[label] less output[j]; row `label` is zero."""
    identity = torch.eye(CLASSES)
    return identity[label].unsqueeze(1) - identity


def robust_loss(graph: Graph, x: Tensor, label: Tensor, eps: float, method: str) -> Tensor:
    """An upper bound of the mean cross-entropy over the balls of radius eps around x [B, 1, 8, 8]."""
    margins = verifier.bounds(graph, x, eps, method, C=margin_rows(label), clip=(0, 1), differentiable=True).lower
    return nn.functional.cross_entropy(-margins, label)


def trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Sequential:
    """A network in eval mode."""
    torch.manual_seed(0)
    model = network().eval()
    graph = verifier.import_torch(model, images[:1])
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for epoch in range(epochs):
        eps, method = EPS * min(1.0, (epoch + 1) / (0.75 * epochs)), "ibp" if 4 * epoch < epochs else "crown"
        total = 0.0
        for index in torch.randperm(len(images)).split(BATCH):
            loss = robust_loss(graph, images[index], labels[index], eps, method)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(index)
        print(f"epoch {epoch + 1:3d}  eps {eps:.3f}  {method:5s}  loss {total / len(images):.4f}")
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=100, help="images to verify, of those that were held out")
    options = parser.parse_args(arguments)
    images, labels = digits()
    model = trained(images[:TRAINING_IMAGES], labels[:TRAINING_IMAGES], options.epochs)
    x, label = images[TRAINING_IMAGES:][: options.images], labels[TRAINING_IMAGES:][: options.images]
    result = verifier.verify(model, x, EPS, label=label, clip=(0, 1), stages=["attack", "crown", "alpha-crown"])
    right = int((result.prediction == label).sum())
    print(f"of {len(x)} held-out images {right} right, {result.summary()['verified']} verified at eps {EPS}")


if __name__ == "__main__":
    main()
