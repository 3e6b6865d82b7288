"""MNIST, Fashion-MNIST and CIFAR-10, as the other scripts take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verifier.data_files import load_joined


def images(data: Path, name: str = "mnist", part: str = "test", count: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `count` images [N, C, H, W] in [0, 1] and labels [N] of "train" or "test"; default all.

    Args:
        data: the folder with mnist/mnist_test.npz, cifar10/cifar10_train_1of5.npz and the like, as bytes.
        name: "mnist", "fashion_mnist" or "cifar10".

    Raises:
        InputError: no such file.
    """
    x, y = load_joined(data / name / f"{name}_{part}*.npz", "images", "labels")
    pixels = torch.from_numpy(x[:count]).float() / 255
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(y[:count].astype(np.int64))
