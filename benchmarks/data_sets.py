"""MNIST and Fashion-MNIST, as the other scripts take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def images(data: Path, name: str = "mnist", part: str = "test", count: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `count` images [N, 1, 28, 28] in [0, 1] and labels [N] of "train" or "test"; default all.

    Args:
        data: the folder with mnist/mnist_test.npz and the like. name: "mnist" or "fashion_mnist".
    """
    with np.load(data / name / f"{name}_{part}.npz") as archive:
        x, y = archive["images"][:count], archive["labels"][:count]
    return torch.from_numpy(x).float().unsqueeze(1) / 255, torch.from_numpy(y.astype(np.int64))
