"""Certificates of a run on disk, and `verifier check`: what it accepts, what it refuses, and with what exit code."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import small_image_mlp
from helpers.onnx_files import write_mlp
from torch import nn
from typer.testing import CliRunner, Result

from properties import Perturbation
from verifier import InputError, certify
from verifier.certificate.files import write_document
from verifier.certification.certificates import missing
from verifier.certification.dataset import dataset
from verifier.certification.expected import Expected
from verifier.checker.audit import Audited, audit, certificates_in
from verifier.checker.document import Document, read_network
from verifier.commands.app import app

ROOT = Path(__file__).resolve().parents[2]
SHAPE, EPS = (1, 3, 4), 1e-4
#: the files that hold the networks read flat inputs: their values are the same
CHECK = ("check", "--shape", "12", "--jobs", "1")


def labelled(model: nn.Module, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs with the network's own answers as their labels."""
    images = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(5))
    return images, model(images).argmax(1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an exported model and the certificates of a run on it."""
    place = tmp_path_factory.mktemp("made")
    model = small_image_mlp(SHAPE)
    images, labels = labelled(model, 6)
    np.savez(place / "data.npz", images=images.numpy(), labels=labels.numpy())
    for seed, name in enumerate(("net", "other")):
        layers = [layer for layer in small_image_mlp(SHAPE, seed=seed) if isinstance(layer, nn.Linear)]
        numbers = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]
        write_mlp(place / f"{name}.onnx", numbers)
    report = certify(model, images, labels, EPS, certificates=place / "certs", progress=False)
    assert report.summary()["trust"] == {"CHECKED": 6}
    return place


def changed(made: Path, tmp_path: Path) -> Path:
    """A copy of the certificates to spoil."""
    shutil.copytree(made / "certs", tmp_path / "certs")
    return tmp_path / "certs"


def test_every_verified_has_a_certificate_that_the_checker_accepts(made: Path) -> None:
    """Certificates made from a torch module are checked against its ONNX file."""
    assert [p.name for p in certificates_in([made / "certs"])] == [f"{i:06d}.cert" for i in range(6)]
    result = run(*CHECK, made / "certs", "--model", made / "net.onnx", "--data", made / "data.npz", "--eps", EPS)
    assert result.exit_code == 0, result.output
    assert "6 of 6 certificates are valid" in result.output and "label" in result.output
    assert not missing(made / "certs")


def test_the_model_need_not_be_asked_where_the_networks_file_is_trusted(made: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    result = run("check", made / "certs", "--quiet", "--jobs", 1, "--csv", table)
    assert result.exit_code == 0 and "valid    " not in result.output and "--model" in result.output
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and all(float(row["lower"]) > 0 and int(row["bytes"]) < 4000 for row in rows)


def test_numpy_alone_checks_them(made: Path) -> None:
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'scipy', 'highspy', 'onnx', 'typer')));"
        "runpy.run_module('verifier.checker', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(made / "certs"), "--jobs", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "6 of 6 certificates are valid" in done.stdout


def test_the_arithmetic_is_the_one_asked_for(made: Path) -> None:
    """A proof about real numbers says nothing of float32 hardware, nor the other way round."""
    assert run("check", made / "certs", "--jobs", 1, "--semantics", "real").exit_code == 0
    result = run("check", made / "certs", "--jobs", 1, "--semantics", "float32")
    assert result.exit_code == 1 and "it is about real arithmetic, not float32" in result.output
    result = run("check", made / "certs", "--jobs", 1, "--semantics", "float16")
    assert result.exit_code == 2 and "real or float32" in result.output


def test_another_model_makes_them_invalid(made: Path) -> None:
    result = run(*CHECK, made / "certs", "--model", made / "other.onnx")
    assert result.exit_code == 1
    assert "0 of 6 certificates are valid" in result.output and "another network" in result.output


def test_certificates_of_other_examples_are_found_out(made: Path, tmp_path: Path) -> None:
    folder = changed(made, tmp_path)
    with np.load(made / "data.npz") as data:
        images, labels = data["images"].copy(), data["labels"].copy()

    def judged(paths: list[Path], eps: float = EPS) -> list[Audited]:
        expected = Expected(dataset(images, labels), Perturbation(eps))
        return [expected.judged(one) for one in audit(paths, network)]

    network = read_network(folder / "network.rampart")
    first = Document.read(folder / "000000.cert")
    first.head["about"]["index"] = 1  # nothing rests on what a certificate says of itself
    write_document(first, folder / "000001.cert")
    verdicts = judged(certificates_in([folder]))
    assert [one.valid for one in verdicts] == [True, False, True, True, True, True]
    assert "label" in verdicts[1].reason or "example 1" in verdicts[1].reason
    shutil.copy(folder / "000002.cert", folder / "000009.cert")
    assert "already" in judged(certificates_in([folder]))[-1].reason
    assert not judged([folder / "000003.cert"], 1.01 * EPS)[0].valid
    assert judged([folder / "000003.cert"], 0.5 * EPS)[0].valid  # a proof of the larger set proves the smaller one
    within = Expected(dataset(images, labels), Perturbation(0.5 * EPS, clip=(0, 1)))
    assert "other limits" in within.judged(next(audit([folder / "000003.cert"], network))).reason
    images[2, 0, 0, 0] += 1e-3
    assert not judged([folder / "000002.cert"])[0].valid


def test_a_damaged_file_is_invalid_and_the_others_are_checked_all_the_same(made: Path, tmp_path: Path) -> None:
    folder = changed(made, tmp_path)
    content = bytearray((folder / "000002.cert").read_bytes())
    content[len(content) // 2] ^= 16
    (folder / "000002.cert").write_bytes(bytes(content))
    (folder / "000004.cert").write_bytes(b"")
    result = run("check", folder, "--jobs", 2)
    assert result.exit_code == 1
    assert "4 of 6 certificates are valid" in result.output
    assert result.output.count("INVALID") == 2 and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("check", "nowhere"), "there is no file or folder nowhere"),
        (("check", "."), "holds no certificates"),
        (("check", "{certs}", "--jobs", 0), "--jobs must be at least 1"),
        (("check", "{certs}", "--eps", 0.1), "--data and --eps go together"),
        (("check", "{certs}", "--model", "net.zip"), "neither a .pt2 or .onnx file"),
        (("check", "{alone}"), "give the network by --model"),
    ],
)
def test_bad_usage_is_one_clear_message(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(made / "certs" / "000000.cert", tmp_path / "one.crt")
    places = {"{certs}": made / "certs", "{alone}": tmp_path / "one.crt"}
    result = run(*(places.get(str(a), a) for a in arguments))
    assert result.exit_code == 2 and says in result.output, result.output


def test_a_folder_of_another_networks_certificates_is_not_written_to(made: Path) -> None:
    model = small_image_mlp(SHAPE, seed=1)
    images, labels = labelled(model, 1)
    with pytest.raises(InputError, match="another network"):
        certify(model, images, labels, EPS, certificates=made / "certs", progress=False)


def test_a_later_run_leaves_no_certificate_of_what_it_does_not_prove(made: Path, tmp_path: Path) -> None:
    folder = changed(made, tmp_path)
    model = small_image_mlp(SHAPE)
    images, labels = labelled(model, 6)
    report = certify(model, images, labels, 10.0, certificates=folder, progress=False)
    assert report.summary()["verified_accuracy"] == 0
    assert not list(folder.glob("*.cert"))


def test_a_proof_without_evidence_says_why_it_has_no_certificate(tmp_path: Path) -> None:
    """A probability is none; a solver's word is none either, and a tree of our own takes its place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    images, labels = labelled(model, 2)
    for stage, trust in (("dual-probabilistic", "PROBABILISTIC"), ("milp", "CHECKED")):
        folder = tmp_path / stage
        report = certify(model, images, labels, 1e-4, stages=[stage], certificates=folder, progress=False)
        assert report.summary()["trust"] == {trust: 2}
        why = missing(folder)
        assert sorted(why) == ([] if trust == "CHECKED" else [0, 1])
        assert all("probability" in reason for reason in why.values())
