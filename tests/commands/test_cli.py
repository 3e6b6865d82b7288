"""The command line: what it prints, its exit codes, and one clear line for every bad input."""

from __future__ import annotations

import csv
import importlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.models import labelled, small_image_mlp
from typer.testing import CliRunner, Result

from properties import Question
from verifier import equivalent, verify
from verifier.certification import Report
from verifier.commands.app import app

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (1, 3, 4)

FACTORY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))

def slow():
    import time
    time.sleep(60)

def number():
    return 3

def broken():
    raise ValueError("the factory's own error")

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        logits = self.body(x)
        return {"logits": logits, "score": logits[:, :1]}

def pair():
    return Pair()

def tokens():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Unflatten(1, (2, 3)))

not_callable = 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a factory module, its weights, and data, that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    (tmp_path / "mynet.py").write_text(FACTORY)
    model = small_image_mlp(SHAPE)
    images, labels = labelled(model, SHAPE, 30)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    np.savez(tmp_path / "test.npz", images=images.numpy(), labels=labels.numpy())
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


DEFAULTS = {
    "--model": "mynet:net",
    "--weights": "w.safetensors",
    "--data": "test.npz",
    "--eps": "0.05",
    "--out": "run.sqlite",
    "--batch-size": "8",
}


def certify(*flags: str, **changes: str | None) -> Result:
    """`verifier certify` with DEFAULTS, changed by option name; None leaves an option out."""
    options = {**DEFAULTS, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
    return call("certify", *(t for k, v in options.items() if v is not None for t in (k, v)), *flags)


def test_certify_and_show(place: Path) -> None:
    result = certify()
    assert result.exit_code == 0, result.stderr
    assert "verified accuracy" in result.stdout and "30/30" in result.stderr
    shown = call("show", "run.sqlite", "--csv", "run.csv", "--json", "run.json", "--failures")
    assert shown.exit_code == 0 and "verified accuracy" in shown.stdout
    rows = Report.open(place / "run.sqlite").rows()
    listed = [line for line in shown.stdout.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert len(listed) == sum(e.outcome.value != "verified" for e in rows)
    assert len(list(csv.DictReader((place / "run.csv").open()))) == 30
    assert json.loads((place / "run.json").read_text())["summary"]["examples"] == 30


def test_a_torch_export_gives_the_same_rows(place: Path) -> None:
    model, example = small_image_mlp(SHAPE), torch.zeros(2, *SHAPE)
    exported = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(exported, place / "net.pt2")
    assert certify().exit_code == 0
    result = certify(model="net.pt2", weights=None, out="other.sqlite")
    assert result.exit_code == 0, result.stderr
    a, b = (Report.open(place / name).rows() for name in ("run.sqlite", "other.sqlite"))
    assert [(e.index, e.outcome, e.stage) for e in a] == [(e.index, e.outcome, e.stage) for e in b]


def test_quiet_prints_the_table_only(place: Path) -> None:
    result = certify("--quiet")
    assert result.exit_code == 0 and result.stderr == "" and "verified accuracy" in result.stdout


def test_another_threat_model(place: Path) -> None:
    """Verdicts nest as the balls do, and the store knows which it was."""
    proved = {}
    for number, threat in enumerate(("linf", "l2", "l1", "linf+l2")):
        result = certify(threat=threat, out=f"{number}.sqlite", stages="clean,dual,attack")
        assert result.exit_code == 0, result.stderr
        report = Report.open(place / f"{number}.sqlite")
        assert report.meta["settings"]["threat"] == threat and (threat == "linf" or threat in result.stdout)
        proved[threat] = {e.index for e in report.rows() if e.outcome.value == "verified"}
    assert proved["linf"] <= proved["l2"] <= proved["l1"] and proved["linf+l2"] == proved["linf"] & proved["l2"]
    resumed = certify("--resume", threat="l1", out="1.sqlite", stages="clean,dual,attack")
    assert resumed.exit_code == 2 and "threat" in resumed.stderr


@pytest.mark.parametrize("threat", ["l3", "0*l2", "many*l2", "", "linf++l2"])
def test_a_threat_that_there_is_not(place: Path, threat: str) -> None:
    result = certify(threat=threat)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert "threat model" in result.stderr or "factor" in result.stderr
    assert not (place / "run.sqlite").exists()


def test_eps_may_be_a_fraction(place: Path) -> None:
    assert certify(eps="8/255").exit_code == 0
    assert Report.open(place / "run.sqlite").meta["settings"]["eps"] == 8 / 255


@pytest.mark.parametrize(
    ("factor", "dtype", "flags", "said"),
    [
        (16, np.uint8, {}, "images range from 0 to 16 only, and were divided by 255"),
        (255, np.uint8, {}, ""),
        (255, np.float32, {}, "images range from 0 to 255 and were not scaled"),
        (255, np.int64, {}, "images range from 0 to 255 and were not scaled"),
        (255, np.float32, {"scale": "255"}, ""),
        (255, np.float32, {"clip": "0,255"}, ""),
    ],
)
def test_a_doubtful_range_is_noted_also_when_quiet(
    place: Path, factor: int, dtype: type, flags: dict[str, str], said: str
) -> None:
    with np.load("test.npz") as data:
        images = np.linspace(0, factor, data["images"].size).reshape(data["images"].shape).astype(dtype)
        np.savez("units.npz", images=images, labels=data["labels"])
    result = certify("--quiet", data="units.npz", first="30", **flags)
    assert result.exit_code == 0 and said in result.stderr and len(result.stderr.splitlines()) == bool(said)


@pytest.mark.parametrize(
    "flags",
    [
        ("--csv", "run.sqlite"),
        ("--json", "./run.sqlite"),
        ("--csv", "run.sqlite.lock"),
        ("--json", "run.sqlite-journal"),
        ("--csv", "out.txt", "--json", "./out.txt"),
    ],
)
def test_an_export_over_the_store_or_the_other_export_is_refused(place: Path, flags: tuple[str, ...]) -> None:
    assert certify().exit_code == 0
    before, files = (place / "run.sqlite").read_bytes(), sorted(place.iterdir())
    result = call("show", "run.sqlite", *flags)
    assert result.exit_code == 2 and "error: " in result.stderr
    assert (place / "run.sqlite").read_bytes() == before and sorted(place.iterdir()) == files


@pytest.mark.parametrize(
    ("changes", "indices"),
    [({"first": "5"}, range(5)), ({"indices": "10:14"}, range(10, 14)), ({"indices": "28:"}, range(28, 30))],
)
def test_parts_of_the_data(place: Path, changes: dict[str, str], indices: range) -> None:
    assert certify(**changes).exit_code == 0
    assert [e.index for e in Report.open(place / "run.sqlite").rows()] == list(indices)


def test_bytes_are_scaled_and_reshaped(place: Path) -> None:
    with np.load("test.npz") as data:
        grey = np.round(255 * data["images"]).astype(np.uint8).reshape(30, 3, 4)
        np.savez("bytes.npz", x=grey, y=data["labels"])
        np.savez("floats.npz", images=(grey / 255).astype(np.float32).reshape(30, *SHAPE), labels=data["labels"])
    result = certify(data="bytes.npz", images_key="x", labels_key="y", shape="1,3,4", clip="0,1")
    assert result.exit_code == 0 and "divided by 255" in result.stderr
    assert certify(data="floats.npz", clip="0,1", out="floats.sqlite").exit_code == 0
    a, b = (Report.open(place / name).rows() for name in ("run.sqlite", "floats.sqlite"))
    assert [e.outcome for e in a] == [e.outcome for e in b]


def test_resume(place: Path) -> None:
    assert certify().exit_code == 0
    refused = certify()
    assert refused.exit_code == 2 and "--resume" in refused.stderr
    assert certify("--resume").exit_code == 0
    differs = certify("--resume", eps="0.06", clip="0,1")
    assert differs.exit_code == 2
    assert "eps: 0.05 -> 0.06" in differs.stderr and "clip: None -> [0.0, 1.0]" in differs.stderr


def test_explain_takes_what_certify_takes(place: Path) -> None:
    shared = ("--model", "mynet:net", "--weights", "w.safetensors", "--data", "test.npz", "--clip", "0,1")
    result = call("explain", *shared, "--stages", "clean,interval,dual")
    assert result.exit_code == 0 and "of 30" not in result.stdout, result.output
    result = call("explain", *shared, "--stages", "clean,interval,dual", "--eps", "8/255")
    assert result.exit_code == 0 and "of 30" in result.stdout and result.stderr == ""
    assert sorted(p.name for p in place.iterdir() if p.suffix != "") == ["mynet.py", "test.npz", "w.safetensors"]


BAD: dict[str, tuple[dict[str, str | None], str]] = {
    "negative eps": ({"eps": "-1"}, "eps must be"),
    "eps not a number": ({"eps": "small"}, "Invalid value for '--eps'"),
    "no such data": ({"data": "none.npz"}, "no data file none.npz"),
    "eps over zero": ({"eps": "8/0"}, "nor a fraction such as 8/255"),
    "text as npz": ({"data": "mynet.py"}, "not an npz archive"),
    "cut npz": ({"data": "cut.npz"}, "not an npz archive, or a damaged one"),
    "npy": ({"data": "one.npy"}, "not an npz archive"),
    "pickled npz": ({"data": "pickled.npz"}, "not a readable npz"),
    "no such key": ({"images_key": "x"}, "no array 'x'; it has: images, labels"),
    "single numbers": ({"data": "scalars.npz"}, "must be"),
    "flat images": ({"data": "flat.npz"}, "first axis"),
    "lengths differ": ({"data": "uneven.npz"}, "30 images but 29 labels"),
    "no data": ({"data": "empty.npz"}, "the data have no examples"),
    "a folder of data": ({"data": "."}, "cut.npz is not an npz archive"),
    "an empty name": ({"stages": "dual,,milp"}, "--stages is names with commas between them"),
    "label out of range": ({"data": "labels.npz"}, "label 9 at index 0"),
    "channels last": ({"data": "flat12.npz", "shape": "3,5"}, "cannot be reshaped"),
    "bad shape": ({"shape": "a,b"}, "--shape"),
    "wrong shape": ({"data": "wide.npz"}, "fails on an input of shape [1, 4, 5] per example"),
    "bad clip": ({"clip": "1"}, "--clip must be low,high"),
    "clip upside down": ({"clip": "1,0"}, "low <= high"),
    "bad scale": ({"scale": "0"}, "--scale"),
    "bad indices": ({"indices": "20:50"}, "--indices must be"),
    "indices of words": ({"indices": "a:b"}, "--indices must be"),
    "first of none": ({"first": "0"}, "--first must be"),
    "first and indices": ({"first": "2", "indices": "0:2"}, "not both"),
    "bad batch size": ({"batch_size": "0"}, "batch_size"),
    "bad budget": ({"budget": "-1"}, "budget"),
    "unknown device": ({"device": "abacus"}, "abacus"),
    "device of another kind": ({"device": "meta"}, "give cpu, cuda or cuda:0"),
    "unknown stage": ({"stages": "magic"}, "magic"),
    "model of no form": ({"model": "mynet"}, "neither"),
    "no such module": ({"model": "nothere:net"}, "no module 'nothere'"),
    "no such package": ({"model": "nothere.sub:net"}, "no module 'nothere.sub'"),
    "relative module": ({"model": ".mynet:net"}, "not of the form"),
    "no module name": ({"model": ":net"}, "not of the form"),
    "no such factory": ({"model": "mynet:nothere"}, "no callable 'nothere'"),
    "not a factory": ({"model": "mynet:not_callable"}, "no callable"),
    "factory of a number": ({"model": "mynet:number", "weights": None}, "returned a int"),
    "no such pt2": ({"model": "none.pt2", "weights": None}, "no model file"),
    "not a pt2": ({"model": "bad.pt2", "weights": None}, "not a .pt2 file"),
    "TorchScript": ({"model": "script.pt2", "weights": None}, "script.pt2 is TorchScript (torch.jit.save), not"),
    "another zip": ({"model": "zip.pt2", "weights": None}, "cannot be loaded"),
    "pt2 and weights": ({"model": "bad.pt2"}, "drop --weights"),
    "no such weights": ({"weights": "none.safetensors"}, "no weights file"),
    "not weights": ({"weights": "mynet.py"}, "not a readable safetensors file"),
    "weights of torch.save": ({"weights": "w.pt"}, "(torch.save); write the weights with safetensors.torch.save_file"),
    "other weights": ({"weights": "other.safetensors"}, "missing: 1.bias; unexpected: 9.bias"),
    "misshapen weights": ({"weights": "misshapen.safetensors"}, "1.bias has shape"),
    "NaN weights": ({"weights": "nan.safetensors"}, "NaN"),
    "no such directory": ({"out": "none/run.sqlite"}, "does not exist"),
    "foreign store": ({"out": "foreign.sqlite"}, "not a store of this program"),
    "corrupt store": ({"out": "mynet.py"}, "not an SQLite database"),
}


@pytest.fixture
def traps(place: Path) -> Path:
    """The unusable files that BAD names."""
    with np.load("test.npz") as data:
        images, labels = data["images"], data["labels"]
    np.save("one.npy", images)
    np.savez("pickled.npz", images=np.array([{}], dtype=object), labels=labels)
    np.savez("scalars.npz", images=1.0, labels=1)
    np.savez("flat.npz", images=images[:, 0, 0, 0], labels=labels)
    np.savez("flat12.npz", images=images.reshape(30, 12), labels=labels)
    np.savez("uneven.npz", images=images, labels=labels[1:])
    np.savez("empty.npz", images=images[:0], labels=labels[:0])
    np.savez("labels.npz", images=images, labels=np.full(30, 9))
    np.savez("wide.npz", images=np.zeros((30, 1, 4, 5), np.float32), labels=labels)
    np.savez("zip.pt2", images=images)
    os.rename("zip.pt2.npz", "zip.pt2")
    (place / "cut.npz").write_bytes((place / "test.npz").read_bytes()[:500])
    (place / "bad.pt2").write_text("not a model")
    torch.jit.save(torch.jit.script(small_image_mlp(SHAPE)), "script.pt2")
    state = safetensors.torch.load_file("w.safetensors")
    torch.save(state, "w.pt")
    others = {("9.bias" if k == "1.bias" else k): v for k, v in state.items()}
    safetensors.torch.save_file(others, "other.safetensors")
    safetensors.torch.save_file({**state, "1.bias": torch.zeros(3)}, "misshapen.safetensors")
    safetensors.torch.save_file({**state, "1.bias": state["1.bias"] * torch.nan}, "nan.safetensors")
    with sqlite3.connect("foreign.sqlite") as connection:
        connection.execute("CREATE TABLE mine (x)")
    return place


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_message(traps: Path, name: str) -> None:
    changes, said = BAD[name]
    result = certify(**changes)
    assert result.exit_code == 2, result.output
    assert said in result.stderr and "Traceback" not in result.output and result.stdout == ""
    assert "pickle.load" not in result.stderr and "allow_pickle=`" not in result.stderr
    assert not (traps / "run.sqlite").exists()


def test_an_error_of_the_factory_is_shown_as_the_users_own(place: Path) -> None:
    result = certify(model="mynet:broken")
    assert result.exit_code == 2 and result.stdout == ""
    first, *rest = result.stderr.splitlines()
    assert first == "error: the factory mynet:broken raised ValueError: the factory's own error"
    files = [line.split('"')[1] for line in rest if line.startswith("  File ")]
    assert [Path(file).name for file in files] == ["mynet.py"] and "in broken" in result.stderr
    assert rest[-1].endswith("python -c 'import mynet; mynet.broken()'")


FAILING = {
    "needy": ("import nothere_at_all\n", "raised ModuleNotFoundError: No module named 'nothere_at_all'"),
    "torn": ("def net(:\n", "raised SyntaxError: invalid syntax"),
    "script": ("import sys\nsys.exit(3)\n", "ended the program (sys.exit(3)): code that is for a script belongs under"),
}


@pytest.mark.parametrize("name", FAILING)
def test_an_error_of_the_module_too(place: Path, name: str) -> None:
    text, said = FAILING[name]
    (place / f"{name}.py").write_text(text)
    result = certify(model=f"{name}:net")
    assert result.exit_code == 2 and result.stdout == ""
    assert f"error: the module {name}, while it was imported, {said}" in result.stderr.splitlines()[0]
    assert f'{name}.py", line ' in result.stderr and str(ROOT / "verifier") not in result.stderr
    assert "importlib" not in result.stderr and result.stderr.endswith(f'python -c "import {name}"\n')


def test_examples_that_raise_are_counted_and_the_rest_goes_on(place: Path) -> None:
    with np.load("test.npz") as data:
        images, labels = data["images"], data["labels"]
    images[3, 0, 0, 0] = np.nan
    np.savez("nan.npz", images=images, labels=labels)
    result = certify(data="nan.npz")
    assert result.exit_code == 0 and "warning: 1 example raised" in result.stderr and "at index 3" in result.stderr
    assert "NaN or infinite" in call("show", "run.sqlite", "--failures").stdout


def test_a_run_in_which_every_example_raises_fails(place: Path) -> None:
    np.savez("nan.npz", images=np.full((3, *SHAPE), np.nan, np.float32), labels=np.zeros(3, int))
    result = certify(data="nan.npz")
    assert result.exit_code == 1 and "3 examples raised" in result.stderr


def test_show_names_what_it_cannot_read_or_write(traps: Path) -> None:
    for path, said in (("none.sqlite", "no store"), ("foreign.sqlite", "not a store"), ("mynet.py", "not an SQLite")):
        result = call("show", path)
        assert result.exit_code == 2 and said in result.stderr
    assert certify().exit_code == 0
    result = call("show", "run.sqlite", "--csv", "none/run.csv")
    assert result.exit_code == 2 and "cannot write none/run.csv" in result.stderr


def shell(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "verifier", *arguments]


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def test_help_does_not_load_torch(place: Path) -> None:
    code = "import sys, verifier.commands.app; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=60)
    shown = subprocess.run(shell("certify", "--help"), capture_output=True, text=True, env=environment(), timeout=60)
    assert shown.returncode == 0 and "eval mode" in shown.stdout


def test_a_real_process_with_bad_usage_and_a_failing_factory(place: Path) -> None:
    usage = subprocess.run(shell("certify"), capture_output=True, text=True, env=environment(), timeout=60)
    assert usage.returncode == 2 and "--model" in usage.stderr
    arguments = [t for k, v in {**DEFAULTS, "--model": "mynet:broken"}.items() for t in (k, v)]
    failed = subprocess.run(
        shell("certify", *arguments), capture_output=True, text=True, env=environment(), timeout=120
    )
    assert failed.returncode == 2 and "Traceback" in failed.stderr and failed.stdout == ""
    first = failed.stderr.splitlines()[0]
    assert first == "error: the factory mynet:broken raised ValueError: the factory's own error"


def test_ctrl_c_exits_130_with_the_way_to_resume(place: Path) -> None:
    with np.load("test.npz") as data:
        images, labels = np.tile(data["images"], (300, 1, 1, 1)), np.tile(data["labels"], 300)
    np.savez("many.npz", images=images, labels=labels)
    arguments = [t for k, v in {**DEFAULTS, "--data": "many.npz", "--batch-size": "2"}.items() for t in (k, v)]
    process = subprocess.Popen(
        shell("certify", *arguments), stderr=subprocess.PIPE, text=True, env=environment(),
        # a shell's background jobs ignore Ctrl-C, and their children with them: not what is tested here
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    store = place / "run.sqlite"
    wait_until(lambda: store.exists() and store.stat().st_size > 0 and count(store) > 0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "--resume" in said and "Traceback" not in said
    assert 0 < count(store) < 9000 and not (place / "run.sqlite.lock").exists()
    assert f"{count(store)} of 9000 examples are in" in said


def count(store: Path) -> int:
    """Rows that are committed, also while a run is writing."""
    return len(Report.open(store).rows())


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


QUESTIONS = {
    "near": ("near:100", "near:0.0001"),
    "range": ("output_range:-100,100", "output_range:-inf,-100"),
    "one of": ("one_of:0,1,2", "one_of:3"),
    "top k": ("top_k:3", "top_k:1"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_by_name(place: Path, name: str) -> None:
    """The same verdicts as of the specification; the question is in the report, and belongs to the run."""
    for place_of, text in enumerate(QUESTIONS[name]):
        out = f"{place_of}.sqlite"
        result = certify(question=text, out=out, eps="0.3")
        assert result.exit_code == 0, result.output
        assert "question " + text[:9] in result.stdout and "correct" not in result.stdout
        report = Report.open(out)
        found = [e.outcome.value for e in report.rows()]
        with np.load("test.npz") as data:
            images, labels = torch.as_tensor(data["images"]), torch.as_tensor(data["labels"])
        model = small_image_mlp(SHAPE)
        spec = Question.parse(text).about(model(images).detach(), labels)
        assert found == [v.value for v in verify(model, images, 0.3, spec=spec).verdict]
        assert report.summary()["verified_accuracy"] == found.count("verified") / 30
        shown = call("explain", "--model", "mynet:net", "--weights", "w.safetensors", "--data", "test.npz",
                     "--eps", "0.3", "--question", text)  # fmt: skip
        assert shown.exit_code == 0 and "of 30" in shown.stdout, shown.output
    other = certify("--resume", question="near:7", out=out, eps="0.3")
    assert other.exit_code == 2 and "question" in other.stderr


def test_a_threshold_an_output_and_data_without_labels(place: Path) -> None:
    """And the certificates are of the chosen output."""
    with np.load("test.npz") as data:
        np.savez("bare.npz", images=data["images"])
    given = {"model": "mynet:pair", "weights": None, "data": "bare.npz", "eps": "0.01", "threshold": "0.25"}
    folder = place / "proofs"
    result = certify(output="score", certificates=str(folder), **given)
    assert result.exit_code == 0, result.output
    found = [e.outcome.value for e in Report.open("run.sqlite").rows()]
    sys.path.insert(0, str(place))
    model = importlib.import_module("mynet").pair().eval()
    wanted = verify(model, torch.as_tensor(np.load("bare.npz")["images"]), 0.01, output="score", threshold=0.25)
    assert found == [v.value for v in wanted.verdict] and "verified" in found
    assert certify(output="1", out="second.sqlite", **given).exit_code == 0
    assert [e.outcome.value for e in Report.open("second.sqlite").rows()] == found
    checked = call("check", str(folder), "--model", "mynet:pair", "--output", "score")
    assert checked.exit_code == 0, checked.output
    other = call("check", str(folder), "--model", "mynet:pair", "--output", "logits")
    assert other.exit_code == 1, other.output
    assert "it has ['logits', 'score']" in certify(output="nothing", out="third.sqlite", **given).stderr


def test_a_network_against_another(place: Path) -> None:
    """And a program that was exported; labels are not needed; the stages can be shown."""
    with np.load("test.npz") as data:
        np.savez("bare.npz", images=data["images"])
    torch.export.save(torch.export.export(small_image_mlp(SHAPE), (torch.zeros(2, *SHAPE),)), "same.pt2")
    given = {"model": "same.pt2", "weights": None, "data": "bare.npz", "first": "5"}
    same = certify(against="same.pt2", distance="0.5", eps="0.0", **given)
    assert same.exit_code == 0, same.output
    assert {e.outcome.value for e in Report.open("run.sqlite").rows()} == {"verified"}
    other = certify(against="mynet:net", distance="0.01", out="other.sqlite", **given)
    assert other.exit_code == 0 and "question output_range:-0.01,0.01" in other.stdout, other.output
    images = torch.as_tensor(np.load("bare.npz")["images"])[:5]
    sys.path.insert(0, str(place))
    second = importlib.import_module("mynet").net().eval()
    wanted = equivalent(small_image_mlp(SHAPE), second, images, 0.05, distance=0.01)
    assert [e.outcome.value for e in Report.open("other.sqlite").rows()] == [v.value for v in wanted.verdict]
    shown = call("explain", "--model", "same.pt2", "--data", "bare.npz", "--against", "mynet:net", "--distance", "1")
    assert shown.exit_code == 0 and "network: [1, 3, 4] -> [4]" in shown.stdout, shown.output


BAD_QUESTIONS = {
    "no distance": ({"against": "mynet:net"}, "--against and --distance go together"),
    "no such distance": ({"against": "mynet:net", "distance": "0"}, "--distance must be a number > 0"),
    "two questions": (
        {"against": "mynet:net", "distance": "1", "threshold": "1"},
        "leave --question and --threshold out",
    ),
    "other outputs": ({"against": "mynet:tokens", "distance": "1"}, "of shapes [4] and [2, 3]: not comparable"),
    "no such question": ({"question": "nearer:1"}, "no question 'nearer'; the questions are same_classes[:DIM"),
    "no numbers": ({"question": "near"}, "written as near:DISTANCE"),
    "words": ({"question": "one_of:cat"}, "written as one_of:CLASS,..."),
    "halves": ({"question": "top_k:1.5"}, "written as top_k:K"),
    "both": ({"question": "near:1", "threshold": "1"}, "--threshold T is --question threshold:T"),
    "threshold of classes": ({"threshold": "0.5"}, "networks of one output"),
    "classes of positions": ({"model": "mynet:tokens", "weights": None, "question": "targeted:0"}, "ask same_classes"),
    "labels of positions": ({"model": "mynet:tokens", "weights": None}, "--question, such as same_classes:1"),
    "labels of a number": ({"model": "mynet:pair", "weights": None, "output": "score"}, "--threshold 0.0"),
    "no such class": ({"question": "targeted:9"}, "out of range"),
}


@pytest.mark.parametrize("name", BAD_QUESTIONS)
def test_questions_that_cannot_be_asked(place: Path, name: str) -> None:
    changes, said = BAD_QUESTIONS[name]
    result = certify(**changes)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output, result.output
    assert not Path("run.sqlite").exists()
