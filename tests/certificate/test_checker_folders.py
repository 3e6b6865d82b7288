"""Folders with certificates of several networks: each is checked against its own, or it is said what is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.environment import importing
from helpers.models import small_mlp
from typer.testing import CliRunner

from verifier import certify
from verifier.checker.__main__ import main
from verifier.checker.audit import NETWORK
from verifier.commands.app import app


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, and certificates of two networks in folders below."""
    import torch

    folder = tmp_path_factory.mktemp("several")
    for name, seed in (("a", 0), ("b", 1)):
        model = small_mlp(seed=seed)
        x = torch.randn(3, next(model.parameters()).shape[1], generator=torch.Generator().manual_seed(0))
        report = certify(
            model, x, model(x).argmax(1), 1e-4, store=folder / f"{name}.sqlite", certificates=folder / name,
            progress=False,
        )  # fmt: skip
        assert report.summary()["verified_accuracy"] == 1
    return folder


@pytest.fixture
def place(two: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two, tmp_path / "run")


def check(*arguments: object) -> tuple[int, str]:
    """The exit code of `verifier check`, and what it prints."""
    result = CliRunner().invoke(app, ["check", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_folder_of_a_run_is_checked_network_by_network(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(place), "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert (
        out.count("3 of 3 certificates are valid") == 2 and f"in {place / 'a'}:" in out and f"in {place / 'b'}:" in out
    )
    assert check(place, "--jobs", 1)[0] == 0


def test_certificates_find_their_network_wherever_it_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = place / "all"
    for name in "ab":
        (flat / name).mkdir(parents=True)
        (place / name / NETWORK).rename(flat / name / NETWORK)
        for one in (place / name).glob("*.cert"):
            one.rename(flat / f"{name}{one.name}")
    assert main([str(flat), "--jobs", "1"]) == 0 and check(flat, "--jobs", 1)[0] == 0
    assert capsys.readouterr().out.count("3 of 3 certificates are valid") == 2
    (flat / "b" / NETWORK).rename(place / "b.rampart")
    assert main([str(flat), "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert out.count("INVALID  b") == 3 and out.count("valid    a") == 3
    assert (
        main([str(flat), "--jobs", "1", "--network", str(place / "b.rampart"), "--network", str(flat / "a" / NETWORK)])
        == 0
    )


def test_a_network_that_is_nowhere_is_one_message(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "a" / NETWORK).unlink()
    assert main([str(place / "a"), "--jobs", "1"]) == 2
    said = capsys.readouterr().err
    assert f"error: there is no {place / 'a' / NETWORK}" in said and "name it by --network" in said
    code, said = check(place / "a")
    assert code == 2 and "give the network by --model" in said and "--network" not in said
    assert main([str(place), "--jobs", "1"]) == 1  # against the one that is there
    assert capsys.readouterr().out.count("INVALID") == 3
    assert main([str(place / "a.sqlite")]) == 2
    assert "is a store of `certify`, and no certificate: name the folder" in capsys.readouterr().err
    (place / "text.cert").write_text("nothing")
    assert main([str(place / "text.cert")]) == 2 and "cannot be read as a certificate" in capsys.readouterr().err


def test_a_reader_that_has_gone_and_ctrl_c_leave_no_traceback(place: Path) -> None:
    command = [sys.executable, "-m", "verifier.checker", str(place), "--jobs", "1"]
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": importing(), "text": True}
    gone = subprocess.Popen(command, **told)
    assert gone.stdout is not None and gone.stderr is not None
    gone.stdout.close()  # as `| head` does, at some time
    assert gone.stderr.read() == "" and gone.wait(60) == 1
    gone.stderr.close()
