"""Properties of several networks, of hidden nodes and outputs, and with products: one network is built of all."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from helpers.onnx_files import vnnlib, write_mlp
from typer.testing import CliRunner

from properties.vnnlib import Property, parse
from properties.vnnlib_text import PropertyText
from verifier.commands.app import app
from verifier.errors import InputError, UnsupportedError
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.networks import network_of
from verifier.vnncomp.recheck import complaint
from verifier.vnncomp.result_file import parsed

SAT, UNSAT = InstanceStatus.SAT, InstanceStatus.UNSAT
RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(6, 2)), RNG.normal(size=(2, 6)) / 3
V2 = "(vnnlib-version <2.0>)\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """f; g, which is f with rounded weights; one with weights >= 0, which rises; and one of two outputs."""
    monkeypatch.chdir(tmp_path)
    zeros = np.zeros(6), np.zeros(2)
    write_mlp(tmp_path / "f.onnx", [(FIRST, zeros[0]), (SECOND, zeros[1])])
    write_mlp(tmp_path / "g.onnx", [((FIRST * 64).round() / 64, zeros[0]), ((SECOND * 64).round() / 64, zeros[1])])
    write_mlp(tmp_path / "rising.onnx", [(abs(FIRST), zeros[0]), (abs(SECOND), zeros[1])])
    two_in_two_out(tmp_path / "two.onnx")
    return tmp_path


def two_in_two_out(path: Path, opset: int = 13) -> None:
    """(a, b) -> sum = a + b and, called "second", their product with b squared kept inside: a b and b b."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"], name="adds"),
        helper.make_node("Mul", ["a", "b"], ["inner"], name="multiplies"),
        helper.make_node("Relu", ["inner"], ["second"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in ("a", "b", "sum", "second")]
    graph = helper.make_graph(nodes, "two", ends[:2], ends[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))


def between(name: str, entries: int, low: str, high: str) -> str:
    return "".join(f"(assert (>= {name}[0,{i}] {low}))(assert (<= {name}[0,{i}] {high}))\n" for i in range(entries))


def pair(second: str, *constraints: str, more: str = "") -> str:
    """Two networks of two inputs and two outputs; the first one's input lies in a box."""
    return (
        f"{V2}(declare-network f (declare-input X Real [1,2]) (declare-output Y Real [1,2]))\n"
        f"(declare-network g {second} (declare-input U Real [1,2]) (declare-output V Real [1,2]))\n"
        + between("X", 2, "-0.5", "0.5") + more + "".join(f"(assert {c})\n" for c in constraints)
    )  # fmt: skip


SAME_INPUT = ("(= X[0,0] U[0,0])", "(== U[0,1] X[0,1])")


def command(*arguments: str) -> tuple[int, list[str], str]:
    run = CliRunner().invoke(app, ["vnnlib", *arguments, "--timeout", "20"])
    return run.exit_code, run.stdout.splitlines(), run.stderr


def prop(text: str) -> Property:
    return parse(PropertyText(text, "test.vnnlib"))


def differs(distance: str) -> str:
    parts = [
        f"(> {a} (+ {b} {distance}))" for k in "01" for a, b in ((f"Y[0,{k}]", f"V[0,{k}]"), (f"V[0,{k}]", f"Y[0,{k}]"))
    ]
    return f"(or {' '.join(parts)})"


def f_at(x: np.ndarray, rounded: bool = False) -> np.ndarray:
    first, second = ((w * 64).round() / 64 if rounded else w for w in (FIRST, SECOND))
    return second.astype(np.float32) @ np.maximum(first.astype(np.float32) @ x, 0)


def test_two_networks_that_see_the_same_input(place: Path) -> None:
    """Far apart nowhere, somewhere a little: the witness shows both, and is read back and replayed."""
    files = ("--network", "f=f.onnx", "--network", "g=g.onnx")
    Path("far.vnnlib").write_text(pair("(isomorphic-to f)", *SAME_INPUT, differs("0.2")))
    assert command("far.vnnlib", *files)[:2] == (0, ["unsat"])
    near = pair("", *SAME_INPUT, differs("0.001"))
    Path("near.vnnlib").write_text(near)
    code, lines, _ = command(*files, "near.vnnlib")
    assert (code, lines[0]) == (0, "sat")
    assert [line for line in lines if "Real" in line] == [f"{n} Real [1,2]" for n in "XYUV"]
    x, y, u, v = (np.array([float(n) for n in lines[k : k + 2]]) for k in (2, 5, 8, 11))
    assert (x == u).all() and np.abs(x).max() <= 0.5
    np.testing.assert_allclose(y, f_at(x), atol=1e-5)
    np.testing.assert_allclose(v, f_at(x, rounded=True), atol=1e-5)
    assert np.abs(y - v).max() > 0.001
    Path("r.txt").write_text("\n".join(lines) + "\n")
    _, witness = parsed(Path("r.txt"), prop(near))
    assert witness is not None and prop(near).witness(*witness) is not None
    Path("r.txt").write_text("\n".join([*lines[:8], "0.25", *lines[9:]]) + "\n")
    with pytest.raises(InputError, match="inputs differ that the property says are equal"):
        parsed(Path("r.txt"), prop(near))


def test_one_network_at_two_points(place: Path) -> None:
    """Rising weights: no output falls by more than a little where no input does; and some inputs make it rise."""
    box = between("U", 2, "-0.5", "0.5")
    above = ("(<= X[0,0] U[0,0])", "(= X[0,1] U[0,1])")
    Path("falls.vnnlib").write_text(pair("(equal-to f)", *above, "(> Y[0,0] (+ V[0,0] 0.05))", more=box))
    assert command("falls.vnnlib", "--network", "f=rising.onnx")[:2] == (0, ["unsat"])
    Path("rises.vnnlib").write_text(pair("(equal-to f)", *above, "(> V[0,0] (+ Y[0,0] 0.05))", more=box))
    code, lines, _ = command("rising.onnx", "rises.vnnlib")  # one file is enough
    assert (code, lines[0]) == (0, "sat")
    wanted = prop(Path("rises.vnnlib").read_text())
    Path("r.txt").write_text("\n".join(lines) + "\n")
    instance = Instance(Path("rising.onnx"), Path("rises.vnnlib"), 60.0, None)
    assert complaint(instance, SAT, Path("r.txt")) == ""
    assert wanted.inputs == 3 and wanted.tied == (0, 1, 2, 1)


TWO = (
    V2 + "(declare-network N (declare-input P Real [1,2]{a}) (declare-input Q Real [1,2]{b})\n"
    "{hidden} (declare-output S Real [1,2]{s}) (declare-output T Real [1,2]{t}))\n"
    + between("P", 2, "0.0", "1.0") + between("Q", 2, "-2.0", "-1.0")
)  # fmt: skip
NAMED = {"a": ' "b"', "b": ' "a"', "s": ' "second"', "t": ' "sum"', "hidden": ""}
UNNAMED = dict.fromkeys(("a", "b", "s", "t", "hidden"), "")
HIDDEN = UNNAMED | {"hidden": '(declare-hidden H Real [1,2] "inner")'}
BY_NODE = UNNAMED | {"hidden": '(declare-hidden H Real [1,2] "multiplies")'}
ASKED = [
    (UNNAMED, "(>= S[0,0] 0.1)", UNSAT),  # the sum is at most 0
    (UNNAMED, "(<= S[0,0] -1.9)", SAT),
    (UNNAMED, "(> T[0,1] 0.001)", UNSAT),  # relu of a product <= 0
    (NAMED, "(>= T[0,0] 0.1)", UNSAT),  # the same two under each other's names
    (NAMED, "(> S[0,1] 0.001)", UNSAT),
    (NAMED, "(<= T[0,0] -1.9)", SAT),
    (HIDDEN, "(<= H[0,0] -2.001)", UNSAT),
    (HIDDEN, "(<= H[0,0] -1.9)", SAT),
    (BY_NODE, "(and (<= H[0,0] -1.5) (>= S[0,0] -0.9))", SAT),
    (BY_NODE, "(> (+ T[0,0] H[0,0]) 0.001)", UNSAT),
]


@pytest.mark.parametrize(("names", "constraint", "status"), ASKED)
def test_several_outputs_names_and_hidden_nodes(
    place: Path, names: dict[str, str], constraint: str, status: InstanceStatus
) -> None:
    Path("p.vnnlib").write_text(TWO.format(**names) + f"(assert {constraint})")
    code, lines, said = command("two.onnx", "p.vnnlib")
    assert (code, lines[0]) == (0, status.value), said
    if status is SAT:
        Path("r.txt").write_text("\n".join(lines) + "\n")
        assert complaint(Instance(Path("two.onnx"), Path("p.vnnlib"), 60.0, None), SAT, Path("r.txt")) == ""
        Path("other.txt").write_text(
            "\n".join(["sat", *(line if " " in line else "-1.0" for line in lines[1:])]) + "\n"
        )
        assert complaint(Instance(Path("two.onnx"), Path("p.vnnlib"), 60.0, None), SAT, Path("other.txt")) != ""


PRODUCTS = {
    "(>= (* X_0 X_1) 0.26)": UNSAT,
    "(>= (* X_0 X_1) 0.24)": SAT,
    "(<= (* X_0 X_0) -0.01)": UNSAT,  # a square
    "(>= (* X_0 X_0 X_1) 0.12)": SAT,
    "(>= (* X_0 X_0 X_1) 0.13)": UNSAT,
    "(<= (* (+ X_0 X_1) (- X_0 X_1)) -0.26)": UNSAT,  # x0^2 - x1^2
    "(>= (* Y_0 X_0) 5.0)": UNSAT,
    "(and (>= (* Y_0 Y_1) 0.01) (>= X_0 0.1))": None,
    "(>= (+ (* X_0 Y_0) (* -1.0 X_0 Y_0) X_0) 0.6)": UNSAT,  # nothing is left of the products
}


@pytest.mark.parametrize("constraint", PRODUCTS)
def test_products_of_variables(place: Path, constraint: str) -> None:
    """By both answers' own words: samples agree, a witness is one in exact arithmetic."""
    text = vnnlib([("-0.5", "0.5")] * 2, 2, constraint)
    Path("p.vnnlib").write_text(text)
    wanted = prop(text)
    code, lines, said = command("f.onnx", "p.vnnlib")
    status = InstanceStatus(lines[0])
    assert code == 0 and status is (PRODUCTS[constraint] or status) and status.solved, said
    if status is SAT:
        Path("r.txt").write_text("\n".join(lines) + "\n")
        assert complaint(Instance(Path("f.onnx"), Path("p.vnnlib"), 60.0, None), SAT, Path("r.txt")) == ""
        return
    for x in np.random.default_rng(1).uniform(-0.5, 0.5, (300, 2)).astype(np.float32):
        assert wanted.witness(x.tolist(), f_at(x.astype(np.float32)).tolist()) is None


def test_certificates_of_what_is_built(place: Path) -> None:
    """One for each case, checked against the network beside them, and as proofs of the property."""
    Path("far.vnnlib").write_text(pair("", *SAME_INPUT, differs("0.3")))
    files = ("--network", "f=f.onnx", "--network", "g=g.onnx")
    assert command("far.vnnlib", *files, "--certificates", "proofs")[:2] == (0, ["unsat"])
    checked = CliRunner().invoke(app, ["check", "proofs", "--property", "far.vnnlib"])
    assert checked.exit_code == 0 and "together they prove that far.vnnlib" in checked.stdout, checked.output
    Path("products.vnnlib").write_text(vnnlib([("-0.5", "0.5")] * 2, 2, "(>= (* X_0 Y_0) 5.0)"))
    assert command("f.onnx", "products.vnnlib", "--certificates", "others")[:2] == (0, ["unsat"])
    for more in ([], ["--model", "f.onnx"]):
        checked = CliRunner().invoke(app, ["check", "others", "--property", "products.vnnlib", *more])
        assert checked.exit_code == 0 and "together they prove" in checked.stdout, checked.output
    other = CliRunner().invoke(app, ["check", "others", "--property", "products.vnnlib", "--model", "g.onnx"])
    assert other.exit_code == 1
    several = CliRunner().invoke(app, ["check", "proofs", "--property", "far.vnnlib", "--model", "f.onnx"])
    assert several.exit_code == 2 and "leave --model out" in several.stderr


@pytest.mark.parametrize("more", [["--in-process"], []])
def test_a_list_of_instances_names_networks(place: Path, more: list[str]) -> None:
    """Each in its own process as well; a witness is checked again from the files of both."""
    Path("far.vnnlib").write_text(pair("", *SAME_INPUT, differs("0.2")))
    Path("near.vnnlib").write_text(pair("", *SAME_INPUT, differs("0.001")))
    networks = "f=f.onnx;g=g.onnx"
    Path("list.csv").write_text(f"{networks},far.vnnlib,20,unsat\n{networks},near.vnnlib,20,sat\n")
    run = CliRunner().invoke(app, ["bench", "list.csv", "--out", "results", *more])
    assert run.exit_code == 0, run.output
    near = Instance(
        Path("f.onnx"), Path("near.vnnlib"), 20.0, SAT, named=(("f", Path("f.onnx")), ("g", Path("g.onnx")))
    )
    Path("r.txt").write_text(
        "\n".join(command("near.vnnlib", "--network", "f=f.onnx", "--network", "g=g.onnx")[1]) + "\n"
    )
    assert complaint(near, SAT, Path("r.txt")) == ""
    swapped = Instance(
        near.network, near.property_file, 20.0, SAT, named=(("f", Path("f.onnx")), ("g", Path("f.onnx")))
    )
    assert complaint(swapped, SAT, Path("r.txt")) == "sat, but the witness does not replay in onnxruntime"
    Path("twice.csv").write_text("f=f.onnx;f=g.onnx,far.vnnlib,20")
    twice = CliRunner().invoke(app, ["bench", "twice.csv"])
    assert twice.exit_code == 2 and "named twice" in twice.stderr


WRONG_FILES = {
    "one file for two": (("f.onnx", "pair.vnnlib"), "takes --network f=FILE --network g=FILE"),
    "one missing": (("pair.vnnlib", "--network", "f=f.onnx"), "g has none"),
    "another name": (("pair.vnnlib", "--network", "f=f.onnx", "--network", "h=g.onnx"), "there is no network h"),
    "of the same": (("same.vnnlib", "--network", "f=f.onnx", "--network", "g=g.onnx"), "g is f's"),
    "no names": (("old.vnnlib", "--network", "f=f.onnx"), "names no network"),
    "another shape": (("f.onnx", "shape.vnnlib"), "declares its input P as [1, 3], the network's input is [1, 2]"),
    "a hidden shape": (("two.onnx", "tall.vnnlib"), "declares its hidden H as [2, 1]"),
    "no such value": (("two.onnx", "value.vnnlib"), "no value, and no node with one output, called 'outer'"),
    "no such output": (
        ("two.onnx", "name.vnnlib"),
        "no output 'third', which the property calls S; it has sum, second",
    ),
    "one output of two": (
        ("two.onnx", "one.vnnlib"),
        "2 outputs (sum, second); exactly one is needed: choose",
    ),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_files_and_declarations_that_do_not_fit(place: Path, name: str) -> None:
    one = "(declare-network N (declare-input P Real {}) {} (declare-output S Real [1,2]))" + between("P", 2, "0", "1")
    texts = {
        "pair": pair("", *SAME_INPUT, "(> Y[0,0] 9)"), "same": pair("(equal-to f)", *SAME_INPUT, "(> Y[0,0] 9)"),
        "old": vnnlib([("0", "1")] * 2, 2), "value": TWO.format(**HIDDEN).replace("inner", "outer"),
        "tall": TWO.format(**HIDDEN).replace("H Real [1,2]", "H Real [2,1]"),
        "shape": V2 + one.format("[1,3]", '(declare-hidden H Real [1,6] "z0")') + "(assert (= P[0,2] 0))",
        "name": TWO.format(**NAMED).replace('"second"', '"third"'),
        "one": V2 + "(declare-network N (declare-input P Real [1,2]) (declare-input Q Real [1,2]) "
        "(declare-output S Real [1,2]))" + between("P", 2, "0", "1") + between("Q", 2, "0", "1"),
    }  # fmt: skip
    for file, text in texts.items():
        Path(f"{file}.vnnlib").write_text(text)
    arguments, said = WRONG_FILES[name]
    code, lines, stderr = command(*arguments)
    assert (code, lines) == (2, ["error"]) and said in stderr, stderr


def test_networks_of_different_opsets_and_packed_files(place: Path) -> None:
    two_in_two_out(place / "old.onnx", opset=12)
    sides = [
        V2 + f"(declare-network {n} (declare-input {n}A Real [1,2]) (declare-input {n}B Real [1,2]) "
        f"(declare-output {n}S Real [1,2]) (declare-output {n}T Real [1,2]))"
        for n in "fg"
    ]
    boxes = "".join(between(f"{n}{k}", 2, "0", "1") for n in "fg" for k in "AB")
    wanted = prop(sides[0] + sides[1].removeprefix(V2) + boxes + "(assert (>= fS[0,0] (+ gS[0,0] 5)))")
    with pytest.raises(UnsupportedError, match=r"different opsets.*f of 13, g of 12.*version_converter"):
        network_of(wanted, {"f": place / "two.onnx", "g": place / "old.onnx"})
    (place / "two.onnx.gz").write_bytes(gzip.compress((place / "two.onnx").read_bytes()))
    model = network_of(wanted, {"f": place / "two.onnx", "g": place / "two.onnx.gz"})
    assert (model.input_shape, model.outputs) == ((8,), 8)


@pytest.mark.parametrize(
    "options", [["--network", "f"], ["--network", "f=a", "--network", "f=b"], ["--network", "f=a", "x"]]
)
def test_bad_usage(place: Path, options: list[str]) -> None:
    run = CliRunner().invoke(app, ["vnnlib", "p.vnnlib", *options])
    assert run.exit_code == 2 and run.stdout == "" and "error: " in run.stderr
