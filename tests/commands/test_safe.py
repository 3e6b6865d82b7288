"""--safe: what is loaded cannot run code of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from helpers.environment import importing
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from training.architectures import toy
from verifier.commands.app import app
from verifier.errors import InputError
from verifier.loading import check_safe

ROOT = Path(__file__).resolve().parents[2]
EVIL = """
from pathlib import Path
Path("evil").touch()
def make():
    from torch import nn
    return nn.Linear(2, 2)
"""


def with_a_model() -> list[str]:
    """The commands that take --model."""
    group: Any = typer.main.get_command(app)
    commands = {name: group.get_command(None, name) for name in group.list_commands(None)}
    return [name for name, one in commands.items() if any("--model" in p.opts for p in one.params)]


def test_every_command_that_takes_a_model_has_it() -> None:
    group: Any = typer.main.get_command(app)
    names = with_a_model()
    assert {"certify", "explain", "crosscheck", "check", "train"} <= set(names)
    for name in names:
        assert any("--safe" in p.opts for p in group.get_command(None, name).params), name


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of somebody else's, which leave a file behind when they are run."""
    (tmp_path / "theirs.py").write_text(EVIL)
    program = torch.export.export(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "theirs.pt2")
    np.savez(tmp_path / "data.npz", images=np.zeros((2, 2), np.float32), labels=np.zeros(2, np.int64))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("source", ["theirs.pt2", "theirs:make", "verifier.loading:load_model('theirs.pt2')"])
def test_what_may_run_code_is_refused_before_it_is_read(place: Path, source: str) -> None:
    data = ["--data", "data.npz"]
    for command in (["certify", *data, "--eps", "0.1", "--out", "run.sqlite"], ["crosscheck", *data, "--eps", "0.1"]):
        result = CliRunner().invoke(app, [*command, "--model", source, "--safe"])
        assert result.exit_code == 2 and "--safe refuses" in result.stderr, result.output
    # a network to compare with, and one to train, are no exception
    against = ["--model", "training.architectures:toy", "--against", source, "--distance", "1", "--safe"]
    for command in (
        ["certify", *data, "--eps", "0.1", "--out", "run.sqlite", *against],
        [
            "train",
            "--method",
            "ibp",
            "--data",
            "data.npz",
            "--eps",
            "0.1",
            "--out",
            "out.safetensors",
            "--model",
            source,
            "--safe",
        ],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2 and "--safe refuses" in result.stderr, result.output
    assert not (place / "evil").exists() and "theirs" not in sys.modules


def test_own_architectures_with_weights_are_taken(place: Path) -> None:
    save_file(toy().state_dict(), place / "toy.safetensors")
    command = ["certify", "--model", "training.architectures:toy", "--weights", "toy.safetensors", "--safe"]
    asked = ["--data", "data.npz", "--eps", "0.01", "--out", "run.sqlite", "--stages", "interval", "--quiet"]
    assert CliRunner().invoke(app, [*command, *asked]).exit_code == 0
    check_safe("some/net.onnx.gz")
    for name in ("inspect", "architecture", "Residual", "_strided"):  # there, and no architecture
        with pytest.raises(InputError, match="refuses"):
            check_safe(f"training.architectures:{name}")


def test_a_folder_of_that_name_is_not_ours(place: Path) -> None:
    (place / "training").mkdir()
    (place / "training" / "__init__.py").write_text(EVIL)
    code = f"import sys; sys.path[:0] = ['', {str(ROOT)!r}]; from verifier.loading import check_safe; " + (
        "check_safe('training.architectures:toy')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=importing(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "refuses" in ended.stderr and not (place / "evil").exists()
