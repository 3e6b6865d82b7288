"""The demonstration and the training of its network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from properties import LinfBall
from training import digits as digits_training
from training import robust_loss
from verifier import demo, verify
from verifier.errors import InputError
from verifier.graph.torch_import import import_torch
from verifier.plot import draw_example

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 40 test images: a correct one among them is falsified, at index 3."""
    images, labels = demo.held_out_digits()
    monkeypatch.setattr(demo, "held_out_digits", lambda: (images[:40], labels[:40]))


@pytest.mark.usefixtures("few_images")
def test_demo_prints_the_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    demo.main(["--out", str(out)])
    printed = " ".join(capsys.readouterr().out.split())
    for row in ("clean accuracy", "attacked accuracy", "verified accuracy", "robust error", "undecided", "stage dual"):
        assert row in printed
    assert re.search(r"in all │ 40 │", printed)
    assert re.search(r"proved \(verified accuracy\) │ 35 │ 87.50 %", printed)
    assert "digit 3: a 5" in printed and "counterexample.png" in printed
    assert (out / "counterexample.png").read_bytes().startswith(PNG)


@pytest.mark.usefixtures("few_images")
def test_demo_without_counterexamples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["--out", str(tmp_path), "--eps", "0"])
    assert "no picture" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_shipped_network_is_accurate_on_images_it_has_not_seen() -> None:
    images, labels = demo.held_out_digits()
    assert images.shape == (597, 1, 8, 8) and float(images.min()) == 0 and float(images.max()) == 1
    with torch.no_grad():
        accuracy = (demo.network()(images).argmax(1) == labels).float().mean()
    assert accuracy > 0.9
    assert demo.WEIGHTS.stat().st_size < 100_000


def test_a_picture_needs_a_counterexample(tmp_path: Path) -> None:
    model, (images, labels) = demo.network(), demo.held_out_digits()
    result = verify(model, images[:1], 0.0, label=labels[:1])
    with pytest.raises(InputError, match="no counterexample"):
        draw_example(model, images[0], result, tmp_path / "a.png")


def robust_loss_of(model: torch.nn.Module, eps: float) -> float:
    images, labels = demo.digits()
    with torch.no_grad():
        graph = import_torch(model.eval(), images[:1])
        return float(robust_loss(graph, LinfBall(images[:200], eps, (0, 1)), labels[:200])[0])


@pytest.mark.slow
def test_two_epochs_of_training_lower_the_robust_loss() -> None:
    torch.manual_seed(0)
    before = robust_loss_of(demo.architecture(), 0.02)
    after = robust_loss_of(digits_training.trained(epochs=2), 0.02)
    assert after < before - 0.05


def test_training_is_repeatable_and_writes_what_the_demo_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = demo.digits()
    monkeypatch.setattr(digits_training, "digits", lambda: (images[:200], labels[:200]))
    path = tmp_path / "net.safetensors"
    digits_training.main(["--out", str(path), "--epochs", "1"])
    assert "epoch 1/1" in capsys.readouterr().err
    monkeypatch.setattr(demo, "WEIGHTS", path)
    first = demo.network()(images[:5])
    again = digits_training.trained(epochs=1)(images[:5])
    assert not first.isnan().any() and torch.allclose(first, again, atol=1e-5)


def test_robust_loss_bounds_the_loss_of_every_member() -> None:
    model = demo.network()
    images, labels = (t[:20] for t in demo.held_out_digits())
    ball = LinfBall(images, 0.03, (0, 1))
    loss, margins = robust_loss(import_torch(model, images[:1]), ball, labels)
    assert margins.shape == (20, 9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        inside = ball.sample(generator).float()
        assert torch.nn.functional.cross_entropy(model(inside), labels) <= loss + 1e-5
