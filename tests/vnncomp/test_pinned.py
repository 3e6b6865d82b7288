"""Inputs between whose bounds there is no float32 number: a network in float32 is asked about their float32 hull."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.onnx_files import vnnlib, write_absolute, write_mlp
from typer.testing import CliRunner

from properties.vnnlib import Property, parse
from properties.vnnlib_hull import distance, float32_hull, widened_inputs
from properties.vnnlib_text import PropertyText
from verifier.checker.audit import audit, certificates_in
from verifier.commands.app import app
from verifier.graph.canonical import canonical
from verifier.graph.onnx_model import OnnxModel
from verifier.vnncomp.answer import InstanceAnswer, InstanceStatus
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.certificates import uncovered, write_certificates
from verifier.vnncomp.decide import decide
from verifier.vnncomp.recheck import complaint

ABOVE = float(np.float32(0.1))  # 0.100000001490116...
BELOW = float(np.nextafter(np.float32(0.1), np.float32(0)))


def prop(*arguments: object) -> Property:
    return parse(PropertyText(vnnlib(*arguments), "test.vnnlib"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def absolute(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return OnnxModel.load(write_absolute(tmp_path_factory.mktemp("nets") / "absolute.onnx"))


# --- the set ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "hull"),
    [
        (["(>= X_0 0.1)", "(<= X_0 0.1)"], (BELOW, ABOVE)),
        (["(= X_0 0.1)"], (BELOW, ABOVE)),
        (["(= (* 3 X_0) 0.3)"], (BELOW, ABOVE)),
        (["(> X_0 0.1)", "(< X_0 0.100000001)"], (BELOW, ABOVE)),
        (["(> X_0 0.5)", "(<= X_0 0.500000001)"], (0.5, float(np.nextafter(np.float32(0.5), np.float32(1))))),
        (["(= X_0 -0.1)"], (-ABOVE, -BELOW)),
        (["(= X_0 1e-50)"], (0.0, 2.0**-149)),
    ],
)
def test_an_interval_without_float32_numbers_gets_its_hull(bounds: list[str], hull: tuple[float, float]) -> None:
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)" + "".join(f"(assert {bound})" for bound in bounds)
    asked = parse(PropertyText(text + "(assert (>= Y_0 0))", "test.vnnlib"))
    held = float32_hull(asked)
    assert (held.cases[0].lower, held.cases[0].upper) == ((Fraction(hull[0]),), (Fraction(hull[1]),))
    assert [held.admits([x]) for x in hull] == [True, True]
    assert not any(asked.admits([x]) for x in hull)
    assert widened_inputs(asked, held) == 1
    step = hull[1] - hull[0]
    assert all(0 <= distance(asked.cases[0], [x]) <= step for x in hull)
    assert float32_hull(held) is held


@pytest.mark.parametrize(
    "bounds", [("0", "0.1"), ("0.5", "0.5"), ("0.1", "0.1000001"), ("1e39", "1e39"), ("-0.1", "0")]
)
def test_other_intervals_stay_as_they_are(bounds: tuple[str, str]) -> None:
    asked = prop([bounds], 1, "(>= Y_0 0)")
    assert float32_hull(asked) is asked


def test_of_several_inputs_and_cases_only_those_that_need_it_change() -> None:
    boxes = "(or (and (<= X_0 0.25) (= X_1 0.1) (>= Y_0 1)) (and (>= X_0 0.3) (= X_1 0.5) (>= Y_0 2)))"
    asked = prop([("0", "1"), ("0", "1")], 1, boxes)
    held = float32_hull(asked)
    assert held.cases[1] is asked.cases[1]
    assert (held.cases[0].lower[0], held.cases[0].upper[0]) == (0, Fraction(1, 4))
    assert (held.cases[0].lower[1], held.cases[0].upper[1]) == (Fraction(BELOW), Fraction(ABOVE))
    assert held.cases[0].clauses == asked.cases[0].clauses


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_witness_lies_in_the_hull_and_says_how_far_from_the_decimals(absolute: OnnxModel) -> None:
    asked = prop([("0.1", "0.1"), ("0.1", "0.1")], 2, "(>= Y_0 0.1)")
    answer = decide(absolute, asked, 20.0)
    assert answer.status is InstanceStatus.SAT and answer.witness is not None
    assert answer.widened == 2
    assert set(answer.witness.x) <= {BELOW, ABOVE}
    assert 0 < answer.witness.distance < ABOVE - BELOW
    assert float32_hull(asked).witness(answer.witness.x, answer.witness.y) == (0, 0)


def test_proofs_are_of_the_hull(absolute: OnnxModel, tmp_path: Path) -> None:
    # y0 = x0 + x1 is at most 0.2 at the decimals, and 0.2 + 3e-9 in the hull
    low, high = ("(>= Y_0 0.200000001)", "(>= Y_0 0.200000004)")
    within = prop([("0.1", "0.1"), ("0.1", "0.1")], 2, low)
    assert decide(absolute, within, 20.0).status is not InstanceStatus.UNSAT
    asked = prop([("0.1", "0.1"), ("0.1", "0.1")], 2, high)
    answer = decide(absolute, asked, 20.0)
    assert (answer.status, answer.widened) == (InstanceStatus.UNSAT, 2)
    write_certificates(answer, tmp_path)
    found = list(audit(certificates_in([tmp_path]), canonical(absolute.graph).network))
    assert [one.valid for one in found] == [True]
    assert uncovered(found, asked) == []
    assert uncovered(found, float32_hull(asked)) == []
    assert uncovered(found, prop([("0.1", "0.1"), ("0.1", "0.1000001")], 2, high)) != []


def test_certificates_that_claim_the_hull_have_to_cover_it(absolute: OnnxModel, tmp_path: Path) -> None:
    asked = prop([("0.1", "0.1"), ("0.1", "0.1")], 2, "(>= Y_0 0.3)")
    exact = decide(_Wide(absolute), asked, 20.0)  # of the decimals alone
    assert (exact.status, exact.widened) == (InstanceStatus.UNSAT, 0)
    for name, widened, covers in (("decimals", 0, True), ("claimed", 2, False)):
        answer = InstanceAnswer(exact.status, 0.0, certificates=exact.certificates, widened=widened)
        write_certificates(answer, tmp_path / name)
        found = list(audit(certificates_in([tmp_path / name]), canonical(absolute.graph).network))
        assert [one.valid for one in found] == [True]
        assert (uncovered(found, asked) == []) is covers


class _Wide:
    """A network as one that computes in float64."""

    precision = torch.float64

    def __init__(self, model: OnnxModel) -> None:
        self.graph, self.input_shape, self.outputs = model.graph, model.input_shape, model.outputs
        self.run, self.check = model.run, model.check


def test_networks_in_float64_are_asked_about_the_decimals(absolute: OnnxModel) -> None:
    asked = prop([("0.1", "0.1"), ("0.1", "0.1")], 2, "(>= Y_0 0.1)")
    answer = decide(_Wide(absolute), asked, 5.0)
    assert (answer.status, answer.widened) == (InstanceStatus.UNKNOWN, 0)


@pytest.mark.parametrize(
    ("constraint", "status"),
    [
        ("(and (>= X_0 X_1) (>= Y_0 0.1))", InstanceStatus.SAT),  # holds of both ends, and of (above, below)
        ("(and (>= X_0 (+ X_1 0.0000001)) (>= Y_0 0.1))", InstanceStatus.UNSAT),  # further apart than the hull is wide
        ("(and (= X_0 X_1) (>= Y_0 0.1))", InstanceStatus.SAT),
        ("(or (and (< X_0 0.1) (>= Y_0 0.0)) (and (>= X_1 X_0) (>= Y_0 0.3)))", InstanceStatus.UNSAT),  # no X_0 < 0.1
    ],
)
def test_constraints_between_inputs(absolute: OnnxModel, constraint: str, status: InstanceStatus) -> None:
    asked = prop([("0.1", "0.1"), ("0.1", "0.1")], 2, constraint)
    answer = decide(absolute, asked, 20.0)
    assert answer.status is status, answer.reason
    if answer.witness is not None:
        assert float32_hull(asked).witness(answer.witness.x, answer.witness.y) is not None


@pytest.mark.parametrize("seed", range(6))
def test_answers_are_those_of_all_float32_points_of_the_hull(tmp_path: Path, seed: int) -> None:
    """Networks that see which float32 number of its hull each input is, and are convex: their largest value over the
    hull is at one of its corners, which are the float32 numbers."""
    rng = np.random.default_rng(seed)
    decimals = [f"{value:.4f}1" for value in rng.uniform(-3, 3, 3)]
    pinned = rng.random(3) < 0.7
    pinned[seed % 3] = True
    ends, bounds = [], []
    for text, is_pinned in zip(decimals, pinned, strict=True):
        near = np.float32(text)
        low, high = sorted([near, np.nextafter(near, np.float32(np.inf if float(near) < float(text) else -np.inf))])
        assert float(low) < float(text) < float(high)
        ends.append((low, high))
        bounds.append((text, text) if is_pinned else (str(Decimal(float(low))), str(Decimal(float(high)))))
    lower, steps = np.array([a for a, _ in ends]), np.array([float(b) - float(a) for a, b in ends])
    seen = np.diag(1 / steps), -lower.astype(np.float64) / steps  # 0 at the lower end, 1 at the upper one, exactly
    convex = rng.normal(size=(5, 3)), rng.normal(size=5)
    layers = [seen, convex, (np.abs(rng.normal(size=(1, 5))), rng.normal(size=1))]
    model = OnnxModel.load(write_mlp(tmp_path / "net.onnx", layers))
    points = torch.tensor(list(product(*ends)))
    top = float(model.run(points.reshape(-1, *model.input_shape), None).max())
    for threshold, status in ((top - 1e-3, InstanceStatus.SAT), (top + 1e-3, InstanceStatus.UNSAT)):
        asked = prop(bounds, 1, f"(>= Y_0 {threshold:.6f})")
        answer = decide(model, asked, 20.0)
        assert (answer.status, answer.widened) == (status, int(pinned.sum())), answer.reason
        if answer.witness is not None:
            assert all(x in pair for x, pair in zip(answer.witness.x, ends, strict=True))
            assert answer.witness.distance < steps.max()


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_command_and_the_check_say_what_the_answer_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network, files = write_absolute(tmp_path / "net.onnx"), {"sat": "(>= Y_0 0.1)", "unsat": "(>= Y_0 0.3)"}
    for name, constraint in files.items():
        Path(f"{name}.vnnlib").write_text(vnnlib([("0.1", "0.1"), ("0.1", "0.1")], 2, constraint))
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "sat.vnnlib", "--out", "r.txt"])
    assert (run.exit_code, run.stdout) == (0, "sat\n")
    assert "2 of 2 inputs have no float32 number between their bounds" in run.stderr
    assert "largest distance of the witness's inputs from their bounds in the file: " in run.stderr
    instance = Instance(network, Path("sat.vnnlib"), 20.0, InstanceStatus.SAT)
    assert complaint(instance, InstanceStatus.SAT, Path("r.txt")) == ""
    Path("r.txt").write_text(
        Path("r.txt").read_text().replace("(X_0 0.0", "(X_0 0.00").replace("(X_0 0.1", "(X_0 0.25")
    )
    assert "witness" in complaint(instance, InstanceStatus.SAT, Path("r.txt"))
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "unsat.vnnlib", "--certificates", "certs"])
    assert (run.exit_code, run.stdout) == (0, "unsat\n")
    run = CliRunner().invoke(
        app, ["check", "certs", "--model", "net.onnx", "--property", "unsat.vnnlib", "--jobs", "1"]
    )
    assert run.exit_code == 0
    assert "has no counterexample, in the float32 hull of its boxes" in run.output


@pytest.mark.parametrize("pinned", [False, True])
def test_boxes_that_are_read_as_a_table_have_hulls_too(pinned: bool) -> None:
    """A hundred boxes in one disjunction: the last one's input is 0.1, or there is room for a float32 number in all."""
    low = [Decimal(k) / 8 for k in range(99)] + [Decimal("0.1")]
    high = [v + Decimal("0.05") for v in low[:-1]] + [low[-1] if pinned else low[-1] + Decimal("0.05")]
    boxes = " ".join(f"(and (>= X_0 {a}) (<= X_0 {b}) (>= Y_0 1.0))" for a, b in zip(low, high, strict=True))
    declared = "(declare-const X_0 Real)(declare-const Y_0 Real)"
    asked = parse(PropertyText(f"{declared}(assert (or {boxes}))", "table.vnnlib"))
    assert not isinstance(asked.cases, tuple)
    held = float32_hull(asked)
    assert (held is asked) is not pinned
    if pinned:
        changed = [k for k in range(100) if held.cases[k] != asked.cases[k]]
        assert changed == [99] and widened_inputs(asked, held) == 1
        assert held.cases[99].lower[0] == Fraction(BELOW) and held.cases[99].upper[0] == Fraction(
            float(np.float32(0.1))
        )
