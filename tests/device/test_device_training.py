"""Every training method trains on the device: the same network as on the CPU, and one that is verified there."""

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
from verifier import verify


@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_is_trained_as_on_the_cpu(device, name: str):
    settings = {"epochs": 2, "validation": 2, "measure_every": 2}
    method, model = example(METHODS[name])
    wanted = train(model, data(), method, **settings)
    with device():
        method, model = example(METHODS[name])
        found = train(model, data(), method, device=ON, **settings)
        for key, value in found.model.state_dict().items():
            assert value.is_cuda
            torch.testing.assert_close(value.cpu(), wanted.model.state_dict()[key], rtol=1e-3, atol=1e-4)
        x = data()[0][:2]
        assert verify(found.model, x, 0.01, stages=["interval"]).verdict == verify(
            wanted.model, x, 0.01, stages=["interval"]).verdict  # fmt: skip


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
