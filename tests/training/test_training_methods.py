"""Every registered training method keeps the protocol: gradients, precision, seeds, resumption, settings, sources."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training import History, train
from training.method import Progress, TrainingMethod
from training.methods import load_all, method_named
from training.network import NetworkInTraining
from training.settings import parsed, settings_of, summary, table
from training.watcher import Watcher
from verifier.errors import InputError

METHODS = load_all()
EPOCHS, EXAMPLES = 4, 9  # in batches of 4: the last one is a single image


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than these runs."""
    monkeypatch.setattr(History, "plot", lambda self, path: None)


def example(name: str, dtype: torch.dtype = torch.float32) -> tuple[TrainingMethod, nn.Module]:
    torch.manual_seed(0)
    method, model = METHODS[name].example()
    return method, model.to(dtype)


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(EXAMPLES, 1, 8, 8, generator=generator).to(dtype), torch.arange(EXAMPLES) % 3


class Interrupter(Watcher):
    """Stops at a step, counted from 0 over the whole run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, progress: Progress, loss: Tensor) -> None:
        if progress.epoch * progress.steps + progress.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_what_is_trained(name: str, dtype: torch.dtype) -> None:
    """At the first step of each phase, and in the last epoch."""
    method, model = example(name, dtype)
    x, label = (t[: method.batch] for t in data(dtype))
    network = NetworkInTraining(model, x)
    run = method.begin(network, torch.Generator().manual_seed(0))
    model.train()
    for epoch in range(EPOCHS):
        progress = Progress(epoch, 0, 1, EPOCHS)
        assert run.phase(epoch, EPOCHS).first <= epoch
        parameters = run.parameters(progress)
        assert parameters
        loss = run.loss(x, label, progress)
        assert loss.value.shape == () and loss.value.isfinite() and loss.value.requires_grad
        assert loss.value.dtype is dtype
        gradients = torch.autograd.grad(loss.value, parameters, allow_unused=True)
        own = {id(p) for p in model.parameters()}
        assert own & {id(p) for p in parameters}
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:  # only what a method adds may wait for its turn, such as dual variables of a class
                assert id(parameter) not in own
                continue
            assert gradient.isfinite().all() and gradient.dtype is parameter.dtype
        assert any(bool(gradient.any()) for gradient in gradients if gradient is not None)
        assert all(value.shape == () and value.isfinite() for value in loss.figures.values())
        run.stepped(progress)
        run.epoch_ended(progress)


@pytest.mark.parametrize("name", METHODS)
def test_one_seed_is_one_run_and_resumption_changes_nothing(name: str, tmp_path: Path) -> None:
    runs = []
    for folder, interrupted in (("whole", ()), ("parts", (2, 7))):
        settings = {"epochs": EPOCHS, "validation": 0, "checkpoint_seconds": 0.0, "out": tmp_path / folder}
        for step in interrupted:
            method, model = example(name)
            with pytest.raises(KeyboardInterrupt):
                train(model, data(), method, resume=True, watcher=Interrupter(step), **settings)  # type: ignore[arg-type]
        method, model = example(name)
        runs.append(train(model, data(), method, resume=True, **settings))  # type: ignore[arg-type]
    start = example(name)[1].state_dict()
    whole = runs[0].model.state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in whole.items()), "nothing was trained"
    assert all(torch.equal(value, whole[key]) for key, value in runs[1].model.state_dict().items())
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history.rows] for run in runs]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", METHODS)
def test_settings(name: str) -> None:
    method, _ = example(name)
    settings = method.settings()
    assert json.loads(json.dumps(settings)) == settings and settings["method"] == name == METHODS[name].name
    assert set(settings) == {"method", *(f.name for f in dataclasses.fields(method))}
    assert not any(" object at 0x" in str(value) for value in settings.values())
    assert dataclasses.replace(method, eps=0.04).settings() != settings
    with pytest.raises(ValueError, match="eps must be"):
        dataclasses.replace(method, eps=-1.0)
    with pytest.raises(ValueError, match=f"method '{name}' has no setting 'nonsense'; it has:\n"):
        parsed(METHODS[name], ["nonsense=1"])
    for setting in settings_of(METHODS[name]):
        assert setting.explained, f"the docstring says nothing of {setting.name}"
        # what is printed as the default can be typed
        assert parsed(METHODS[name], [f"{setting.name}={setting.default}"]) == {
            setting.name: getattr(METHODS[name](eps=0.1), setting.name)
        }


@pytest.mark.parametrize("name", METHODS)
def test_a_source_is_named(name: str) -> None:
    texts = f"{METHODS[name].__doc__} {sys.modules[METHODS[name].__module__].__doc__}"
    assert name == "standard" or re.search(r"\d{4}\)|thesis", texts), "no paper, no section"
    assert summary(METHODS[name]), "no summary for `verifier train --list`"


def test_unknown_methods_and_values() -> None:
    with pytest.raises(ValueError, match=r"no training method is called 'magic'; there are: .*standard"):
        method_named("magic")
    kind = METHODS["standard"]
    for text, said in (
        ("batch=3", "option of its own: --batch"),
        ("rate", "name=value"),
        ("rate=often", "no schedule is called 'often'; there are: constant, cosine"),
        ("rate=cosine:x=1", "cosine has no option 'x'; it has: none"),
        ("optimiser=adam:rate=fast", "'fast' is not a number"),
        ("optimiser=adam:rate", "not option=value"),
        ("optimiser=lion", "no optimiser is called 'lion'"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            parsed(kind, [text])
    with pytest.raises(ValueError, match="given twice"):
        parsed(kind, ["rate=cosine", "rate=constant"])
    assert "optimiser = adam:rate=0.001" in table(kind)
    made = parsed(kind, ["optimiser=sgd:rate=0.1,momentum=0.9", "rate=decayed:times=3"])
    assert made["optimiser"].momentum == 0.9 and made["rate"].times == 3 and made["rate"].factor == 0.5


@pytest.mark.parametrize("name", METHODS)
def test_errors_of_settings_are_input_errors(name: str) -> None:
    """Whatever `begin` refuses is told as bad input."""
    method, model = example(name)
    images, labels = data()
    with pytest.raises(InputError):
        train(model, (images, labels + 3), method, epochs=1)
