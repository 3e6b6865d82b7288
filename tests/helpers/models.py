"""Small seeded networks and data that several tests share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def small_mlp(inputs: int = 12, hidden: int = 16, classes: int = 4, seed: int = 0) -> nn.Sequential:
    """An untrained ReLU network with one hidden layer on flat inputs, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def small_image_mlp(shape: tuple[int, ...] = (1, 3, 4), classes: int = 4, seed: int = 0) -> nn.Sequential:
    """`small_mlp` behind a flatten, for images of `shape`."""
    inputs = int(np.prod(shape))
    return nn.Sequential(nn.Flatten(), *small_mlp(inputs, classes=classes, seed=seed)).eval()


def labelled(model: nn.Module, shape: tuple[int, ...], examples: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Uniform images [N, *shape] in [0, 1] with the model's own predictions as labels, one in ten of them wrong."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((examples, *shape), generator=generator)
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    labels[::10] = (labels[::10] + 1) % logits.shape[1]
    return images, labels
