"""Conformance of training methods; the checks of all other kinds of parts are in `verifier.testing`."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.batch_norm import batch_sizes
from training.forms import FORMS
from training.history import History
from training.method import Progress, TrainingMethod
from training.network import NetworkInTraining
from training.run import Trained, train
from training.settings import parsed, settings_of, summary
from training.watcher import Watcher
from verifier.errors import InputError, ModelError
from verifier.testing.laws import Law, hold

EPOCHS, EXAMPLES = 4, 9  # in batches of 4: the last one is a single image


def check_method(kind: type[TrainingMethod]) -> None:
    """Every law of training methods, on the class's `example`.

    Raises:
        AssertionError: one is broken; its notes say which.
    """
    assert kind.name and kind.__doc__ and summary(kind), "no name, or no summary for `verifier train --list`"
    with _without_curves():
        hold(f"the training method {kind.name!r}", LAWS, kind)


@contextmanager
def _without_curves() -> Iterator[None]:
    """Drawing them takes longer than these runs."""
    plot = History.plot
    History.plot = lambda self, path: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        History.plot = plot  # type: ignore[method-assign]


def example(kind: type[TrainingMethod], dtype: torch.dtype = torch.float32) -> tuple[TrainingMethod, nn.Module]:
    """The method's own example, the same at every call."""
    torch.manual_seed(0)
    method, model = kind.example()
    return method, model.to(dtype)


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A few images [N, 1, 8, 8] in [0, 1], and labels [N] of three classes."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(EXAMPLES, 1, 8, 8, generator=generator).to(dtype), torch.arange(EXAMPLES) % 3


class Interrupter(Watcher):
    """Stops at a step, counted from 0 over the whole run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, progress: Progress, loss: Tensor) -> None:  # loss []
        if progress.epoch * progress.steps + progress.step == self.step:
            raise KeyboardInterrupt


def gradients_reach_what_is_trained(kind: type[TrainingMethod]) -> None:
    """At the first step of each phase the loss is finite, and its gradient reaches what is trained."""
    for dtype in (torch.float32, torch.float64):
        method, model = example(kind, dtype)
        x, label = (t[: method.batch] for t in data(dtype))
        run = method.begin(NetworkInTraining(model, x), torch.Generator().manual_seed(0))
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


def one_seed_is_one_run_and_resumption_changes_nothing(kind: type[TrainingMethod]) -> None:
    """A run that was stopped twice ends with the weights and the history of one that was not."""
    _same_in_parts(lambda: example(kind), (2, 7))


def networks_of_every_form_are_trained(kind: type[TrainingMethod]) -> None:
    """Batch norm moves its averages once a step at most, weights may be computed from others, and layers be skipped."""
    # the measurement too: at the end, on examples that are held out
    measured = {"validation": 2, "measure_every": EPOCHS, "checkpoint_seconds": 60.0}
    for name, form in FORMS.items():

        def made(form: Callable[[nn.Module], nn.Module] = form) -> tuple[TrainingMethod, nn.Module]:
            method, model = example(kind)
            return method, form(model)

        try:
            model = _same_in_parts(made, (3,), **measured).model
        except InputError as error:
            if name == "a skip" and isinstance(error.__cause__, ModelError):
                continue  # a method for networks in layers says so before the first step
            error.add_note(f"its example with {name}")
            raise
        except Exception as error:
            error.add_note(f"its example with {name}")
            raise
        steps = EPOCHS * len(batch_sizes(EXAMPLES - 2, example(kind)[0].batch, 2))
        assert all(0 < int(model.state_dict()[name]) <= steps for name in _counters(model))


def _counters(model: nn.Module) -> list[str]:
    """Names of the buffers that count how often averages have moved."""
    return [name for name, _ in model.named_buffers() if name.endswith("num_batches_tracked")]


def _same_in_parts(
    made: Callable[[], tuple[TrainingMethod, nn.Module]], interrupted: tuple[int, ...], **settings: Any
) -> Trained:
    """A run, which one that is stopped at some steps and goes on is equal to."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, steps in (("whole", ()), ("parts", interrupted)):
            out = Path(folder) / name
            for step in steps:
                method, model = made()
                stopped = False
                try:
                    _trained(model, method, out, Interrupter(step), **settings)
                except KeyboardInterrupt:
                    stopped = True
                assert stopped, "it took fewer steps than its batches are"
            method, model = made()
            runs.append(_trained(model, method, out, None, **settings))
            assert not any(m.training or "forward" in vars(m) for m in model.modules()), "not left as it was"
    start = made()[1].state_dict()
    whole = runs[0].model.state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in whole.items()), "nothing was trained"
    assert all(torch.equal(value, whole[key]) for key, value in runs[1].model.state_dict().items())
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history.rows] for run in runs]
    assert rows[0] == rows[1]
    numbers = (v for row in rows[0] for v in row.values() if isinstance(v, float))
    assert all(map(math.isfinite, numbers)), "the log holds no numbers"
    return runs[0]


def settings_are_plain_and_explained(kind: type[TrainingMethod]) -> None:
    """Settings are JSON, tell runs apart, are explained one by one, and their defaults can be typed."""
    method, _ = example(kind)
    settings = method.settings()
    assert json.loads(json.dumps(settings)) == settings and settings["method"] == kind.name
    assert set(settings) == {"method", *(f.name for f in dataclasses.fields(method))}
    assert not any(" object at 0x" in str(value) for value in settings.values())
    assert dataclasses.replace(method, eps=0.04).settings() != settings
    assert "eps must be" in _refusal(lambda: dataclasses.replace(method, eps=-1.0))
    asked = _refusal(lambda: parsed(kind, ["nonsense=1"]))
    assert f"method '{kind.name}' has no setting 'nonsense'; it has:\n" in asked
    for setting in settings_of(kind):
        assert setting.explained, f"the docstring says nothing of {setting.name}"
        # what is printed as the default can be typed
        typed = parsed(kind, [f"{setting.name}={setting.default}"])
        assert typed == {setting.name: getattr(kind(eps=0.1), setting.name)}


def errors_of_settings_are_input_errors(kind: type[TrainingMethod]) -> None:
    """Whatever `begin` refuses is told as bad input."""
    method, model = example(kind)
    images, labels = data()
    refused = False
    try:
        train(model, (images, labels + 3), method, epochs=1)
    except InputError:
        refused = True
    assert refused, "labels of classes that the network does not have were accepted"


def _trained(model: nn.Module, method: TrainingMethod, out: Path, watcher: Watcher | None, **settings: Any) -> Trained:
    settings = {"validation": 0, "checkpoint_seconds": 0.0, **settings}
    return train(model, data(), method, epochs=EPOCHS, out=out, resume=True, watcher=watcher, **settings)


def _refusal(call: Callable[[], object]) -> str:
    """What a ValueError says."""
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was refused")


LAWS: tuple[Law, ...] = (
    settings_are_plain_and_explained,
    errors_of_settings_are_input_errors,
    gradients_reach_what_is_trained,
    one_seed_is_one_run_and_resumption_changes_nothing,
    networks_of_every_form_are_trained,
)
