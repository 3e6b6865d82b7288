"""Examples from several files: joined in order, or refused; and what was understood is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.real_data import require
from typer.testing import CliRunner, Result

from training import History
from verifier.certification import Report
from verifier.commands.app import app
from verifier.data_files import files_of
from verifier.errors import InputError

PARTS = ("part_1of10.npz", "part_2of10.npz", "part_10of10.npz")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The set whole.npz in three parts in a folder; the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("parts").mkdir()
    images, labels = pictures()
    np.savez("whole.npz", images=images, labels=labels)
    for name, chosen in zip(PARTS, (slice(0, 4), slice(4, 5), slice(5, 9)), strict=True):
        np.savez(f"parts/{name}", images=images[chosen], labels=labels[chosen])
    return tmp_path


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than these runs."""
    monkeypatch.setattr(History, "plot", lambda self, path: path.write_text("a picture"))


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Bytes [9, 8, 8, 3], channels last, and labels [9] of three classes."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8), np.arange(9, dtype=np.uint8) % 3


def call(command: str, *data: str, out: str, more: tuple[str, ...] = ()) -> Result:
    given = ["--eps", "0.01", "--out", out, *(word for file in data for word in ("--data", file)), *more]
    return CliRunner().invoke(app, [command, *given])


def trained(*data: str, out: str = "w.safetensors", more: tuple[str, ...] = ()) -> Result:
    fixed = ("--method", "standard", "--arch", "two_layer:4", "--epochs", "2", "--batch", "4", "--validation", "2")
    return call("train", *data, out=out, more=(*fixed, "--stages", "none", *more))


SAID = "9 images 3x8x8, from channels-last uint8{files}, 3 classes"


@pytest.mark.parametrize(
    "sources", [tuple(f"parts/{name}" for name in PARTS), ("parts",), ("parts/part_*.npz",)],
    ids=["one by one", "folder", "pattern"],
)  # fmt: skip
def test_training_on_parts_is_training_on_the_whole(place: Path, sources: tuple[str, ...]) -> None:
    whole, parts = trained("whole.npz", out="whole.safetensors"), trained(*sources)
    assert (whole.exit_code, parts.exit_code) == (0, 0), whole.output + parts.output
    assert Path("whole.safetensors").read_bytes() == Path("w.safetensors").read_bytes()
    assert SAID.format(files="") in whole.stderr and SAID.format(files=" in 3 files") in parts.stderr


def test_certifying_parts_is_certifying_the_whole(place: Path) -> None:
    model = ("--model", "training.architectures:two_layer((3, 8, 8), 3, 4)", "--layout", "nhwc", "--stages", "interval")
    torch.manual_seed(0)
    parts = call(
        "certify", "parts/part_10of10.npz", "whole.npz", out="order.sqlite", more=(*model, "--indices", "4:13")
    )
    assert parts.exit_code == 0, parts.output
    assert SAID.format(files=" in 2 files") in parts.stderr
    assert [row.label for row in Report.open("order.sqlite").rows()] == [int(y) for y in pictures()[1]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: {"images": x.transpose(0, 3, 1, 2), "labels": y}, "[N, 8, 8, 3] in the one, uint8 [N, 3, 8,"),
        (lambda x, y: {"images": x / 255, "labels": y}, "uint8 [N, 8, 8, 3] in the one, float64 [N, 8, 8, 3] in the"),
        (lambda x, y: {"images": x, "labels": y, "exact": y}, "one holds images, labels, the other exact, images"),
        (lambda x, y: {"images": x, "labels": y[:-1]}, "has images [9, 8, 8, 3] but labels [8]"),
        (lambda x, y: {"x": x, "labels": y}, "has no array 'images'"),
    ],
    ids=["layout", "kind", "arrays", "lengths", "keys"],
)  # fmt: skip
def test_parts_of_different_sets_are_refused(place: Path, change: object, said: str) -> None:
    assert callable(change)
    np.savez("other.npz", **change(*pictures()))
    refused = trained("whole.npz", "other.npz")
    assert refused.exit_code == 2 and said in refused.stderr, refused.stderr
    assert not Path("w.safetensors").exists()


def test_numbers_of_one_value_have_an_order_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order a disk lists them in: indices count examples over all files."""
    files = [tmp_path / f"part{number}.npz" for number in ("01", "1", "02")]
    for listed in (files, files[::-1]):
        monkeypatch.setattr(Path, "glob", lambda self, pattern, listed=listed: iter(listed))
        assert files_of(tmp_path) == files


def test_which_files_are_meant(place: Path) -> None:
    in_order = [Path("parts") / name for name in PARTS]
    assert files_of(Path("parts")) == in_order and files_of([Path("parts/*of10.npz")]) == in_order
    assert files_of(place / "parts" / "*_1*.npz") == [place / in_order[0], place / in_order[2]]
    for sources, said in (
        ([Path("whole.npz"), Path("./whole.npz")], "is given twice"),
        ([Path("parts"), in_order[1]], "is given twice"),
        ([Path("none*.npz")], "no file is called like none"),
        ([place / "empty"], "holds no npz files"),
        ([place / "mixed"], "training and test files"),
    ):
        (place / "empty").mkdir(exist_ok=True)
        (place / "mixed").mkdir(exist_ok=True)
        for name in ("set_train.npz", "set_test.npz"):
            (place / "mixed" / name).touch()
        with pytest.raises(InputError, match=said):
            files_of(sources)


def test_integers_are_scaled_and_said(place: Path) -> None:
    images, labels = pictures()
    np.savez("integers.npz", images=images.astype(np.int64), labels=labels)
    bytes_, integers = trained("whole.npz", out="whole.safetensors"), trained("integers.npz")
    assert (bytes_.exit_code, integers.exit_code) == (0, 0), integers.output
    assert "images are int64 0 to 255, and the valid range is [0, 1]: taken as --scale 255" in integers.stderr
    assert "--scale 255" in integers.stdout  # of the command that certifies
    assert Path("whole.safetensors").read_bytes() == Path("w.safetensors").read_bytes()


def test_a_shape_that_would_scramble_is_refused(place: Path) -> None:
    refused = trained("whole.npz", more=("--shape", "3,8,8"))
    assert refused.exit_code == 2 and "would scramble images [8, 8, 3]" in refused.stderr
    assert "--layout nhwc turns the axes" in refused.stderr


def test_a_network_that_takes_channels_first_gets_them(place: Path) -> None:
    more = ("--model", "training.architectures:small((3, 8, 8), 3)", "--arch")
    fixed = ("--method", "standard", "--epochs", "1", "--validation", "2", "--stages", "none")
    found = call("train", "whole.npz", out="w.safetensors", more=(*fixed, *more[:2]))
    assert found.exit_code == 0, found.output
    assert "taken as --layout nhwc" in found.stderr and "--layout nhwc" in found.stdout


def test_cifar_is_read_across_its_files() -> None:
    folder = require("cifar10")
    from verifier.commands.options import FormatOptions, PartOptions

    sources = [folder / "cifar10_train_[45]of5.npz"]
    examples = FormatOptions(layout="nhwc").examples(sources, PartOptions(indices="9998:10002"), True, quiet=True)
    assert examples.images.shape == (4, 3, 32, 32)
    with np.load(folder / "cifar10_train_5of5.npz") as last:
        expected = torch.from_numpy(last["images"][:2]).permute(0, 3, 1, 2).float() / 255
        assert (
            torch.equal(examples.images[2:], expected) and examples.labels[2:].tolist() == last["labels"][:2].tolist()
        )
