"""Training on a device: the CPU's weights, and no step that waits for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from device.accounts import Account
from properties import Perturbation, robustness
from properties.device import checked_before
from training import History, Trained, train
from training.augmentation import augmentation
from training.method import METHODS, Progress, TrainingMethod
from training.testing import example
from training.watcher import Watcher
from verifier.errors import InputError

EXAMPLES, EPOCHS = 8, 3

#: how often a step waits; of the methods that are not here, never
WAITS = {
    # exact widths of zonotopes behind the second activation need the number of unstable neurons before it
    "layerwise": 1,
}
#: and how often the end of an epoch does: it may attack a batch, or begin dual variables anew
ENDS = {"fast": 8, "fast from the step before": 8, "sdp": 8}

#: settings that are not the default ones, by names of their own
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "layerwise by projections": ("layerwise", {"projections": 5}),
    "ibp with its regularisers": ("ibp", {"regularise": 0.5, "l1": 1e-5, "kappa": 0.5}),
    "norms, spectral": ("norms", {"norm": "spectral"}),
    "fast from the step before": ("fast", {"start": "previous"}),
    "mtl-ibp by several steps": ("mtl-ibp", {"attack_steps": 2}),
}


class Waits(Watcher):
    """Counts what each step after an epoch's first one made the host wait for, and what each end of an epoch did."""

    def __init__(self, account: Any) -> None:
        self.account = account
        self.steps: list[int] = []
        self.ends: list[int] = []
        self.sent: Counter[str] = Counter()

    def began(self, history: History, epochs: int, steps: int) -> None:
        self._mark()

    def stepped(self, progress: Progress, loss: Tensor) -> None:
        if progress.step:
            self.steps.append(self.account.waits - self.before)
            self.sent += self.account.up - self.up
        self._mark()

    def epoch_ended(self, history: History) -> None:
        self.ends.append(self.account.waits - self.before)
        self._mark()

    def warned(self, text: str) -> None:
        pass

    def _mark(self) -> None:
        self.before, self.up = self.account.waits, self.account.up.copy()


def run(kind: type[TrainingMethod], settings: dict[str, Any], where: str, **about: Any) -> Trained:
    """A few steps of 4 images each, without a measurement."""
    method, model = example(kind)
    images = torch.rand(EXAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    data = images, torch.arange(EXAMPLES) % 3
    return train(model, data, replace(method, **settings), epochs=EPOCHS, validation=0, device=where, **about)


@pytest.mark.parametrize("name", [*sorted(METHODS), *OTHERS])
def test_weights_are_those_of_the_cpu_and_no_step_waits(device, name: str):
    base, settings = OTHERS.get(name, (name, {}))
    wanted = run(METHODS[base], settings, "cpu", watcher=Waits(_nothing()))
    with device() as account:
        watcher = Waits(account)
        found = run(METHODS[base], settings, "cuda", watcher=watcher)
        state = {key: value.cpu() for key, value in found.model.state_dict().items()}
    for key, value in wanted.model.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-5)
    for here, there in zip(found.history.rows, wanted.history.rows, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-3)
    assert max(watcher.steps) <= WAITS.get(name, 0), account.told()
    assert max(watcher.ends) <= ENDS.get(name, 4), "figures and checks are read once an epoch"
    assert all(" sent: " in line for line in watcher.sent), "what a step sends, it sends from pinned memory"


def test_changes_of_images_do_not_wait_either(device):
    changes = augmentation("crop=1,flip,cutout=2", (1, 8, 8))
    wanted = run(METHODS["standard"], {}, "cpu", augment=changes)
    with device() as account:
        watcher = Waits(account)
        found = run(METHODS["standard"], {}, "cuda", augment=changes, watcher=watcher)
        weight = next(found.model.parameters()).detach().cpu()
    torch.testing.assert_close(weight, next(wanted.model.parameters()).detach(), rtol=1e-4, atol=1e-6)
    assert max(watcher.steps) == 0, account.told()


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [(lambda x, generator: x + 2, "outside the valid range"), (lambda x, generator: x / 0, "NaN or infinite")],
)
def test_spoiled_images_are_told_at_the_end_of_the_epoch(device, spoiled: Any, said: str):
    with device(), pytest.raises(InputError, match=said):
        run(METHODS["standard"], {}, "cuda", augment=spoiled)


def test_sets_of_checked_images_are_made_without_a_look(device):
    x, label = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    asked = Perturbation(0.1, clip=(0.0, 1.0))
    with device() as account:
        here, there = x.to("cuda"), label.to("cuda")
        before = account.waits + account.up.total()
        with checked_before():
            robustness(there, 3).select(there)
            asked.around(here)
        assert account.waits + account.up.total() == before, account.told()
        with pytest.raises(ValueError, match="outside the valid range"):
            asked.around(here + 1)
        with pytest.raises(ValueError, match="out of range"):
            robustness(there, 2)
    with checked_before(), pytest.raises(ValueError, match="outside the valid range"):
        asked.around(x + 1)  # a CPU keeps nobody waiting


def _nothing() -> Any:
    """An account of what asks no device."""
    return Account(counted=False)
