"""Cascades of networks on the command line: how they are given, what their rows say, and what is refused."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.onnx_files import write_mlp
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from verifier import NetworkCascade, Report, certify
from verifier.commands.app import app

SOURCE = """
import torch
from torch import nn


def threshold(at=0.0, weight=1.0):  # two classes: 1 where weight * (z - at) > 0
    layer = nn.Linear(1, 2)
    layer.weight.data = torch.tensor([[0.0], [weight]])
    layer.bias.data = torch.tensor([0.0, -weight * at])
    return layer
"""
A, B = "twonets:threshold(-0.5)", "twonets:threshold(5.0)"
GIVEN = ("--data", "points.npz", "--eps", "1")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the networks, their weights, and the three inputs of docs/guide/cascades.md."""
    (tmp_path / "twonets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "twonets", raising=False)
    np.savez("points.npz", images=np.array([[0.0], [0.6], [2.0]], np.float32), labels=[0, 1, 1])
    from twonets import threshold

    for name, at in (("a", -0.5), ("b", 5.0)):
        save_file(threshold(at).state_dict(), f"{name}.safetensors")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def run(*arguments: str, out: str) -> Report:
    result = call("certify", *GIVEN, "--quiet", "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return Report.open(out)


def test_each_form_is_the_same_cascade_and_its_rows_say_which_network_decided(place: Path) -> None:
    from twonets import threshold

    networks = (threshold(-0.5).eval(), threshold(5.0).eval())
    write_mlp(place / "b.onnx", [tuple(p.detach().numpy() for p in networks[1].parameters())])
    NetworkCascade(networks, 1.0).save("nets")
    one = ("--model", "twonets:threshold")
    forms = {
        "models": ("--model", A, "--model", B),
        "weights": (*one, "--weights", "a.safetensors", "--weights", "b.safetensors"),
        "mixed": (*one, "--weights", "a.safetensors", "--model", "b.onnx"),
        "folder": (*one, "--weights", "nets"),
    }
    with np.load("points.npz") as file:
        x, y = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    for rule, answers in (("first", [1, 0, 0]), ("agreed", [None, 0, 0])):
        expected = certify(NetworkCascade(networks, 1.0, rule=rule), x, y, 1.0, progress=False)
        for name, form in forms.items():
            report = run(*form, "--rule", rule, out=f"{name}-{rule}.sqlite")
            assert [e.network for e in report.rows()] == answers
            rows = [[dataclasses.replace(e, seconds=0, spent=()) for e in r.rows()] for r in (report, expected)]
            assert rows[0] == rows[1]
            if name != "mixed":  # whose graph has the operators of ONNX
                assert report.meta["model"] == expected.meta["model"]
    shown = call("show", "models-agreed.sqlite").stdout
    for text in ("networks 2, rule agreed", "decided by network 0", "no answer (the cascade abstains)"):
        assert text in shown
    page = pytest.importorskip("jinja2") and call("report", "models-first.sqlite", "--out", "page.html")
    assert page.exit_code == 0, page.output
    told = " ".join((place / "page.html").read_text().split())
    assert "2 networks, certified by interval, dual, rule first" in told and "may answer by another one" in told


def test_a_run_of_a_cascade_goes_on_and_another_cascade_is_another_run(place: Path) -> None:
    two = ("--model", A, "--model", B)
    first = run(*two, "--first", "1", out="run.sqlite")
    assert len(first) == 1
    again = run(*two, "--resume", "--jobs", "2", out="run.sqlite")
    assert len(again) == 3 and again[0].session == 0 and again[2].session == 1
    for more, told in (
        (("--rule", "first"), "rule: agreed -> first"),
        (("--retry", "unknown", "--stages", "interval"), "certified_by: ['interval', 'dual'] -> ['interval']"),
        (("--model", A), "networks: 2 -> 3"),
    ):
        other = call("certify", *GIVEN, "--quiet", "--resume", "--out", "run.sqlite", *two, *more)
        assert other.exit_code == 2 and told in other.stderr, other.output


def test_one_input_has_its_guarantee(place: Path) -> None:
    two = ("--model", A, "--model", B, *GIVEN)
    first = call("verify", *two, "--rule", "first").stdout
    assert "decided by: network 1: interval" in first and "guarantee: the network that answers here gives" in first
    agreed = call("verify", *two, "--index", "1").stdout
    assert "guarantee: no input of the set gets another label with a certificate" in agreed
    assert "prediction: none, the cascade abstains" in call("verify", *two).stdout


REFUSED = {
    "a rule of one": (("--model", A, "--rule", "first"), "--rule is how a cascade answers"),
    "no such rule": (("--model", A, "--model", B, "--rule", "frist"), "did you mean 'first'?"),
    "weights of some": (
        ("--model", A, "--model", B, "--weights", "a.safetensors"), "1 --weights are given for 2 factories",
    ),
    "several radii": (("--model", A, "--model", B, "--eps", "1,2"), "a cascade answers by certificates at one radius"),
    "a question": (("--model", A, "--model", B, "--question", "near:1"), "a cascade's outputs are answers"),
    "certificates": (("--model", A, "--model", B, "--certificates", "certs"), "certificates are about one network"),
    "a bare folder": (("--model", A, "--weights", "."), "without cascade.json"),
    "a folder beside others": (("--model", A, "--model", B, "--weights", "nets"), "holds a whole cascade"),
    "another factory": (("--model", "twonets:threshold(1,2,3)", "--weights", "nets"), "threshold"),
    "no factory": (("--model", "b.onnx", "--weights", "nets"), "b.onnx holds its own weights: --weights of a cascade"),
    "another stage": (("--model", A, "--model", B, "--stages", "magic"), "magic"),
    "not safe": (("--model", A, "--model", "b.onnx", "--safe"), "--safe refuses"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_a_cascade_is_refused(place: Path, name: str) -> None:
    from twonets import threshold

    NetworkCascade((threshold(-0.5).eval(),), 1.0).save("nets")
    options, message = REFUSED[name]
    given = GIVEN[:2] if "--eps" in options else GIVEN
    result = call("certify", *given, "--out", "run.sqlite", *options)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert not (place / "run.sqlite").exists()


def test_a_saved_cascade_that_is_asked_about_other_sets_says_so(place: Path) -> None:
    from twonets import threshold

    NetworkCascade((threshold(-0.5).eval(),), 0.5).save("nets")
    one = ("--model", "twonets:threshold", "--weights", "nets")
    result = call("certify", *GIVEN, "--quiet", "--out", "run.sqlite", *one)
    assert "nets was trained for linf 0.5; here it answers by certificates on linf 1" in result.stderr
    assert call("certify", "--data", "points.npz", "--eps", "0.5", "--quiet", "--out", "b.sqlite", *one).stderr == ""
