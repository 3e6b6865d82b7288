"""The shared networks and data sets, read without the ONNX importer; tests skip visibly where they are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def require(*parts: str) -> Path:
    """The path of a shared file, or a skip that says what is missing."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared data not here: {'/'.join(parts)}")
    return path


def images(data_set: str, first: int | None = None) -> tuple[Tensor, Tensor]:
    """Test images [N, 1, 28, 28] in [0, 1] and labels [N] of mnist or fashion_mnist."""
    with np.load(require(data_set, f"{data_set}_test.npz")) as archive:
        x, y = archive["images"][:first], archive["labels"][:first]
    return torch.from_numpy(x).float().unsqueeze(1) / 255, torch.from_numpy(y.astype(np.int64))


def wong_kolter_small(name: str) -> nn.Sequential:
    """One of Wong & Kolter's `small` MNIST-sized networks, with its published weights."""
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    model = onnx.load(str(require("nets", f"{name}.onnx")))
    weights = [torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer]
    network = small_architecture()
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), weights, strict=True):
            parameter.copy_(value)
    return network.eval()


def small_architecture() -> nn.Sequential:
    """Wong & Kolter (2018), appendix B: two strided convolutions, a hidden layer of 100."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
