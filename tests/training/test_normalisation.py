"""Normalisation belongs to the network: weights name it, loading restores it, and verification is in pixels."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from training import History
from training.architectures import small, two_layer
from verifier import InputError, ModelError, verify
from verifier.certification import Report
from verifier.commands.app import app
from verifier.demo import digits
from verifier.loading import load_model
from verifier.network_cascade import NetworkCascade, load_cascade
from verifier.normalisation import normalised

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
TEXT = "0.5,0.4,0.3/0.2,0.3,0.25"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with digits in three channels as bytes, channels last."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(History, "plot", lambda self, path: path.write_text("a picture"))
    images, labels = digits()
    for name, part in (("train", slice(0, 300)), ("test", slice(300, 340))):
        pixels = (images[part].permute(0, 2, 3, 1).repeat(1, 1, 1, 3) * 255).round().byte()
        np.savez(f"{name}.npz", images=pixels.numpy(), labels=labels[part].numpy())
    return tmp_path


def train(*flags: str, out: str = "net.safetensors", arch: str = "two_layer:24") -> Result:
    given = ("--arch", arch, "--data", "train.npz", "--eps", "0.02", "--epochs", "6", "--lr", "3e-3", "--out", out)
    fixed = ("--method", "standard", "--test", "test.npz", "--stages", "interval,dual", "--batch", "20")
    return CliRunner().invoke(app, ["train", *given, *fixed, *flags])


def test_weights_restore_their_normalisation(place: Path) -> None:
    run = train("--normalise", TEXT)
    assert run.exit_code == 0, run.output
    with safe_open("net.safetensors", "pt") as file:
        assert file.metadata() == {"normalise": TEXT}
    source = "training.architectures:two_layer((3, 8, 8), 10, 24)"
    model = load_model(source, "net.safetensors")
    assert not model.training  # type: ignore[union-attr]
    plain = two_layer((3, 8, 8), 10, 24)
    plain.load_state_dict(model.network.state_dict())  # type: ignore[union-attr]
    x = torch.rand(5, 3, 8, 8)
    by_hand = (x - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
    torch.testing.assert_close(model(x), plain(by_hand))  # type: ignore[operator]
    words = shlex.split(run.stdout.splitlines()[-1])
    certified = CliRunner().invoke(app, [*words[1:], "--quiet", "--stages", "interval,dual,attack"])
    assert certified.exit_code == 0, certified.output
    found = Report.open("net.safetensors.sqlite").summary()
    said = run.stdout.splitlines()[-3].split()
    assert said[said.index("clean") + 1] == f"{found['clean_accuracy']:.2%}" and found["verified_accuracy"] > 0


def test_numbers_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    """The metadata say that there is a normalisation, the weights that it is none of ours."""
    state = normalised(two_layer((3, 8, 8), 10, 24), TEXT, (3, 8, 8)).state_dict()
    save_file({**state, "normalise.mean": torch.tensor(0.5)}, tmp_path / "w.safetensors", {"normalise": TEXT})
    with pytest.raises(ModelError, match="do not fit the model"):
        load_model("training.architectures:two_layer((3, 8, 8), 10, 24)", tmp_path / "w.safetensors")


def test_radii_are_in_pixels() -> None:
    """Of a linear network the radius is known: the margin over the sum of the weights' differences, each by its std."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 3).requires_grad_(False)
    net = normalised(torch.nn.Sequential(torch.nn.Flatten(), linear), TEXT, (3, 4, 4)).eval()
    x = torch.rand(1, 3, 4, 4)
    outputs = net(x)[0]
    label = int(outputs.argmax())
    std = torch.tensor(STD).repeat_interleave(16)
    others = [k for k in range(3) if k != label]
    sums = [float(((linear.weight[label] - linear.weight[k]) / std).abs().sum()) for k in others]
    radius = min(float(outputs[label] - outputs[k]) / s for k, s in zip(others, sums, strict=True))
    inside, outside = (verify(net, x, share * radius, stages=["dual", "attack"]) for share in (0.999, 1.001))
    assert (inside.summary()["verified"], outside.summary()["falsified"]) == (1, 1)


def test_names_and_errors(place: Path) -> None:
    torch.manual_seed(0)
    assert normalised(small((3, 8, 8)), "cifar10", (3, 8, 8)).normalise.mean.flatten()[2] == pytest.approx(0.4465)
    flat = normalised(two_layer((6,), 3), "0.5/0.25", (6,))
    torch.testing.assert_close(flat.normalise(torch.ones(2, 6)), torch.full((2, 6), 2.0))
    for text, said in (
        ("cifar", "did you mean 'cifar10'"), ("mnst", "MEAN/STD"), ("0.5/0", "std > 0"), ("1,1/1,1", "2 channels"),
        ("0.1/0.2,0.3", "one mean and one std"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            normalised(small((3, 8, 8)), text, (3, 8, 8))
    refused = train("--normalise", "cifar")
    assert refused.exit_code == 2 and "did you mean 'cifar10'" in refused.stderr
    assert train("--normalise", TEXT, "--epochs", "1", "--test", "test.npz").exit_code == 2  # given twice
    assert not Path("net.safetensors").exists()


def test_training_goes_on_from_normalised_weights(place: Path) -> None:
    assert train("--normalise", "0.5/0.25", "--quiet").exit_code == 0
    source = ("--model", "training.architectures:two_layer((3, 8, 8), 10, 24)", "--weights", "net.safetensors")
    given = ("--data", "train.npz", "--layout", "nhwc", "--eps", "0.02", "--epochs", "1", "--method", "standard")
    again = CliRunner().invoke(app, ["train", *source, *given, "--out", "more.safetensors", "--stages", "none"])
    assert again.exit_code == 0, again.output
    with safe_open("more.safetensors", "pt") as file:
        assert file.metadata() == {"normalise": "0.5/0.25"}
    both = CliRunner().invoke(app, ["train", *source, *given, "--out", "x.safetensors", "--normalise", "0.5/0.25"])
    assert both.exit_code == 2 and "normalised by 0.5/0.25 already" in both.stderr
    resumed = train("--normalise", "0.4/0.25", "--resume")
    assert resumed.exit_code == 2 and "another architecture" in resumed.stderr
    with pytest.raises(ModelError, match="do not fit"):
        load_model("training.architectures:two_layer((3, 8, 8), 10, 12)", "net.safetensors")


def test_a_saved_cascade_keeps_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = normalised(two_layer((6,), 3, 4), "0.5/0.25", (6,)).eval()
    NetworkCascade((network,), eps=0.1).save(tmp_path)
    loaded = load_cascade(tmp_path, lambda: two_layer((6,), 3, 4)).networks[0]
    x = torch.rand(4, 6)
    torch.testing.assert_close(loaded(x), network(x))  # type: ignore[operator]
