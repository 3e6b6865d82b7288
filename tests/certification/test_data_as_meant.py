"""Data are what the user means: layouts, units, radii and limits as texts, torch's datasets, names nearly right."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from typer.testing import CliRunner, Result

from properties import LinfBall, Perturbation
from verifier import InputError, OnnxModel, attack, certify, verify
from verifier.budget import seconds_of
from verifier.certification.doubts import DataWarning, UnitsWarning
from verifier.commands.app import app

QUICK: dict[str, Any] = {"progress": False, "stages": ["clean", "interval", "dual"]}

FACTORY = """
import torch
from torch import nn

def conv():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 4, 3))

def last():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = conv()

        def forward(self, x):
            return self.body(x.permute(0, 3, 1, 2))

    return Last()

def one():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 1))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images in both layouts, and networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    (tmp_path / "nets.py").write_text(FACTORY)
    x, y = data()
    np.savez("first.npz", images=x.numpy(), labels=y.numpy())
    np.savez("last.npz", images=x.permute(0, 2, 3, 1).numpy(), labels=y.numpy())
    np.savez("flat.npz", images=x.permute(0, 2, 3, 1).flatten(1).numpy(), labels=y.numpy())
    return tmp_path


def conv() -> nn.Module:
    space: dict[str, Any] = {}
    exec(FACTORY, space)
    return space["conv"]().eval()


def mlp() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 3)).eval()


def data() -> tuple[Tensor, Tensor]:  # [4, 3, 8, 6], [4]
    x = torch.rand(4, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    return x, conv()(x).argmax(1)


def call(data: str, *flags: str, model: str = "nets:conv", eps: str = "0.001", out: str = "run.sqlite") -> Result:
    given = ("--model", model, "--data", data, "--eps", eps, "--out", out, "--stages", "clean,interval,dual", "--quiet")
    return CliRunner().invoke(app, ["certify", *given, *flags])


def rows(text: str) -> list[str]:
    """What a table says of verdicts, without seconds."""
    return [line for line in text.splitlines() if "accuracy" in line]


def test_a_layout_is_a_transposition(place: Path) -> None:
    usual = call("first.npz")
    assert usual.exit_code == 0 and "4 │ 100.00 %" in usual.stdout, usual.stderr
    for number, (source, flags, model) in enumerate(
        [
            ("last.npz", ("--layout", "nhwc"), "nets:conv"),
            ("flat.npz", ("--shape", "8,6,3", "--layout", "nhwc"), "nets:conv"),
            ("first.npz", ("--layout", "nchw"), "nets:conv"),
            ("first.npz", ("--layout", "nchw:nhwc"), "nets:last"),
            ("last.npz", (), "nets:last"),
        ]
    ):
        same = call(source, *flags, model=model, out=f"{number}.sqlite")
        assert same.exit_code == 0 and rows(same.stdout) == rows(usual.stdout), (source, flags, same.stderr)


@pytest.mark.parametrize(
    ("source", "flags", "said"),
    [
        ("last.npz", (), "turn them by --layout nhwc, in Python by images.permute(0, 3, 1, 2)"),
        ("last.npz", ("--shape", "3,8,6"), "would scramble images [8, 6, 3]: it keeps the numbers in their order, and "
         "moves no axis. --layout nhwc"),
        ("first.npz", ("--shape", "8,6,3"), "--layout nchw:nhwc turns the axes"),
        ("flat.npz", ("--layout", "nhwc"), "--shape 32,32,3 --layout nhwc"),
        ("last.npz", ("--layout", "NHCW"), "did you mean 'nhwc'?"),
    ],
)  # fmt: skip
def test_another_layout_is_refused_with_the_way_out(
    place: Path, source: str, flags: tuple[str, ...], said: str
) -> None:
    result = call(source, *flags)
    assert result.exit_code == 2 and said in result.stderr, result.stderr


def test_in_python_and_from_files_too(tmp_path: Path) -> None:
    x, y = data()
    turned = x.permute(0, 2, 3, 1)
    for run in (lambda: certify(conv(), turned, y, 0.001, **QUICK), lambda: verify(conv(), turned, 0.001)):
        with pytest.raises(InputError, match="--layout nhwc, in Python"):
            run()
    program = torch.export.export(conv(), (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with pytest.raises(InputError, match="--layout nhwc"):
        certify(program, turned, y, 0.001, **QUICK)
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(np.ones((144, 2), np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [1, 3, 8, 6]), ("y", [1, 2]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(tmp_path / "net.onnx"))
    with pytest.raises(InputError, match="--layout nhwc"):
        certify(OnnxModel.load(tmp_path / "net.onnx"), turned, y % 2, 0.001, **QUICK)


def test_training_does_not_take_height_for_channels(place: Path) -> None:
    arguments = ["train", "--method", "standard", "--arch", "small", "--epochs", "1"]
    weights = []
    for source in ("last.npz", "first.npz"):
        given = ["--data", source, "--clip", "none", "--eps", "0.1", "--out", f"{source}.safetensors"]
        run = CliRunner().invoke(app, [*arguments, *given])
        assert run.exit_code == 0, run.output
        assert ("channels last: taken as --layout nhwc" in run.stderr) == (source == "last.npz")
        assert ("--layout nhwc" in run.stdout) == (source == "last.npz")  # so it is certified, too
        assert "4 images 3x8x6, from " in run.stderr
        weights.append((place / f"{source}.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("images", "asked", "kind", "said"),
    [
        (lambda x: x * 255, {"eps": 0.1}, UnitsWarning, "images range from 0"),
        (lambda x: x, {"eps": 8}, DataWarning, "eps 8 is larger than the whole range of the images"),
        (lambda x: x, {"eps": 0.5, "threat": "l2+4*linf"}, DataWarning, "eps 2 is larger"),
        (
            lambda x: x.permute(0, 2, 3, 1),
            {"eps": 0.1},
            DataWarning,
            "channels last, and the network takes their numbers",
        ),
    ],
)
def test_what_is_hardly_meant_is_warned_of(
    images: Callable[[Tensor], Tensor], asked: dict[str, Any], kind: type[Warning], said: str
) -> None:
    x, y = data()
    with pytest.warns(kind, match=said.replace("+", r"\+")):
        certify(mlp(), images(x), y, **asked, **QUICK)


def test_what_may_well_be_meant_is_not() -> None:
    x, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        certify(mlp(), x * 255, y, 8, clip=(0, 255), **QUICK)
        certify(mlp(), x, y, 8, threat="l1", **QUICK)
        certify(mlp(), torch.where(x > 0.5, x, torch.nan), y, 0.1, **QUICK)
        certify(mlp(), x.view(4, 12, 6, 2), y, 0.1, **QUICK)


def test_a_warning_is_a_line_of_the_command(place: Path) -> None:
    result = call("first.npz", eps="8")
    assert result.exit_code == 0
    assert [line.partition(" is larger")[0] for line in result.stderr.splitlines()] == ["note: eps 8"]


def test_a_network_of_one_output_is_refused_before_anything_runs(place: Path) -> None:
    result = call("first.npz", model="nets:one")
    assert result.exit_code == 2 and "--threshold" in result.stderr and not Path("run.sqlite").exists()
    x, y = data()
    with pytest.raises(InputError, match=r'question="threshold:0\.0"'):
        certify(nn.Sequential(nn.Flatten(), nn.Linear(144, 1)).eval(), x, y, 0.1, **QUICK)


def test_radii_as_texts() -> None:
    x, y = data()
    report = certify(conv(), x, y, "8/255", **QUICK)
    assert report.meta["settings"]["eps"] == 8 / 255 == Perturbation(" 8 / 255 ").eps
    assert torch.equal(LinfBall(x, "8/255").box()[1], LinfBall(x, 8 / 255).box()[1])
    assert verify(conv(), x, "1e-3", stages=["dual"]).summary() == verify(conv(), x, 1e-3, stages=["dual"]).summary()
    assert attack(conv(), x, "1/255", label=y, method="fgsm").error >= 0
    for wrong in ("8/0", "small", "", "8/255/2"):
        with pytest.raises(InputError, match="not a number, nor a fraction such as 8/255"):
            certify(conv(), x, y, wrong, **QUICK)
    with pytest.raises(InputError, match="give eps"):
        certify(conv(), x, y, **QUICK)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("60", 60.0),
        ("10s", 10.0),
        (" 1.5 min ", 90.0),
        ("2H", 7200.0),
        ("250ms", 0.25),
        (3, 3.0),
        ("inf", None),
        (None, None),
    ],
)
def test_seconds_as_texts(given: object, found: float | None) -> None:
    assert seconds_of(given, "budget") == found


@pytest.mark.parametrize("given", ["soon", "-1", "10 parsecs", "", "1.2.3", "nan", -1, float("nan"), True, [1, 2], {}])
def test_seconds_that_are_none(given: Any) -> None:
    x, y = data()
    for name in ("budget", "example_budget"):
        with pytest.raises(InputError, match=f"^{name} must be a number of seconds"):
            verify(mlp(), x, 0.1, **{name: given})
        with pytest.raises(InputError, match=f"^{name} must be a number of seconds"):
            certify(mlp(), x, y, 0.1, **{name: given}, **QUICK)


def test_limits_on_the_command_line(place: Path) -> None:
    assert call("first.npz", "--budget", "1min", "--example-budget", "10s").exit_code == 0
    refused = call("first.npz", "--budget", "soon", out="no.sqlite")
    assert refused.exit_code == 2 and "such as 60" in refused.stderr


class Stream(IterableDataset[tuple[Tensor, int]]):
    """A data set without a length."""

    def __iter__(self) -> Any:
        x, y = data()
        return iter(zip(x, y.tolist(), strict=True))


def test_torch_data_are_read_once_and_in_order() -> None:
    x, y = data()
    plain = certify(conv(), x, y, 0.001, **QUICK)
    reads: list[int] = []

    class Counted(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            reads.append(index)
            return super().__getitem__(index)

    pairs: list[Any] = [
        Counted(x, y),
        DataLoader(Counted(x, y), batch_size=3),
        Stream(),
        DataLoader(Stream(), batch_size=3),
    ]
    for source in pairs:
        report = certify(conv(), source, eps=0.001, **QUICK)
        assert report.meta["data"] == plain.meta["data"]
    assert reads == [0, 1, 2, 3] * 2


X, Y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("source", "labels", "said"),
    [
        (DataLoader(TensorDataset(X, Y), shuffle=True), None, "shuffle=False, or give its dataset"),
        (DataLoader(TensorDataset(X, Y), batch_size=3, drop_last=True), None, "drop_last=False"),
        (DataLoader(TensorDataset(X, Y), batch_size=None), None, "give its dataset"),
        (DataLoader(TensorDataset(X, Y)), Y, "leave labels out"),
        (TensorDataset(X), None, "1 things at a time"),
        (Subset(TensorDataset(X, Y), []), None, "no examples"),
        ([({"image": 1}, 2)], None, "images need labels"),
        (TensorDataset(X, torch.zeros(4, 2, dtype=torch.long)), None, "not of one shape"),
    ],
)
def test_torch_data_that_cannot_be_used(source: Any, labels: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        certify(nn.Linear(3, 2).eval(), source, labels, 0.1, **QUICK)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"threat": "Linf"}, "linf"), ({"threat": "l_inf"}, "linf"), ({"stages": ["duel"]}, "dual"),
        ({"stages": ["CROWN-IBP"]}, "crown"), ({"question": "topk:2"}, "top_k"), ({"semantics": "Float"}, "float32"),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_right(asked: dict[str, Any], meant: str) -> None:
    x, y = data()
    with pytest.raises(InputError, match=f"did you mean '{meant}'"):
        certify(mlp(), x, y, 0.1, **{**QUICK, **asked})


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("certfy",), "certify"),
        (("check", ".", "--semantics", "Real"), "real"),
        (("train", "--describe", "Layer-wise"), "layerwise"),
        (
            ("train", "--method", "standard", "--arch", "Smal", "--data", "first.npz", "--eps", "0", "--out", "w"),
            "small",
        ),
    ],
)
def test_a_name_that_is_nearly_right_on_the_command_line(place: Path, arguments: tuple[str, ...], meant: str) -> None:
    (place / "000000.cert").write_bytes(b"")
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2 and f"did you mean '{meant}'" in result.stderr.lower(), result.stderr
