"""Random changes of training images: what each does, from the shell, with labels, the same after a resumption."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training_run import timeless
from torch import Tensor, nn
from typer.testing import CliRunner

from training import History, Standard, train
from training.augmentation import augmentation
from training.method import Progress
from training.schedule import Optimiser
from training.watcher import Watcher
from verifier.commands.app import app
from verifier.errors import InputError

SHAPE = (2, 6, 5)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images(count: int = 400) -> Tensor:  # [N, 2, 6, 5], no pixel black, all different
    return 0.1 + torch.rand(count, *SHAPE, generator=seeded())


def test_a_crop_is_a_part_of_the_margined_image() -> None:
    x = images()
    found = augmentation("crop=2", SHAPE)(x, seeded())
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    shifts = [
        next((i, j) for i in range(5) for j in range(5) if torch.equal(padded[k, :, i : i + 6, j : j + 5], found[k]))
        for k in range(len(x))
    ]
    counts = torch.bincount(torch.tensor([5 * i + j for i, j in shifts]), minlength=25)
    assert counts.min() > 0 and counts.max() < 45, "every shift is as likely"
    assert found.is_contiguous() and not torch.equal(found, augmentation("crop=2", SHAPE)(x, seeded().manual_seed(1)))


def test_half_of_the_images_are_mirrored() -> None:
    x = images()
    found = augmentation("flip", SHAPE)(x, seeded())
    mirrored = (found == x.flip(3)).flatten(1).all(1)
    assert ((found == x).flatten(1).all(1) ^ mirrored).all() and 160 < int(mirrored.sum()) < 240


def test_a_square_is_cut_out_around_any_pixel() -> None:
    x = images()
    gone = augmentation("cutout=3", SHAPE)(x, seeded()) == 0
    assert torch.equal(gone[:, 0], gone[:, 1]) and bool((gone.sum((0, 1)) > 0).all())
    areas = gone[:, 0].flatten(1).sum(1)
    assert areas.max() == 9 and areas.min() == 4, "whole inside, a part of it at the border"
    rows, columns = gone[:, 0].any(2), gone[:, 0].any(1)
    assert torch.equal(rows[:, :, None] & columns[:, None, :], gone[:, 0])


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("crops=4", SHAPE, "did you mean 'crop'"), ("crop", SHAPE, "crop=MARGIN takes pixels, 1 to 6"),
        ("crop=9", SHAPE, "1 to 6; got 'crop=9'"), ("flip=2", SHAPE, "takes no number"), ("cutout=x", SHAPE, "=SIDE"),
        ("flip", (30,), "inputs are [30]"), ("flip", (32, 32, 3), "channels, height, width"),
    ],
)  # fmt: skip
def test_what_is_no_change_is_refused(text: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        augmentation(text, shape)
    assert said in str(caught.value)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(60, 2))


def labels(x: Tensor) -> Tensor:
    return (x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2))).long()


def mixed(x: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): its cross-entropy is linear in the label, so that drawing one has its expectation."""
    share = torch.rand(len(x), generator=generator)
    other = torch.randperm(len(x), generator=generator)
    own = torch.rand(len(x), generator=generator) < share
    weight = share.reshape(-1, 1, 1, 1)
    return weight * x + (1 - weight) * x[other], torch.where(own, label, label[other])


def run(out: Path | None = None, clip: tuple[float, float] | None = None, **changes: Any) -> tuple[nn.Module, History]:
    x = images(120)
    changed = augmentation("crop=1,flip", SHAPE)
    settings: dict[str, Any] = {"epochs": 3, "validation": 10, "stages": (), "augment": changed}
    method = Standard(eps=0.01, clip=clip, batch=10, optimiser=Optimiser(rate=0.03))
    return train(network(), (x, labels(x)), method, out=out, **{**settings, **changes})


def test_labels_may_change_too() -> None:
    seen: list[Tensor] = []

    def swapped(x: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen.append(label)
        return x, 1 - label

    right, _ = run(augment=lambda x, generator: x, validation=0, epochs=6)
    wrong, _ = run(augment=swapped, validation=0, epochs=6)
    assert len(torch.cat(seen)) == 6 * 120
    x = images(120)
    shares = [float((net(x).argmax(1) == labels(x)).float().mean()) for net in (right, wrong)]
    assert shares[0] > 0.9 and shares[1] < 0.1
    losses = run(augment=mixed, epochs=6)[1].column("loss")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        (lambda x, label, generator: x, "must return images and labels"),
        (lambda x, label, generator: (x, nn.functional.one_hot(label)), "as it got them"),
        (lambda x, generator: x[:, :1], "as it got them"),
        (lambda x, label, generator: (x, label + 9), "labels of 0 to"),
        (lambda x, generator: x * torch.nan, "NaN or infinite"),
        (lambda x, generator: x + 1, "outside the valid range"),
        (lambda x: x, "takes 1 arguments"),
        (nn.Identity(), "takes 1 arguments"),
        ("flip", "is a function of images"),
    ],
)
def test_what_is_no_batch_is_refused(augment: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(augment=augment, clip=(0.0, 1.1))


class CtrlC(Watcher):
    """Presses it, at a step of the second epoch."""

    def stepped(self, progress: Progress, loss: Tensor) -> None:
        if (progress.epoch, progress.step) == (1, 4):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_the_step_and_the_rest_is_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, history = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="after step 5 of 11 in epoch 2"):
        run(tmp_path / "cut", watcher=CtrlC(), checkpoint_seconds=1e9)
    seen: list[Progress] = []

    class Steps(Watcher):
        def stepped(self, progress: Progress, loss: Tensor) -> None:
            seen.append(progress)

    again, more = run(tmp_path / "cut", resume=True, watcher=Steps())
    assert (seen[0].epoch, seen[0].step) == (1, 5), "nothing is done twice"
    assert timeless(more.rows) == timeless(history.rows)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(History, "plot", lambda self, path: path.write_text("a picture"))
    x = images(60).permute(0, 2, 3, 1)
    x = torch.cat([x, x[..., :1]], 3) / 2
    np.savez("train.npz", images=x.numpy(), labels=labels(images(60)).numpy())

    def call(out: str, *flags: str) -> Any:
        given = ("--method", "standard", "--arch", "two_layer:4", "--data", "train.npz", "--eps", "0.01", "--out", out)
        fixed = ("--epochs", "1", "--stages", "none", "--layout", "nhwc", *flags)
        return CliRunner().invoke(app, ["train", *given, *fixed])

    for out, flags in (("a", ()), ("b", ("--augment", "crop=2,flip,cutout=2")), ("c", ("--augment", "flip"))):
        assert call(out, *flags).exit_code == 0
    weights = [load_file(name)["1.weight"] for name in "abc"]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    refused = call("d", "--augment", "spin")
    assert refused.exit_code == 2 and "no augmentation is called 'spin'; there are: crop" in refused.stderr
    other = call("b", "--augment", "flip", "--resume")
    assert other.exit_code == 2 and "augment was" in other.stderr
