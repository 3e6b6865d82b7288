"""Runs of `certify` that tests make pages of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_image_mlp

from verifier import certify

SHAPE = (3, 4, 4)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs at two radii, their certificates, and the data; one example raises."""
    folder = tmp_path_factory.mktemp("runs")
    model = small_image_mlp(SHAPE)
    images, labels = labelled(model, SHAPE, 24)
    images[5, 0, 0, 0] = torch.nan
    np.savez(folder / "data.npz", images=images.numpy(), labels=labels.numpy())
    for eps in (0.03, 0.1):
        certify(
            model, images[2:], labels[2:], eps, clip=(0, 1), store=folder / f"{eps}.sqlite", progress=False,
            stages=["clean", "interval", "dual", "attack"], first_index=2, certificates=folder / f"{eps}.cert",
        )  # fmt: skip
    return folder
