"""Runs that train, but most likely not what was meant: what is said of them, where, and what is refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from training import (
    AdversarialTraining,
    DualTraining,
    FastTraining,
    History,
    IntervalTraining,
    LayerwiseAdversarial,
    SdpTraining,
    Standard,
    Trained,
    TrainingMethod,
    train,
)
from training.doubts import TrainingWarning
from training.schedule import Cyclic, Decayed, Optimiser, Ramp, Stepped
from verifier.commands.app import app

#: a fifth of the images is held out, unless a test says otherwise
COUNT = 30


def network(method: TrainingMethod | None = None) -> nn.Module:
    torch.manual_seed(0)
    if isinstance(method, SdpTraining):  # for one hidden layer
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def images(classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images [30, 1, 4, 4] that can be told apart by one bright pixel, and their labels."""
    y = torch.arange(COUNT) % classes
    x = 0.2 * torch.rand(COUNT, 16, generator=torch.Generator().manual_seed(0))
    x[torch.arange(COUNT), y] += 0.8
    return x.view(-1, 1, 4, 4), y


def run(method: TrainingMethod, epochs: int = 6, data: tuple[Tensor, Tensor] | None = None, **options: Any) -> Trained:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return train(network(method), data or images(), method, epochs=epochs, **{"validation": 6, **options})


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "plot", lambda self, path: path.write_text("a picture"))


FINE: dict[str, Any] = {"eps": 0.02, "optimiser": Optimiser(rate=0.02), "batch": 6}


@pytest.mark.parametrize(
    ("method", "epochs"),
    [
        (Standard(**FINE), 12), (AdversarialTraining(**FINE), 12), (FastTraining(**FINE), 20),
        (IntervalTraining(**FINE), 12), (DualTraining(**FINE), 12), (LayerwiseAdversarial(**FINE), 15),
        (Standard(rate=Stepped(every=6, factor=0.5), **FINE), 12),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_nothing_is_said_of_a_run_that_goes_well(method: TrainingMethod, epochs: int) -> None:
    assert run(method, epochs).history.warnings == []


def of_one_class() -> tuple[Tensor, Tensor]:
    x, y = images()
    return x, torch.full_like(y, 2)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (LayerwiseAdversarial(**FINE), {"epochs": 3}, "some of the 3 phases have a single epoch"),
        (IntervalTraining(warm_up=0.5, **FINE), {"epochs": 4}, "the radius is whole for the last 0 of 4 epochs only"),
        (DualTraining(**FINE, ramp=Ramp(end=1.0)), {}, "the radius is whole"),
        (SdpTraining(**FINE), {"stages": ()}, "they stay equal"),
        (Standard(rate=Stepped(every=100, factor=0.1), **FINE), {}, "the learning rate never falls"),
        (LayerwiseAdversarial(rate=Stepped(every=4, factor=0.1), **FINE), {"epochs": 9}, "longest phase has 3"),
        (Standard(**FINE), {"data": of_one_class()}, "all 24 training images are of class 2"),
        (AdversarialTraining(**{**FINE, "eps": 8}), {}, "eps 8 is larger than the whole range of the images"),
        (Standard(**FINE), {"held_out": of_one_class()}, "all 30 held-out images are of class 2"),
        (Standard(eps=0.02, optimiser=Optimiser(rate=1e-12)), {}, "epochs in a row: nothing is learned"),
        (DualTraining(**FINE), {"epochs": 12, "stages": ()}, "no held-out image was ever verified"),
        (Standard(**{**FINE, "eps": 1.0, "optimiser": Optimiser(rate=1e3)}), {}, "says class"),
    ],
    ids=[
        "phases", "ramp", "dual", "sdp", "steps", "steps in phases", "class", "eps", "held-out", "still", "goal",
        "answer",
    ],
)  # fmt: skip
def test_what_is_doubtful_is_said_once_and_kept(
    method: TrainingMethod, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    run(method, out=tmp_path, **options)
    history = run(method, out=tmp_path, resume=True, **options).history
    found = [text for text in history.warnings if said in text]
    assert len(found) == 1, history.warnings
    assert json.loads((tmp_path / "log.json").read_text())["warnings"] == history.warnings


def test_it_is_a_warning_of_python_where_nobody_watches() -> None:
    with pytest.warns(TrainingWarning, match="a single epoch"):
        train(network(), images(), LayerwiseAdversarial(**FINE), epochs=3)


@dataclass(frozen=True, kw_only=True)
class _OneClass(Standard):
    """Not registered: learns labels that are all the same."""

    def begin(self, *arguments: Any) -> Any:
        inner = super().begin(*arguments)
        loss = inner.loss
        inner.loss = lambda x, label, progress: loss(x, torch.ones_like(label), progress)  # type: ignore[method-assign]
        return inner


@pytest.mark.parametrize("validation", [6, 0])
def test_a_network_that_says_one_class_of_everything(validation: int) -> None:
    """Also where no image is held out, by the training images."""
    (text,) = run(_OneClass(**FINE), 12, validation=validation).history.warnings
    assert text.startswith(f"the network says class 1 of all {validation or COUNT} images")


def test_averages_of_batch_norm_that_have_hardly_moved_are_told_apart() -> None:
    """Two steps at a momentum of 0.1 leave 0.9^2 of what the averages began with; 40 leave little."""
    method = _OneClass(eps=0.02, optimiser=Optimiser(rate=0.02), batch=12)
    said = []
    for epochs in (1, 20):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        with torch.no_grad():
            model[4].bias[1] = 9.0
        with pytest.warns(TrainingWarning, match="says class 1 of all 30 images"):
            said.append(train(model, images(), method, epochs=epochs, validation=0, stages=()).history.warnings[-1])
    assert "over 3 steps only, so that 73% of the averages" in said[0] and "smaller batches" in said[0]
    assert "it has learned nothing but that" in said[1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Optimiser(rate=0.0), "learning rate must be a number > 0"),
        (lambda: Optimiser(rate=float("nan")), "learning rate must be a number > 0"),
        (lambda: Optimiser("sgd", momentum=1.0), "momentum must be in"),
        (lambda: Optimiser(weight_decay=-1.0), "weight_decay"),
        (lambda: Decayed(times=0), "times >= 1"),
        (lambda: Decayed(after=1.5), "share after"),
        (lambda: Cyclic(peak=2.0), "share of the run"),
        (lambda: Stepped(every=0, factor=0.1), "every > 0"),
    ],
)
def test_schedules_that_cannot_be_meant_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_the_command_says_it_on_stderr(tmp_path: Path, quiet: tuple[str, ...]) -> None:
    x, y = images()
    np.savez(tmp_path / "train.npz", images=x.squeeze(1).numpy(), labels=y.numpy())
    arguments = ["train", "--method", "layerwise", "--arch", "wide:1", "--data", str(tmp_path / "train.npz")]
    options = ["--eps", "0.01", "--epochs", "4", "--out", str(tmp_path / "net.safetensors"), *quiet]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    assert "warning: some of the" in result.stderr and "warning" not in result.stdout
    refused = CliRunner().invoke(app, [*arguments, *options, "--lr", "0"])
    assert refused.exit_code == 2
