"""`verifier train`: from the shell's point of view, and commands that other packages add."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

from training import History
from verifier.certification import Report
from verifier.commands import plugins
from verifier.commands.app import app

ROOT = Path(__file__).resolve().parents[2]

FACTORY = """
from torch import nn

def net(hidden=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, 3))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with training and test data, that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "trainednet", raising=False)
    (tmp_path / "trainednet.py").write_text(FACTORY)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 90)
    images = 0.3 * generator.random((90, 4, 4))
    images[np.arange(90), labels] += 0.7
    np.savez("train.npz", images=images[:60], labels=labels[:60])
    np.savez("test.npz", images=images[60:], labels=labels[60:])
    np.savez("bytes.npz", x=(255 * images).astype(np.uint8), y=labels)
    np.savez("nan.npz", images=images * np.nan, labels=labels)
    return tmp_path


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than these runs. (tests/training/test_training_run.py draws some.)"""
    monkeypatch.setattr(History, "plot", lambda self, path: path.write_text("a picture"))


DEFAULTS = {
    "--method": "standard", "--arch": "two_layer:8", "--data": "train.npz", "--eps": "0.02", "--epochs": "3",
    "--out": "net.safetensors", "--batch": "10", "--lr": "0.05",
}  # fmt: skip


def arguments(*flags: str, **changes: str | None) -> list[str]:
    """DEFAULTS, changed by option name; None leaves an option out."""
    options = {**DEFAULTS, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
    return ["train", *(t for k, v in options.items() if v is not None for t in (k, v)), *flags]


def call(*texts: str) -> Result:
    return CliRunner().invoke(app, list(texts))


def trained(*flags: str, **changes: str | None) -> Result:
    return call(*arguments(*flags, **changes))


def test_train_with_curves_and_certify_by_the_printed_command(place: Path) -> None:
    pytest.importorskip("matplotlib")
    result = trained(test="test.npz", arch="small", epochs="4", lr="0.01")
    assert result.exit_code == 0, result.output
    assert "epoch 4/4" in result.stderr and "verified" in result.stderr
    assert "note: images are [N, H, W]: taken as --shape 1,4,4" in result.stderr
    assert "best epoch" in result.stdout and "on the 30 test images: clean" in result.stdout
    assert {p.name for p in (place / "net.safetensors.run").iterdir()} == {
        "best.safetensors", "checkpoint.pt", "curves.png", "log.csv", "log.json"
    }  # fmt: skip
    assert (place / "net.safetensors").read_bytes() == (place / "net.safetensors.run/best.safetensors").read_bytes()
    command = shlex.split(result.stdout.splitlines()[-1])
    assert command[0] == "verifier" and "training.architectures:small((1, 4, 4), 3)" in command
    certified = call(*command[1:], "--quiet")
    assert certified.exit_code == 0, certified.output
    summary = Report.open(place / "net.safetensors.sqlite").summary()
    shares = result.stdout.splitlines()[-3].split()
    assert shares[shares.index("clean") + 1] == f"{summary['clean_accuracy']:.2%}"


def test_a_factory_with_weights(place: Path) -> None:
    shape = {"arch": None, "model": "trainednet:net(12)"}
    first = trained("--quiet", **shape)
    assert first.exit_code == 0 and "epoch 1/3" not in first.stderr, first.output
    assert safetensors.torch.load_file("net.safetensors")["1.weight"].shape == (12, 16)
    more = trained(**shape, weights="net.safetensors", out="more.safetensors", epochs="1", lr="1e-9")
    assert more.exit_code == 0, more.output
    a, b = (safetensors.torch.load_file(name) for name in ("net.safetensors", "more.safetensors"))
    assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)


def test_settings_reach_the_method(place: Path) -> None:
    result = trained(
        "--set", "optimiser=sgd:momentum=0.9", "--set", "rate=cosine", clip="none", threat="l2", validation="6",
        seed="3", eps="8/255", stages="interval", measure_every="2", data="bytes.npz", images_key="x", labels_key="y",
        first="50", shape="16", run="elsewhere",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings = json.loads((place / "elsewhere/log.json").read_text())["settings"]
    optimiser = {"kind": "Optimiser", "of": "sgd", "rate": 0.05, "momentum": 0.9, "weight_decay": 0.0}
    assert settings["optimiser"] == optimiser and settings["rate"] == {"kind": "Cosine"}
    expected = {"eps": 8 / 255, "threat": "l2", "clip": None, "seed": 3, "validation": 6, "stages": ["interval"]}
    assert {key: settings[key] for key in expected} == expected and settings["batch"] == 10


def test_list_and_describe(place: Path) -> None:
    listed = call("train", "--list")
    assert listed.exit_code == 0 and "standard" in listed.stdout and "two_layer" in listed.stdout
    described = call("train", "--describe", "standard")
    assert described.exit_code == 0 and "optimiser = adam:rate=0.001" in described.stdout
    assert call("train", "--describe", "magic").exit_code == 2


def test_runs_are_refused_or_resumed(place: Path) -> None:
    assert trained("--quiet").exit_code == 0
    again = trained("--quiet")
    assert again.exit_code == 2 and "--resume" in again.stderr
    before = (place / "net.safetensors").read_bytes()
    (place / "net.safetensors").unlink()
    resumed = trained("--resume")
    assert resumed.exit_code == 0 and "resumed after epoch 3 of 3" in resumed.stderr
    assert (place / "net.safetensors").read_bytes() == before
    other = trained("--resume", eps="0.03")
    assert other.exit_code == 2 and "eps was 0.02, and is 0.03" in other.stderr
    taken = trained(run="fresh")
    assert taken.exit_code == 2 and "exists already" in taken.stderr and not (place / "fresh").exists()


def test_a_cascade(place: Path) -> None:
    shape = {"arch": "two_layer:8", "cascade": "2", "out": "nets", "eps": "0.2", "method": "dual"}
    result = trained("--set", "projections=none", "--stages", "interval", **shape)
    assert result.exit_code == 0, result.output
    assert "network 0: trained on 54 images" in result.stdout and (place / "nets/network0.safetensors").exists()
    again = trained("--set", "projections=none", "--stages", "interval", **shape)
    assert again.exit_code == 2 and "exists already" in again.stderr
    resumed = trained("--set", "projections=none", "--stages", "interval", "--resume", **shape)
    assert resumed.exit_code == 0 and resumed.stdout == result.stdout
    assert trained(**{**shape, "test": "test.npz"}).exit_code == 2


BAD: dict[str, tuple[dict[str, str | None], str]] = {
    "unknown method": ({"method": "magic"}, "no training method is called 'magic'; there are: "),
    "unknown architecture": ({"arch": "tall"}, "no architecture is called 'tall'; there are: "),
    "number of an architecture": ({"arch": "wide:x"}, "takes k, an integer"),
    "architecture for images": ({"shape": "16", "arch": "small"}, "does not fit inputs of shape [16]"),
    "neither": ({"arch": None}, "give --arch or --model"),
    "both": ({"model": "trainednet:net"}, "give --arch or --model"),
    "weights of an architecture": ({"weights": "w.safetensors"}, "--weights goes with --model"),
    "no such factory": ({"arch": None, "model": "trainednet:nothere"}, "no callable 'nothere'"),
    "no such argument": ({"arch": None, "model": "trainednet:net(x+1)"}, "with numbers, texts and tuples"),
    "wrong shape": ({"arch": None, "model": "trainednet:net", "shape": "2,8", "first": "9", "data": "nan.npz"}, "NaN"),
    "no data": ({"data": "none.npz"}, "no data file none.npz"),
    "no test data": ({"test": "none.npz"}, "no data file none.npz"),
    "no numbers": ({"data": "nan.npz"}, "NaN or infinite"),
    "eps": ({"eps": "-1"}, "eps must be a number >= 0"),
    "threat": ({"threat": "l3"}, "threat model"),
    "clip": ({"clip": "0.5,0.6"}, "valid range"),
    "epochs": ({"epochs": "0"}, "epochs must be at least 1"),
    "learning rate": ({"lr": "nan"}, "rate"),
    "batch": ({"batch": "0"}, "batch must be at least 1"),
    "validation": ({"validation": "60"}, "none would be left"),
    "patience": ({"patience": "2", "validation": "0"}, "patience needs validation images"),
    "unknown stage": ({"stages": "magic"}, "magic"),
    "device": ({"device": "abacus"}, "abacus"),
    "no directory": ({"out": "none/net.safetensors"}, "the directory of none/net.safetensors does not exist"),
    "a directory": ({"out": "."}, "is a directory"),
    "a file as the run": ({"run": "train.npz"}, "cannot make the folder train.npz"),
    "too many classes": ({"classes": "2"}, "the network has 2 classes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_message(place: Path, name: str) -> None:
    changes, said = BAD[name]
    result = trained(**changes)
    assert result.exit_code == 2, result.output
    assert said in result.stderr and "Traceback" not in result.output and result.stdout == ""
    assert not (place / "net.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("foo=1", "has no setting 'foo'; it has:\n  optimiser = "),
        ("rate=cosine:x=1", "has no option 'x'"),
        ("rate", "=value"),
    ],
)
def test_bad_settings(place: Path, text: str, said: str) -> None:
    result = trained("--set", text)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output


def test_a_run_that_goes_astray(place: Path) -> None:
    result = trained("--set", "optimiser=sgd", lr="1e30")
    assert result.exit_code == 2 and "no finite number" in result.stderr and "learning rate" in result.stderr


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "OMP_NUM_THREADS": "1"}


def test_ctrl_c_exits_130_and_the_run_is_resumed(place: Path) -> None:
    def options(out: str, *flags: str) -> list[str]:
        texts = arguments("--stages", "none", *flags, out=out, epochs="12", first="30")
        return [sys.executable, "-m", "verifier", *texts]

    process = subprocess.Popen(
        options("net.safetensors"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment(),
        # a shell's background jobs ignore Ctrl-C, and their children with them: not what is tested here
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("epoch 2/12"):
        assert line, "it ended by itself"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "go on by the same command with --resume" in said and "Traceback" not in said
    folder = place / "net.safetensors.run"
    assert (folder / "checkpoint.pt").exists() and not (folder / "checkpoint.pt.lock").exists()
    resumed = call(*options("net.safetensors", "--resume")[3:])
    assert resumed.exit_code == 0 and "resumed after epoch" in resumed.stderr, resumed.output
    whole = call(*options("whole.safetensors", "--quiet")[3:])
    assert whole.exit_code == 0, whole.output
    assert (place / "net.safetensors").read_bytes() == (place / "whole.safetensors").read_bytes()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from verifier.commands.app import app\n"
        "for arguments in (['--help'], ['train', '--help']):\n"
        "    shown = CliRunner().invoke(app, arguments)\n"
        "    assert shown.exit_code == 0 and 'rain a network' in shown.stdout, shown.output\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=60)


def hello(name: str) -> None:
    """Say hello."""
    print(f"hello {name}")


def test_commands_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed and run; a broken one costs a line, and a name of our own stays ours."""
    entries = [
        EntryPoint("hello", f"{__name__}:hello", plugins.GROUP),
        EntryPoint("broken", "no.such.module:command", plugins.GROUP),
        EntryPoint("certify", f"{__name__}:hello", plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    plugins._loaded.cache_clear()
    assert call("hello", "you").stdout == "hello you\n"
    shown = call("--help")
    assert shown.exit_code == 0 and "Say hello." in shown.stdout and "broken" not in shown.stdout
    assert shown.stderr.splitlines() == [
        "warning: no command 'broken': no.such.module:command fails with ModuleNotFoundError: No module named 'no'"
    ]
    assert "Certify a test set" in call("certify", "--help").stdout
    missing = call("broken")
    assert missing.exit_code == 2 and "Traceback" not in missing.output
    plugins._loaded.cache_clear()
