"""How a module under training is called: coarser where nothing is proved, refused where it cannot be, in the log."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training import Trained, train
from training.forms import batch_normed
from training.method import METHODS
from training.options import PlanOptions
from training.testing import data, example
from verifier.errors import InputError, StoreError

AMP = {"amp": "bfloat16"}


def run(
    name: str, form: Any = None, dtype: torch.dtype = torch.float32, out: Path | None = None, **given: Any
) -> Trained:
    (method, model), (x, y) = example(METHODS[name], dtype), data(dtype)
    if given.pop("coloured", False):
        x, model = x.repeat(1, 3, 1, 1) / 3, nn.Sequential(nn.Conv2d(3, 1, 1), model)
    model = model if form is None else form(model)
    settings = {key: given.pop(key) for key in ("amp", "compile", "channels_last", "resume") if key in given}
    return train(model, (x, y), dataclasses.replace(method, **given), epochs=2, validation=3, stages=("interval",),
                 out=out, **settings)  # fmt: skip


def weights(trained: Trained) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in trained.model.state_dict().values()])


@pytest.mark.parametrize("name", ["adversarial", "mtl-ibp", "fast", "trades"])
def test_mixed_precision_is_near_and_not_the_same(name: str) -> None:
    plain, mixed = run(name), run(name, **AMP)
    assert not torch.equal(weights(plain), weights(mixed))
    torch.testing.assert_close(weights(mixed), weights(plain), rtol=0.1, atol=0.02)
    assert {value.dtype for value in mixed.model.state_dict().values()} == {torch.float32}
    assert mixed.history.settings["amp"] == "bfloat16"
    assert not {"amp", "compile", "channels_last"} & set(plain.history.settings)


def test_bounds_stay_in_the_precision_of_the_weights() -> None:
    settings = {"warm_up": 0.0, "ramp": 0.0}  # no clean loss: from the first step on intervals alone
    plain, mixed = run("ibp", **settings), run("ibp", **settings, **AMP)
    assert torch.equal(weights(plain), weights(mixed))
    figures = ("loss", "clean", "verified")
    assert [[row[k] for k in figures] for row in plain.history.rows] == [
        [row[k] for k in figures] for row in mixed.history.rows
    ]


def test_images_by_places_are_the_same_images() -> None:
    found = run("mtl-ibp", coloured=True, channels_last=True)
    wanted = run("mtl-ibp", coloured=True)
    torch.testing.assert_close(weights(found), weights(wanted), rtol=1e-3, atol=1e-5)


def test_batch_norm_in_mixed_precision() -> None:
    found = run("mtl-ibp", form=batch_normed, coloured=True, channels_last=True, **AMP)
    assert weights(found).isfinite().all()


@pytest.mark.slow
def test_compiled_passes_are_the_same_function() -> None:
    found = run("mtl-ibp", compile=True)
    torch.testing.assert_close(weights(found), weights(run("mtl-ibp")), rtol=1e-3, atol=1e-5)
    assert found.history.settings["compile"] is True


class OfVectors(nn.Module):
    """Takes images apart in a way that knows how they lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 2, 3), nn.Linear(72, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 8, 8] -> [B, 3]
        return self.last(self.first(x).view(len(x), 72))


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("adversarial", {"amp": "float16"}, "amp must be bfloat16, or left out, got 'float16'"),
        ("adversarial", {**AMP, "dtype": torch.float64}, "amp is for weights in float32, and these are float64"),
        ("layerwise", AMP, "amp would change nothing: 'layerwise' trains by its own passes through the graph"),
        ("standard", {"compile": True, "form": batch_normed}, "compile is not for networks with batch norm"),
        ("standard", {"channels_last": True}, "of more than one channel, and inputs are [1, 8, 8]: leave it out"),
    ],
)
def test_what_cannot_be_is_refused_in_words(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        run(name, **given)


def test_images_by_places_need_images() -> None:
    method, _ = example(METHODS["standard"])
    x, y = data()
    with pytest.raises(InputError, match=re.escape("of more than one channel, and inputs are [64]")):
        train(nn.Linear(64, 3), (x.flatten(1), y), method, epochs=1, channels_last=True)
    with pytest.raises(InputError, match=r"with channels_last here: leave that out\. RuntimeError: view"):
        train(OfVectors(), (x.repeat(1, 3, 1, 1), y), method, epochs=1, channels_last=True)


def test_another_precision_is_another_run(tmp_path: Path) -> None:
    run("standard", out=tmp_path / "run")
    with pytest.raises(StoreError, match="amp"):
        run("standard", out=tmp_path / "run", resume=True, **AMP)


def test_options_of_the_command() -> None:
    options = PlanOptions(amp="bfloat16", compile=True, channels_last=True).keywords(True, (1, 8, 8))
    assert (options["amp"], options["compile"], options["channels_last"]) == ("bfloat16", True, True)
