"""Deciding instances: unsat only with a proof of every case, sat only with a witness that holds exactly."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.onnx_files import vnnlib, write_absolute, write_mlp
from typer.testing import CliRunner

from properties.vnnlib import Property, parse
from properties.vnnlib_text import PropertyText
from verifier.checker.audit import audit, certificates_in
from verifier.commands.app import app
from verifier.errors import InputError
from verifier.graph.canonical import canonical
from verifier.graph.onnx_model import OnnxModel
from verifier.vnncomp.answer import InstanceAnswer, InstanceStatus, Witness
from verifier.vnncomp.certificates import uncovered, write_certificates
from verifier.vnncomp.decide import decide
from verifier.vnncomp.joined import with_input
from verifier.vnncomp.ladder import InstanceLadder
from verifier.vnncomp.progress import InstanceProgress
from verifier.vnncomp.result_file import decimal, parsed, render
from verifier.vnncomp.solve import solve

ROOT = Path(__file__).resolve().parents[2]
BOX = [("0", "0.5"), ("-0.5", "0.5")]


def prop(text: str) -> Property:
    return parse(PropertyText(text, "test.vnnlib"))


@pytest.fixture(scope="module")
def absolute(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return OnnxModel.load(write_absolute(tmp_path_factory.mktemp("nets") / "absolute.onnx"))


def assert_holds(answer: InstanceAnswer, model: OnnxModel, wanted: Property) -> None:
    """The witness, checked from scratch."""
    assert answer.witness is not None
    x = np.array(answer.witness.x)
    assert (x.astype(np.float32) == x).all()
    y = model.run(torch.tensor(x).float().reshape(1, *model.input_shape), None)[0].double().tolist()
    assert tuple(y) == answer.witness.y
    assert wanted.witness(answer.witness.x, y) is not None


DECIDED = {
    "(>= Y_0 0.5)": InstanceStatus.SAT,
    "(>= Y_0 1.0)": InstanceStatus.SAT,  # at one corner alone
    "(>= Y_0 1.001)": InstanceStatus.UNSAT,
    "(and (>= Y_0 0.2) (<= Y_1 -0.9))": InstanceStatus.SAT,
    "(and (>= Y_0 0.2) (>= Y_1 0.2))": InstanceStatus.UNSAT,  # each alone is possible, both are not: y1 = -y0
    "(or (>= Y_0 2.0) (>= Y_1 0.75))": InstanceStatus.SAT,
    "(or (>= Y_0 2.0) (>= Y_1 2.0) (and (>= Y_0 0.1) (>= Y_1 0.1)))": InstanceStatus.UNSAT,
    "(or (and (<= X_1 -0.25) (>= Y_0 0.5)) (and (>= X_1 0.25) (>= Y_1 0.5)))": InstanceStatus.UNSAT,
    "(or (and (<= X_1 -0.25) (>= Y_0 0.5)) (and (>= X_1 0.25) (>= Y_0 0.5)))": InstanceStatus.SAT,
    "(>= Y_0 (+ X_0 X_1 0.001))": InstanceStatus.UNSAT,  # y0 <= x0 + x1 wherever x0 + x1 >= 0, and 0 where not
    "(>= Y_0 (+ X_0 (* 0.5 X_1)))": InstanceStatus.SAT,
    "(and (<= (+ X_0 X_1) 0.1) (>= Y_0 0.5))": InstanceStatus.UNSAT,
    "(>= X_0 0.6)": InstanceStatus.UNSAT,  # the box is empty
    "(<= X_0 0.5)": InstanceStatus.SAT,  # every input
}


@pytest.mark.parametrize("constraint", DECIDED)
def test_small_instances_are_decided(absolute: OnnxModel, constraint: str) -> None:
    wanted = prop(vnnlib(BOX, 2, constraint))
    if constraint.startswith("(>= Y_0 (+ X_0 X_1"):
        wanted = prop(vnnlib([("0.1", "0.5"), ("-0.1", "0.5")], 2, constraint))
    answer = decide(absolute, wanted, 30.0)
    assert answer.status is DECIDED[constraint], answer.reason
    if answer.status is InstanceStatus.SAT:
        assert_holds(answer, absolute, wanted)
    else:
        assert answer.witness is None
        assert len(answer.decided_by) == len(wanted.cases)


@pytest.mark.parametrize("seed", range(3))
def test_answers_about_random_networks_agree_with_samples(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [3, 8, 8, 2]
    layers = [(rng.normal(size=(b, a)) / a**0.5, rng.normal(size=b) * 0.1) for a, b in pairwise(sizes)]
    model = OnnxModel.load(write_mlp(tmp_path / "net.onnx", layers))
    x = torch.from_numpy(rng.uniform(-1, 1, (20_000, 3)))
    y = model.run(x, torch.float64)
    for share in (0.9, 1.3):
        top = float(y[:, 0].max())
        threshold = f"{top - abs(top) * (1 - share) if share < 1 else top + abs(top) * (share - 1):.4f}"
        wanted = prop(vnnlib([("-1", "1")] * 3, 2, f"(>= Y_0 {threshold})"))
        answer = decide(model, wanted, 5.0)
        reached = bool((y[:, 0] >= float(threshold)).any())
        assert not (answer.status is InstanceStatus.UNSAT and reached)
        if answer.status is InstanceStatus.SAT:
            assert_holds(answer, model, wanted)
        if share == 0.9:
            assert answer.status is InstanceStatus.SAT


def test_many_starts_break_all_rows_of_a_clause(tmp_path: Path) -> None:
    """Two outputs are to be within 0.001 of one point's, before any box is split."""
    rng = np.random.default_rng(3)
    sizes = [3, 24, 24, 2]
    layers = [(rng.normal(size=(b, a)) / a**0.5, rng.normal(size=b) * 0.3) for a, b in pairwise(sizes)]
    model = OnnxModel.load(write_mlp(tmp_path / "net.onnx", layers))
    low = model.run(torch.tensor([[0.42, -0.77, 0.13]]).float(), torch.float64)[0].tolist()
    near = " ".join(f"(>= Y_{i} {v - 1e-3:.6f}) (<= Y_{i} {v + 1e-3:.6f})" for i, v in enumerate(low))
    wanted = prop(vnnlib([("-1", "1")] * 3, 2, f"(and {near})"))
    answer = decide(model, wanted, 30.0)
    assert answer.status is InstanceStatus.SAT and set(answer.decided_by) == {"attack"}
    assert_holds(answer, model, wanted)


def test_a_strict_tie_is_no_witness(absolute: OnnxModel) -> None:
    assert decide(absolute, prop(vnnlib(BOX, 2, "(> Y_0 1.0)")), 20.0).status in (
        InstanceStatus.UNKNOWN,
        InstanceStatus.UNSAT,
    )


def test_many_boxes_are_searched_quickly_before_any_is_searched_deeply(absolute: OnnxModel) -> None:
    boxes = " ".join(
        f"(and (>= X_0 {k / 700}) (<= X_0 {(k + 1) / 700}) (>= Y_0 {0.9 if k == 299 else 1.1}))" for k in range(300)
    )
    wanted = prop(vnnlib(BOX, 2, f"(or {boxes})"))
    assert len(wanted.cases) == 300
    answer = decide(absolute, wanted, 30.0)
    assert answer.status is InstanceStatus.SAT or answer.status is InstanceStatus.UNSAT
    assert answer.status is (InstanceStatus.SAT if 300 / 700 + 0.5 >= 0.9 else InstanceStatus.UNSAT)


def test_time_is_kept_and_said(absolute: OnnxModel) -> None:
    answer = decide(absolute, prop(vnnlib(BOX, 2, "(>= Y_0 1.0)")), 0.0)
    assert answer.status is InstanceStatus.TIMEOUT
    assert "time" in answer.reason


def test_stages_of_ones_own_and_what_they_leave(absolute: OnnxModel) -> None:
    wanted = prop(vnnlib(BOX, 2, "(>= Y_0 0.9)"))
    assert decide(absolute, wanted, 9.0, stages=InstanceLadder((), ("interval",))).status is InstanceStatus.UNKNOWN
    assert decide(absolute, wanted, 9.0, stages=InstanceLadder(("interval",), ("attack",))).status is InstanceStatus.SAT


def test_files_that_do_not_belong_together(absolute: OnnxModel) -> None:
    with pytest.raises(InputError, match="the network has 2 and 2"):
        decide(absolute, prop(vnnlib(BOX[:1], 2)), 1.0)


def test_the_joined_graph_gives_output_and_input(absolute: OnnxModel) -> None:
    x = torch.rand(4, *absolute.input_shape)
    joined = with_input(absolute.graph)
    assert torch.equal(joined.forward(x), torch.cat([absolute.graph.forward(x).flatten(1), x.flatten(1)], 1))


# --- result files -----------------------------------------------------------------------------------------------------


def test_decimals_are_equal_to_their_floats() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [*torch.randn(200, generator=generator).double().tolist(), 0.0, 1e-45, 3.4028234663852886e38, -0.5]
    for value in values:
        assert Fraction(decimal(value)) == Fraction(value)
        assert float(decimal(value)) == value
    assert decimal(0.5) == "0.5"


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_result_files_are_read_back(version: str, tmp_path: Path) -> None:
    text = vnnlib(BOX, 1, "(<= Y_0 1)")
    if version == "2.0":
        text = (
            "(vnnlib-version <2.0>)(declare-network N (declare-input X float32 [1,2]) (declare-output Z float32 [1]))"
        )
        text += "(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0) (>= X[0,1] 0.0) (<= X[0,1] 1.0)))"
    wanted, path = prop(text), tmp_path / "r.txt"
    x = (float(np.float32(0.1)), 0.25)
    path.write_text(render(InstanceAnswer(InstanceStatus.SAT, 1.0, Witness(x, (0.75,), 0, 0)), wanted))
    assert path.read_text().startswith("sat\n" + ("((X_0 0.1" if version == "1.0" else "X float32 [1,2]\n0.1"))
    assert parsed(path, wanted) == (InstanceStatus.SAT, ([*x], [0.75]))
    assert render(InstanceAnswer(InstanceStatus.UNSAT, 1.0), wanted) == "unsat\n"
    for bad in ("", "maybe\n", "sat\n((X_0 1.0)\n(Y_0 1.0))\n", "sat\n((X_0 a)\n(X_1 1)\n(Y_0 1.0))\n"):
        path.write_text(bad)
        with pytest.raises(InputError):
            parsed(path, wanted)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_absolute(tmp_path / "net.onnx")
    (tmp_path / "sat.vnnlib").write_text(vnnlib(BOX, 2, "(>= Y_0 0.5)"))
    (tmp_path / "unsat.vnnlib").write_text(vnnlib(BOX, 2, "(>= Y_0 1.5)"))
    (tmp_path / "bad.vnnlib").write_text("(assert")
    return tmp_path


def test_the_command_answers(place: Path) -> None:
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "sat.vnnlib"])
    assert (run.exit_code, run.stdout.splitlines()[0]) == (0, "sat")
    assert run.stdout.splitlines()[1].startswith("((X_0 ")
    assert "decided by" in run.stderr
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "sat.vnnlib", "--out", "r.txt", "--quiet"])
    assert (run.exit_code, run.stdout, run.stderr) == (0, "sat\n", "")
    assert parsed(Path("r.txt"), prop(Path("sat.vnnlib").read_text()))[1] is not None
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "unsat.vnnlib", "--out", "r.txt", "--timeout", "inf"])
    assert (run.exit_code, run.stdout, Path("r.txt").read_text()) == (0, "unsat\n", "unsat\n")
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "sat.vnnlib", "--stages", "interval", "--threads", "1"])
    assert (run.exit_code, run.stdout) == (0, "unknown\n")


def test_a_thousand_boxes_are_decided_at_once(place: Path) -> None:
    box = "(>= X_0 0.{0:04}) (<= X_0 0.{0:04}9) (>= X_1 0.1) (<= X_1 0.2)"
    listed = "\n".join(f"(and {box.format(k)} (>= Y_0 1.5))\n(and {box.format(k)} (<= Y_0 -1))" for k in range(1000))
    names = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1"))
    Path("many.vnnlib").write_text(f"{names}(assert (or\n{listed}\n))\n")
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "many.vnnlib"])
    assert (run.exit_code, run.stdout) == (0, "unsat\n")
    assert "1000 cases, 2000 clauses" in run.stderr
    last = "(and (>= X_0 0.75) (<= X_0 0.8) (>= X_1 0.1) (<= X_1 0.2) (>= Y_0 0.3))"
    Path("many.vnnlib").write_text(f"{names}(assert (or\n{listed}\n{last}\n))\n")
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "many.vnnlib"])
    assert run.stdout.startswith("sat\n((X_0 0.")


def test_stderr_says_how_far_each_stage_got_and_what_would_help(place: Path) -> None:
    draw, sizes = np.random.default_rng(3), [8, 150, 150, 150, 2]
    layers = [(draw.normal(size=(m, n)) / n**0.5, draw.normal(size=m)) for n, m in pairwise(sizes)]
    write_mlp(Path("deep.onnx"), layers)
    for limit in (0, 1000):  # the first is above what the network reaches, and hard to prove
        Path(f"{limit}.vnnlib").write_text(vnnlib([("-2", "2")] * 8, 2, f"(>= Y_0 {limit})"))
    run = CliRunner().invoke(app, ["vnnlib", "deep.onnx", "1000.vnnlib", "--stages", "interval"])
    assert run.stdout == "unsat\n"
    assert "may help" not in run.stderr
    run = CliRunner().invoke(app, ["vnnlib", "deep.onnx", "0.vnnlib", "--stages", "interval"])
    assert run.stdout == "unknown\n"
    assert re.search(r"interval: decided 0 of 1 in .* the lowest bound of what is open is -\d", run.stderr)
    assert "without --stages all that suit the network are tried" in run.stderr
    for name in ("branch", "branch-input"):  # not by the command: its watchdog would end this process where it is late
        lines: list[str] = []
        ladder, progress = InstanceLadder((), (name,)), InstanceProgress(lines.append)
        answer = solve(Path("deep.onnx"), Path("0.vnnlib"), 3, stages=ladder, progress=progress)
        assert answer[0].status is InstanceStatus.TIMEOUT
        found = re.search(rf"^{name}: .*; (\d+\.\d) % of its search is closed$", "\n".join(lines), re.MULTILINE)
        assert found is not None and 0 <= float(found[1]) < 100
        assert re.match(rf"what may help: .*{name} closed", answer[0].advice)


def test_the_network_is_refused_before_the_property_is_read(place: Path) -> None:
    Path("junk.onnx").write_text("junk")
    for text in ("(assert", "(vnnlib-version <2.0>) (assert"):
        Path("bad.vnnlib").write_text(text)
        run = CliRunner().invoke(app, ["vnnlib", "junk.onnx", "bad.vnnlib"])
        assert (run.exit_code, run.stdout) == (2, "error\n")
        assert "junk.onnx is not an ONNX model" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.onnx", "bad.vnnlib"], "bad.vnnlib, line 1, column 1: this bracket is never closed"),
        (["no.onnx", "sat.vnnlib"], "there is no file no.onnx"),
        (["sat.vnnlib", "sat.vnnlib"], "sat.vnnlib"),
        (["net.onnx", "sat.vnnlib", "--stages", "magic"], "no stage is called 'magic'"),
    ],
)
def test_bad_input_is_an_error_in_the_result_too(place: Path, arguments: list[str], message: str) -> None:
    run = CliRunner().invoke(app, ["vnnlib", *arguments, "--out", "r.txt"])
    assert (run.exit_code, run.stdout) == (2, "error\n")
    assert message in run.stderr
    assert Path("r.txt").read_text() == "error\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--timeout", "0"], "--timeout must be"),
        (["--timeout", "nan"], "--timeout: it must be a number of seconds >= 0"),
        (["--timeout", "soon"], "--timeout: it must be a number of seconds >= 0, such as 60 or \"10s\", got 'soon'"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--out", "."], "is a directory"),
        (["--out", "no/r.txt"], "directory of no/r.txt does not exist"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_usage_is_said_before_anything_is_done(place: Path, options: list[str], message: str) -> None:
    run = CliRunner().invoke(app, ["vnnlib", "net.onnx", "sat.vnnlib", *options])
    assert (run.exit_code, run.stdout) == (2, "")
    assert message in run.stderr


def hard(folder: Path) -> list[str]:
    """The files of an instance that takes long."""
    rng = np.random.default_rng(0)
    sizes = [30, 100, 100, 100, 2]
    layers = [(rng.normal(size=(b, a)) * (2 / a) ** 0.5, np.zeros(b)) for a, b in pairwise(sizes)]
    write_mlp(folder / "hard.onnx", layers)
    (folder / "hard.vnnlib").write_text(vnnlib([("-1", "1")] * 30, 2, "(>= Y_0 30)"))
    return [sys.executable, "-m", "verifier", "vnnlib", str(folder / "hard.onnx"), str(folder / "hard.vnnlib")]


def test_an_answer_in_time_whatever_happens(tmp_path: Path) -> None:
    out = tmp_path / "r.txt"
    began = time.monotonic()
    run = subprocess.run(
        [*hard(tmp_path), "--timeout", "0.2", "--out", str(out)], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, out.read_text()) == (0, "timeout\n", "timeout\n")  # torch was not loaded yet
    assert time.monotonic() - began < 20
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_a_late_answer_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    late = [*hard(tmp_path), "--timeout", "0.05", "--out", "/proc/r.txt"]
    run = subprocess.run(late, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert "error: cannot write /proc/r.txt" in run.stderr


def test_ctrl_c_leaves_no_result(tmp_path: Path) -> None:
    out = tmp_path / "r.txt"
    process = subprocess.Popen(
        [*hard(tmp_path), "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        # a shell's background jobs ignore the signal, and so would what these tests start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    while not process.stderr.readline().startswith("network"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert not out.exists()
    assert "Traceback" not in rest


class TestCertificates:
    """Of an unsat, one per case; held against the property that somebody means."""

    ONE = vnnlib(BOX, 2, "(>= Y_0 1.001)")

    @staticmethod
    def ran(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        return result.exit_code, result.output

    def checked(self, text: str) -> tuple[int, str]:
        Path("asked.vnnlib").write_text(text)
        return self.ran("check", "certs", "--model", "net.onnx", "--property", "asked.vnnlib", "--jobs", 1)

    def test_cover_their_property_and_no_larger_one(self, place: Path) -> None:
        Path("one.vnnlib").write_text(self.ONE)
        code, said = self.ran("vnnlib", "net.onnx", "one.vnnlib", "--certificates", "certs")
        assert code == 0 and "unsat" in said and "certificates of 1 case" in said
        assert self.checked(self.ONE)[0] == 0
        (x, y), inside = BOX, self.ONE
        assert self.checked(vnnlib([("0.25", x[1]), y], 2, "(>= Y_0 1.001)"))[0] == 0, "a box within the box"
        for other in (
            vnnlib([(x[0], "0.75"), y], 2, "(>= Y_0 1.001)"),
            vnnlib([("-0.25", x[1]), y], 2, "(>= Y_0 1.001)"),
            inside.replace("1.001", "1.0005"),
            inside.replace("Y_0 1.001", "Y_1 1.001"),
            vnnlib(BOX, 2, "(or (>= Y_0 1.001) (>= Y_1 1.5))"),
            vnnlib(BOX, 2, "(or (and (<= X_1 -0.25) (>= Y_0 1.5)) (and (>= X_1 0.25) (>= Y_0 1.5)))"),
        ):
            code, said = self.checked(other)
            assert code == 1 and "NOT PROVED" in said and "1 of 1 certificates are valid" in said, other

    def test_of_constraints_on_inputs_are_held_against_the_plain_model(self, place: Path) -> None:
        about_inputs = vnnlib(BOX, 2, "(>= Y_0 (+ X_0 1.6))")
        Path("one.vnnlib").write_text(about_inputs)
        code, said = self.ran("vnnlib", "net.onnx", "one.vnnlib", "--certificates", "certs")
        assert code == 0 and "unsat" in said, said
        code, said = self.checked(about_inputs)
        assert code == 0 and "together they prove" in said, said
        assert self.checked(about_inputs.replace("1.6", "1.5"))[0] == 1

    def test_an_empty_box_and_a_counterexample_have_none(self, place: Path) -> None:
        for constraint, status in (("(>= X_0 0.6)", "unsat"), ("(>= Y_0 0.5)", "sat")):
            Path("asked.vnnlib").write_text(vnnlib(BOX, 2, constraint))
            code, said = self.ran("vnnlib", "net.onnx", "asked.vnnlib", "--certificates", "certs")
            assert code == 0 and status in said
            assert not list(Path().glob("certs/*.cert"))


def test_a_strict_comparison_that_is_only_touched_is_unsat_at_once(absolute: OnnxModel, tmp_path: Path) -> None:
    only = InstanceLadder(("clean", "interval", "attack"), ())
    strict, touched = (prop(vnnlib(BOX, 2, f"({sign} Y_0 1.0)")) for sign in (">", ">="))
    answer = decide(absolute, strict, 20.0, stages=only)  # y0 is 1 at (0.5, 0.5), and nowhere above
    assert answer.status is InstanceStatus.UNSAT
    assert decide(absolute, touched, 20.0, stages=only).status is InstanceStatus.SAT
    write_certificates(answer, tmp_path)
    found = list(audit(certificates_in([tmp_path]), canonical(absolute.graph).network))
    assert [one.valid for one in found] == [True]
    assert uncovered(found, strict) == []
    assert uncovered(found, touched) == ["the certificate of case 0 is about something else"]


V2 = "(vnnlib-version <2.0>)(declare-network N (declare-input X Real {0}) (declare-output Y Real {1}))"


@pytest.mark.parametrize(("shapes", "fits"), [
    (("[1,2]", "[1,2]"), True),
    (("[2]", "[2]"), True),
    (("[2,1]", "[1,2]"), False),
    (("[1,2]", "[2,1]"), False),
])  # fmt: skip
def test_declared_shapes_are_those_of_the_network(absolute: OnnxModel, shapes: tuple[str, str], fits: bool) -> None:
    entries = [["[0,0]", "[1,0]" if s == "[2,1]" else "[0,1]"] if "," in s else ["[0]", "[1]"] for s in shapes]
    bounds = "".join(f"(assert (<= X{i} 0.5))(assert (>= X{i} 0.0))" for i in entries[0])
    wanted = prop(V2.format(*shapes) + bounds + f"(assert (>= Y{entries[1][0]} 5.0))")
    if fits:
        assert decide(absolute, wanted, 20.0).status is InstanceStatus.UNSAT
    else:
        with pytest.raises(InputError, match=r"declares its (in|out)put . as \[2, 1\], .* \[1, 2\]"):
            decide(absolute, wanted, 20.0)
