"""Commands that ask one thing: verify, attack, bounds and radius; what they print, write and refuse."""

from __future__ import annotations

import csv
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_image_mlp
from typer.testing import CliRunner, Result

import verifier
from properties import LinfBall
from verifier.commands.app import app

SHAPE = (1, 3, 4)
NET = ("--model", "askednet:net", "--clip", "-9,9")
STAGES = ("--stages", "clean,dual,attack,branch")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of the network, and its data, of which the second is wrong as it is."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "askednet.py").write_text(
        "from helpers.models import small_image_mlp\n\n\ndef net():\n    return small_image_mlp((1, 3, 4))\n"
    )
    images, _ = labelled(small_image_mlp(SHAPE), SHAPE, 6)
    labels = small_image_mlp(SHAPE)(images).argmax(1)
    labels[1] = (labels[1] + 1) % 4
    np.savez(folder / "test.npz", images=images.numpy(), labels=labels.numpy())
    np.save(folder / "one.npy", images[0].numpy())
    np.savez(folder / "one.npz", x=images[0].numpy())
    return folder


@pytest.fixture
def place(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(data), *sys.path])
    for file in data.glob("*.np?"):
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def said(result: Result) -> dict[str, str]:
    """The lines "name: value" of an answer."""
    assert result.exit_code == 0, result.stderr
    return dict(line.split(": ", 1) for line in result.stdout.splitlines())


def test_verify_prints_the_verdict_and_writes_its_evidence(place: Path) -> None:
    model = small_image_mlp(SHAPE)
    proved = call("verify", *NET, *STAGES, "--data", "test.npz", "--eps", "0.001", "--certificate", "a.cert")
    assert proved.stdout.startswith("verdict: verified\n") and said(proved)["trust"] == "CHECKED"
    checked = call("check", "a.cert", "--model", "askednet:net")
    assert checked.exit_code == 0 and "valid" in checked.stdout
    broken = call("verify", *NET, *STAGES, "--input", "one.npy", "--eps", "3/1", "--out", "point.npz")
    lines = said(broken)
    assert lines["verdict"] == "falsified" and lines["decided by"] == "attack" and broken.stderr == ""
    with np.load("point.npz") as point:
        x, z, label = (torch.from_numpy(point[name]) for name in ("input", "counterexample", "label"))
    assert LinfBall(x[None], 3.0, (-9, 9)).contains(z[None]).all() and model(z[None]).argmax(1) != label
    assert "of 12 entries changed, by " in lines["counterexample"]
    clean = call("verify", *NET, "--data", "test.npz", "--index", "1", "--eps", "0", "--out", "same.npy")
    assert said(clean)["decided by"] == "clean" and np.load("same.npy").shape == SHAPE
    given = call("verify", *NET, "--input", "one.npz", "--label", said(clean)["label"], "--eps", "0")
    assert said(given)["label"] == said(clean)["label"]
    loose = ("--stages", "interval", "--input", "one.npz", "--eps", "0.5", "--certificate", "b.cert")
    open_ = call("verify", *NET, *loose)
    assert said(open_)["reason"] == "bounds too loose" and "no proof, so b.cert is not written" in open_.stderr


def test_verify_asks_other_questions_and_reads_pictures(place: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    image.fromarray(grey).save("grey.png")
    one = call("verify", *NET, "--input", "grey.png", "--eps", "1/255", "--question", "near:100")
    assert said(one)["verdict"] == "verified" and "divided by 255" in one.stderr and "label" not in said(one)
    image.fromarray(np.stack([grey] * 4, 2), mode="RGBA").save("alpha.png")
    (place / "torn.png").write_bytes((place / "grey.png").read_bytes()[:30])
    for name, message in (("alpha", "of kind RGBA: give it in 8-bit grey or RGB"), ("torn", "not a readable picture")):
        assert message in call("verify", *NET, "--input", f"{name}.png", "--eps", "0").stderr
    asks = call("verify", *NET, "--input", "one.npy", "--eps", "0", "--question", "top_k:2")
    assert "about a label: give --label" in asks.stderr and asks.exit_code == 2


def test_attack_counts_and_writes_what_other_commands_read(place: Path) -> None:
    given = ("--data", "test.npz", "--indices", "0:5", "--eps", "0.3")
    found = call("attack", *NET, *given, "--steps", "5", "--restarts", "2", "--out", "worst.npz")
    lines = said(found)
    assert lines["attack"] == "pgd" and lines["correct (clean accuracy)"] == "4 of 5, 80.00 %"
    with np.load("worst.npz") as file, np.load("test.npz") as clean:
        points, success, margins = (torch.from_numpy(file[name]) for name in ("images", "success", "margins"))
        x = torch.from_numpy(clean["images"][:5])
        assert file["index"].tolist() == list(range(5)) and (file["labels"] == clean["labels"][:5]).all()
    assert LinfBall(x, 0.3, (-9, 9)).contains(points).all() and torch.equal(success, margins < 0) and success[1]
    kept = 5 - int(success.sum())
    assert lines["not broken (attacked accuracy)"] == f"{kept} of 5, {20 * kept:.2f} %"
    wrong = int(success.nonzero()[0])
    again = call("verify", *NET, "--data", "worst.npz", "--index", str(wrong), "--eps", "0", "--stages", "clean")
    assert said(again)["verdict"] == "falsified"


def test_attack_and_bounds_ask_other_questions_too(place: Path) -> None:
    model = small_image_mlp(SHAPE)
    with np.load("test.npz") as file:
        x = torch.from_numpy(file["images"])
    np.savez("bare.npz", images=x.numpy())
    y = model(x).detach()
    low, high = float(y.min()) - 0.05, float(y.amax(1).median()) + 0.01
    asks = ("--question", f"output_range:{low!r},{high!r}", "--eps", "0.3")
    lines = said(call("attack", *NET, "--data", "bare.npz", *asks, "--out", "worst.npz"))
    inside = int((y <= high).all(1).sum())
    assert lines["question"].startswith("output_range:") and inside < 6
    assert lines["holds at the inputs themselves"] == f"{inside} of 6, {100 * inside / 6:.2f} %"
    with np.load("worst.npz") as file:
        assert "labels" not in file and file["success"].sum() >= 6 - inside
        assert lines["not broken"].startswith(f"{6 - int(file['success'].sum())} of 6")
        worst = model(torch.from_numpy(file["images"])).detach()
        broken = ((worst > high) | (worst < low)).any(1)
        assert torch.equal(broken, torch.from_numpy(file["success"]))

    def rows(*asked: str) -> list[tuple[float, float]]:
        found = call("bounds", *NET, "--input", "one.npy", *asked, "--method", "ibp")
        assert found.exit_code == 0, found.stderr
        lines = [line.split("│") for line in found.stdout.splitlines() if line.startswith("│")]
        return [(float(line[3]), float(line[4])) for line in lines]

    outputs, found = rows("--eps", "0.3"), rows(*asks)
    expected = [(b[0] - low, b[1] - low) for b in outputs] + [(high - b[1], high - b[0]) for b in outputs]
    assert len(found) == 8 and "row" in call("bounds", *NET, "--input", "one.npy", *asks).stdout
    for one in expected:
        assert any(np.allclose(one, other, atol=2e-4) for other in found), (one, found)


def test_bounds_with_an_offset_are_rounded_outward(place: Path) -> None:
    asks = ("--question", "output_range:0.1,0.7", "--eps", "0.1", "--method", "ibp")
    call("bounds", *NET, "--input", "one.npy", *asks, "--out", "rows.npz")
    x, unit = torch.from_numpy(np.load("one.npy"))[None], torch.eye(4)
    bare = verifier.bounds(small_image_mlp(SHAPE), x, 0.1, "ibp", C=torch.cat([unit, -unit]), clip=(-9, 9))
    offsets = [-Fraction(0.1)] * 4 + [Fraction(0.7)] * 4
    lower, upper = (
        sorted(Fraction(v) + d for v, d in zip(t[0].tolist(), offsets, strict=True)) for t in (bare.lower, bare.upper)
    )
    with np.load("rows.npz") as file:
        low, high = (sorted(map(Fraction, file[name][0].tolist())) for name in sorted(file))
    assert all(0 <= exact - found < 1e-15 for found, exact in zip(low, lower, strict=True))
    assert all(0 <= found - exact < 1e-15 for found, exact in zip(high, upper, strict=True))


def test_bounds_of_outputs_margins_and_neurons(place: Path) -> None:
    model = small_image_mlp(SHAPE)
    two = ("--data", "test.npz", "--first", "2", "--eps", "0.1")
    outputs = call("bounds", *NET, *two, "--out", "bounds.npz", "--linear")
    assert outputs.exit_code == 0 and "trust CHECKED" in outputs.stdout, outputs.stderr
    with np.load("test.npz") as file:
        x, labels = torch.from_numpy(file["images"][:2]), file["labels"][:2].tolist()
    expected = verifier.bounds(model, x, 0.1, "crown", clip=(-9, 9))
    with np.load("bounds.npz") as file:
        np.testing.assert_allclose(file[f"{expected.output}.lower"], expected.lower, atol=1e-5)
        assert file[f"{expected.output}.A_upper"].shape == (2, 4, *SHAPE)
    margins = call("bounds", *NET, "--data", "test.npz", "--first", "1", "--eps", "0.1", "--margins", "--method", "ibp")
    lowest = [float(row.split("│")[3]) for row in margins.stdout.splitlines() if row.startswith("│")]
    proven = verifier.verify(model, x[:1], 0.1, label=labels[:1], clip=(-9, 9), stages=["interval"]).margins[0]
    assert len(lowest) == 4
    del lowest[labels[0]]
    np.testing.assert_allclose(lowest, proven[proven < torch.inf], rtol=0.02)
    neurons = call("bounds", *NET, "--input", "one.npy", "--eps", "0.1", "--of", "all")
    assert neurons.exit_code == 0 and "entries" in neurons.stdout


def test_radius_prints_both_sides(place: Path) -> None:
    given = ("--data", "test.npz", "--first", "3", "--tolerance", "0.1", *STAGES, "--csv", "radii.csv")
    found = call("radius", *NET, *given)
    assert found.exit_code == 0, found.stderr
    with open("radii.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["0", "1", "2"] and float(rows[1]["broken"]) == 0
    for row in (rows[0], rows[2]):
        proved, broken = float(row["proved"]), float(row["broken"])
        assert 0.9 * broken <= proved < broken and row["trust"] == "CHECKED"
        shown = next(line.split("│") for line in found.stdout.splitlines() if line.startswith(f"│     {row['index']} "))
        assert float(shown[3]) <= proved and float(shown[4]) >= broken
    one = call("radius", *NET, "--input", "one.npy", "--tolerance", "0.1", *STAGES)
    assert rows[0]["decided_by"] in one.stdout


REFUSED = {
    "no input": (("verify", "--eps", "0.1"), "give the inputs as --data FILE.npz, or one as --input"),
    "two inputs": (("verify", "--eps", "0.1", "--data", "test.npz", "--input", "one.npy"), "give the inputs as --data"),
    "a label beside data": (("verify", "--eps", "0.1", "--data", "test.npz", "--label", "1"), "--label goes with"),
    "an index of one": (("verify", "--eps", "0.1", "--input", "one.npy", "--index", "1"), "--index chooses an example"),
    "an index below": (("verify", "--eps", "0.1", "--data", "test.npz", "--index", "-1"), "--index must be 0 or more"),
    "an index beyond": (("verify", "--eps", "0.1", "--data", "test.npz", "--index", "6"), "--index must be 0 to 5"),
    "no file": (("verify", "--eps", "0.1", "--input", "none.npy"), "there is no input file none.npy"),
    "a folder": (("verify", "--eps", "0.1", "--input", "."), ". is a directory: give the input file itself"),
    "many examples": (("verify", "--eps", "0.1", "--input", "test.npz"), "give it as --data, and --index for one"),
    "no data": (("radius", "--data", "none.npz"), "there is no data file none.npz"),
    "another kind": (("verify", "--eps", "0.1", "--input", "askednet.txt"), "neither a .npy or .npz file"),
    "no array": (("verify", "--eps", "0.1", "--input", "bad.npy"), "bad.npy is not a readable array"),
    "several arrays": (("verify", "--eps", "0.1", "--input", "two.npz"), "two.npz has the arrays a, b"),
    "a picture out": (("verify", "--eps", "0.1", "--input", "one.npy", "--out", "a.png"), "--out must be a .npy"),
    "a label that is none": (("verify", "--eps", "0.1", "--input", "one.npy", "--label", "7"), "label 7"),
    "no time": (("verify", "--eps", "0.1", "--input", "one.npy", "--timeout", "0"), "--timeout must be"),
    "part of one": (("bounds", "--eps", "0.1", "--input", "one.npy", "--first", "1"), "--input is one input"),
    "no such method": (("bounds", "--eps", "0.1", "--input", "one.npy", "--method", "magic"), "magic"),
    "no such node": (("bounds", "--eps", "0.1", "--input", "one.npy", "--of", "nowhere"), "nowhere"),
    "lines to nowhere": (("bounds", "--eps", "0.1", "--input", "one.npy", "--linear"), "--linear writes"),
    "margins of nodes": (("bounds", "--eps", "0.1", "--input", "one.npy", "--margins", "--of", "all"), "leave --of"),
    "margins of no class": (
        ("bounds", "--eps", "0.1", "--input", "one.npy", "--margins", "--label", "7"), "label 7 is out of range",
    ),
    "a question of nodes": (
        ("bounds", "--eps", "0.1", "--input", "one.npy", "--of", "all", "--question", "near:1"), "--of out",
    ),
    "two questions": (
        ("attack", "--eps", "0.1", "--data", "test.npz", "--question", "near:1", "--threshold", "1"), "not both",
    ),
    "a question of no label": (
        ("bounds", "--eps", "0.1", "--input", "one.npy", "--question", "top_k:2"), "is about a label: give --label",
    ),
    "no such attack": (("attack", "--eps", "0.1", "--data", "test.npz", "--method", "magic"), "magic"),
    "an option it has not": (
        ("attack", "--eps", "0.1", "--data", "test.npz", "--method", "fgsm", "--steps", "3"), "steps",
    ),
    "no steps": (("attack", "--eps", "0.1", "--data", "test.npz", "--steps", "0"), "--steps must be at least 1"),
    "no batch": (("attack", "--eps", "0.1", "--data", "test.npz", "--batch-size", "0"), "--batch-size must be"),
    "another file": (("attack", "--eps", "0.1", "--data", "test.npz", "--out", "a.png"), "--out must be a .npz file"),
    "no tolerance": (("radius", "--input", "one.npy", "--tolerance", "0"), "tolerance must be in (0, 1)"),
    "no such threat": (("radius", "--input", "one.npy", "--threat", "l3"), "threat model"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_one_clear_message(place: Path, name: str) -> None:
    (place / "askednet.txt").write_text("")
    (place / "bad.npy").write_bytes(b"no array")
    np.savez("two.npz", a=np.zeros(2), b=np.zeros(2))
    (command, *rest), message = REFUSED[name]
    result = call(command, *NET, *rest)
    assert result.exit_code == 2 and result.stdout == "" and message in result.stderr, result.output
    assert "Traceback" not in result.stderr
