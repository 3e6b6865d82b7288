"""A run on the device that was stopped goes on there, to the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from device.small import ON
from training.method import METHODS, Progress
from training.run import train
from training.testing import data, example
from training.watcher import Watcher


class Stopper(Watcher):
    """Ends a run in its third step."""

    def stepped(self, progress: Progress, loss: Tensor) -> None:  # loss []
        if progress.epoch * progress.steps + progress.step == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["adversarial", "dual"])
def test_a_run_that_was_stopped_goes_on(device, tmp_path: Path, name: str):
    def trained(out: Path, **settings: Any) -> nn.Module:
        method, model = example(METHODS[name])
        return train(model, data(), method, epochs=2, validation=2, device=ON, out=out, **settings).model

    with device():
        whole = trained(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", watcher=Stopper())
        resumed = trained(tmp_path / "parts", resume=True)
        for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
            torch.testing.assert_close(one.cpu(), other.cpu(), rtol=1e-6, atol=1e-7)
