"""What machines that build and test are given: exit codes, JUnit XML, JSON, and a standard output with nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.models import labelled, small_image_mlp
from helpers.onnx_files import vnnlib, write_absolute
from typer.testing import CliRunner, Result

from verifier.certification import Report
from verifier.ci.as_json import as_json
from verifier.ci.decided import bench_record, folder_record
from verifier.ci.junit import junit
from verifier.ci.record import Case, Record, State
from verifier.commands.app import app
from verifier.commands.exit_code import ExitCode
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench import BenchRow
from verifier.vnncomp.bench_list import Instance

junitparser = pytest.importorskip("junitparser")

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (1, 3, 4)
BOX = [("0", "0.5"), ("-0.5", "0.5")]
#: what Jenkins's schema of JUnit files allows of each element: attributes, and elements in it
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped", "time"}, {"testcase"}),
    "testcase": ({"name", "classname", "time"}, {"skipped", "error", "failure", "system-out"}),
    "failure": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "skipped": ({"message"}, set()),
    "system-out": (set(), set()),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of which one has NaN, a network, and a folder of properties."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    images, labels = (t.numpy() for t in labelled(small_image_mlp(SHAPE), SHAPE, 6))
    np.savez("data.npz", images=images, labels=labels)
    images[2, 0, 0, 0] = np.nan
    np.savez("raising.npz", images=images, labels=labels)
    (tmp_path / "props" / "more").mkdir(parents=True)
    write_absolute(tmp_path / "props" / "net.onnx")
    for name, asked in (("sat", "(>= Y_0 0.5)"), ("more/unsat", "(>= Y_0 1.5)"), ("open", "(>= Y_0 0.9)")):
        (tmp_path / "props" / f"{name}.vnnlib").write_text(vnnlib(BOX, 2, asked))
    (tmp_path / "cut.vnnlib").write_text("(assert")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def certify(*flags: str, data: str = "data.npz", eps: str = "0.05", out: str = "run.sqlite") -> Result:
    model = ("--model", "helpers.models:small_image_mlp", "--stages", "clean,interval,dual,attack")
    return call("certify", *model, "--data", data, "--eps", eps, "--out", out, *flags)


def suites(text: str) -> Any:
    """The suites of a JUnit file, which is held to the schema on the way."""
    from xml.etree import ElementTree

    def held(element: ElementTree.Element) -> None:
        attributes, inside = ALLOWED[element.tag]
        assert set(element.attrib) <= attributes and {e.tag for e in element} <= inside, element.tag
        for child in element:
            held(child)

    root = ElementTree.fromstring(text)
    held(root)
    found = junitparser.JUnitXml.fromstring(text.encode())
    for suite in found:
        cases = list(suite)
        kinds = [type(case.result[0]).__name__ if case.result else "Passed" for case in cases]
        counts = suite.tests, suite.failures, suite.errors, suite.skipped
        assert counts == (len(cases), kinds.count("Failure"), kinds.count("Error"), kinds.count("Skipped"))
    assert found.tests == sum(suite.tests for suite in found)
    return found


def test_certify_gives_its_rows(place: Path) -> None:
    result = certify("--json", "-", "--junit", "run.xml", data="raising.npz")
    assert result.exit_code == ExitCode.DONE, result.stderr
    document = json.loads(result.stdout)
    rows = Report.open("run.sqlite").rows()
    assert [case["outcome"] for case in document["cases"]] == [row.outcome.value for row in rows]
    assert document["counts"]["error"] == 1 and not document["passed"] and "verified accuracy" in result.stderr
    assert document["about"]["settings"]["eps"] == 0.05 and document["cases"][2]["details"]["error"]
    (suite,) = suites(Path("run.xml").read_text())
    assert [case.name for case in suite] == [f"example {row.index}" for row in rows]
    assert "NaN" in next(case for case in suite if case.name == "example 2").result[0].message


def test_a_share_is_what_fails(place: Path) -> None:
    first = certify("--fail-under", "0%", "--junit", "-", eps="0.08")
    assert first.exit_code == ExitCode.DONE
    accuracy = Report.open("run.sqlite").summary()["verified_accuracy"]
    assert 0 < accuracy < 1
    examples, expectations = suites(first.stdout)
    assert (examples.failures, expectations.failures) == (0, 0) and examples.skipped == round(6 * (1 - accuracy))
    assert certify("--resume", "--fail-under", repr(accuracy), eps="0.08").exit_code == ExitCode.DONE
    failed = certify("--resume", "--fail-under", repr(accuracy + 1e-9), "--json", "run.json", eps="0.08")
    assert failed.exit_code == ExitCode.UNMET
    assert failed.stderr.splitlines()[-1].startswith(f"not met: --fail-under {accuracy + 1e-9:.12g}: verified accuracy")
    assert json.loads(Path("run.json").read_text())["passed"] is False
    for wrong in ("90", "-0.1", "most"):
        refused = certify("--fail-under", wrong, out="no.sqlite")
        assert refused.exit_code == ExitCode.USAGE and "no share from 0 to 1" in refused.stderr
    assert not Path("no.sqlite").exists()


def test_each_radius_of_a_sweep_is_a_suite(place: Path) -> None:
    first = certify("--certificates", "certs", "--fail-under", "0", "--junit", "-", "--strict", eps="0.01,0.05")
    assert first.exit_code == ExitCode.DONE, first.stderr
    small, large, expectations = suites(first.stdout)
    assert (small.name, large.name) == ("certify eps 0.01", "certify eps 0.05") and len(small) == len(large) == 6
    assert [case.name for case in expectations] == [
        "--fail-under 0 at eps 0.01", "--fail-under 0 at eps 0.05", "--strict",
    ]  # fmt: skip
    share = Report.open("run.sqlite/eps-0.01.sqlite").summary()["verified_accuracy"]
    failed = certify("--fail-under", repr(share), "--json", "-", eps="0.01,0.2", out="other")
    assert failed.exit_code == ExitCode.UNMET
    document = json.loads(failed.stdout)
    assert [e["met"] for e in document["expectations"]] == [True, False] and len(document["cases"]) == 12
    assert f"not met: --fail-under {share:.12g} at eps 0.2: verified accuracy" in failed.stderr


def test_strict_wants_all_decided_with_certificates(place: Path) -> None:
    assert certify("--strict", out="all.sqlite").exit_code == ExitCode.DONE
    raised = certify("--strict", data="raising.npz", out="raising.sqlite")
    assert raised.exit_code == ExitCode.UNMET and "example 2, is error" in raised.stderr
    asked = ("--stages", "interval", "--strict", "--junit", "-")
    opened = call("certify", "--model", "helpers.models:small_image_mlp", "--data", "data.npz", "--eps", "0.3",
                  "--out", "open.sqlite", *asked)  # fmt: skip
    assert opened.exit_code == ExitCode.UNMET
    examples, _ = suites(opened.stdout)
    assert examples.skipped == 0 and examples.failures >= 1


def test_a_missing_certificate_fails_where_all_is_wanted(place: Path) -> None:
    assert certify("--certificates", "certs", "--strict").exit_code == ExitCode.DONE
    proof = sorted(Path("certs").glob("*.cert"))[0]
    assert call("check", "certs", "--quiet", "--strict").exit_code == ExitCode.DONE
    proof.unlink()
    proof.with_suffix(".missing").write_text("no kind of file for it\n")
    assert call("check", "certs", "--quiet").exit_code == ExitCode.DONE
    checked = call("check", "certs", "--strict", "--json", "-")
    assert checked.exit_code == ExitCode.UNMET and "no kind of file for it" in checked.stderr
    cases = json.loads(checked.stdout)["cases"]
    assert [case["name"] for case in cases if case["missing_certificate"]] == [proof.stem]
    again = certify("--certificates", "certs", "--strict", "--resume", "--junit", "run.xml")
    assert again.exit_code == ExitCode.UNMET and "no certificate: no kind of file for it" in Path("run.xml").read_text()


def test_check_gives_what_is_valid(place: Path) -> None:
    certify("--certificates", "certs")
    proof = sorted(Path("certs").glob("*.cert"))[0]
    proof.write_bytes(proof.read_bytes()[:-9])
    checked = call("check", "certs", "--junit", "-")
    assert checked.exit_code == ExitCode.FAILED and f"INVALID  {proof.name}" in checked.stderr
    (suite,) = suites(checked.stdout)
    assert (suite.failures, suite.name) == (1, "certs") and suite.tests == len(list(Path("certs").glob("*.cert")))


@pytest.mark.parametrize(
    ("name", "flags", "code", "state"),
    [
        ("more/unsat", (), ExitCode.DONE, "passed"),
        ("more/unsat", ("--expect", "unsat", "--strict", "--certificates", "certs"), ExitCode.DONE, "passed"),
        ("more/unsat", ("--expect", "sat"), ExitCode.UNMET, "failed"),
        ("sat", (), ExitCode.DONE, "failed"),
        ("sat", ("--expect", "sat"), ExitCode.DONE, "passed"),
        ("open", ("--stages", "interval"), ExitCode.DONE, "skipped"),
        ("open", ("--stages", "interval", "--strict"), ExitCode.UNMET, "failed"),
        ("../cut", (), ExitCode.USAGE, "error"),
    ],
)
def test_one_property(place: Path, name: str, flags: tuple[str, ...], code: int, state: str) -> None:
    result = call("vnnlib", "props/net.onnx", f"props/{name}.vnnlib", *flags, "--json", "-", "--junit", "one.xml")
    assert result.exit_code == code, result.stderr
    document = json.loads(result.stdout)
    (case,) = document["cases"]
    assert case["state"] == state and document["passed"] == (state in ("passed", "skipped"))
    assert ("not met" in result.stderr) == (code == ExitCode.UNMET)
    witness = case["details"].get("witness")
    assert (witness is not None) == (name == "sat") and (witness is None or len(witness["inputs"]) == 2)
    found = suites(Path("one.xml").read_text())
    assert found.failures + found.errors == (state in ("failed", "error")) * (1 + (code == ExitCode.UNMET))
    # without the form, the word alone
    plain = call("vnnlib", "props/net.onnx", f"props/{name}.vnnlib", *flags)
    assert plain.stdout.splitlines()[0] == case["outcome"] and plain.exit_code == code


def test_what_is_late_is_given_too(place: Path) -> None:
    from subprocess import run

    asked = ["vnnlib", "props/net.onnx", "props/open.vnnlib", "--timeout", "0.05", "--strict", "--json", "-"]
    done = run([sys.executable, "-m", "verifier", *asked], capture_output=True, text=True, timeout=300)
    assert done.returncode == ExitCode.UNMET, done.stderr
    assert json.loads(done.stdout)["cases"][0]["outcome"] == "timeout"


def test_a_folder_in_place_of_a_list(place: Path) -> None:
    result = call("vnnlib", "props", "--expect", "unsat", "--certificates", "certs", "--out", "results",
                  "--junit", "all.xml", "--stages", "interval,attack", "--quiet")  # fmt: skip
    assert result.exit_code == ExitCode.UNMET, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    by_name = {Path(prop).stem: (word, network) for word, network, prop in lines}
    assert {name: word for name, (word, _) in by_name.items()} == {"open": "sat", "sat": "sat", "unsat": "unsat"}
    assert {Path(network).name for _, network in by_name.values()} == {"net.onnx"}
    properties, expectations = suites(Path("all.xml").read_text())
    assert (properties.name, properties.tests, properties.failures, expectations.failures) == ("net", 3, 2, 1)
    assert call("check", "certs/net unsat", "--property", "props/more/unsat.vnnlib", "--strict").exit_code == 0
    assert "1 of 1 certificates are valid" in call("check", "certs", "--strict").stdout  # all that are below it
    assert Path("results/results.csv").is_file() and "(X_0 " in Path("all.xml").read_text()


def test_a_file_that_cannot_be_used_does_not_hide_behind_the_others(place: Path) -> None:
    Path("mixed").mkdir()
    for name, text in (("good", Path("props/more/unsat.vnnlib").read_text()), ("bad", "(assert (>= X_0")):
        Path(f"mixed/{name}.vnnlib").write_text(text)
    asked = ("props/net.onnx", "mixed", "--stages", "interval,attack", "--quiet")
    result = call("vnnlib", *asked)
    assert result.exit_code == ExitCode.USAGE and "error: net bad: mixed/bad.vnnlib" in result.stderr
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["error", "unsat"]
    assert call("vnnlib", *asked, "--strict").exit_code == ExitCode.UNMET
    listed = call("bench", *asked, "--in-process")
    assert listed.exit_code == ExitCode.USAGE and "error: net bad: " in listed.stderr
    Path("mixed/good.vnnlib").unlink()
    assert call("bench", *asked, "--in-process").exit_code == ExitCode.FAILED


@pytest.mark.slow
def test_a_list_and_its_command_on_a_folder(place: Path) -> None:
    Path("list.csv").write_text("props/net.onnx,props/sat.vnnlib,30,unsat\nprops/net.onnx,cut.vnnlib,30\n")
    result = call("bench", "list.csv", "--in-process", "--quiet", "--strict", "--junit", "-")
    assert result.exit_code == ExitCode.FAILED and "WRONG" in result.stderr
    properties, expectations = suites(result.stdout)
    assert (properties.failures, properties.errors, expectations.failures) == (1, 1, 1)
    listed = call("bench", "props/net.onnx", "props/more", "--in-process", "--strict", "--json", "-", "--quiet")
    assert listed.exit_code == ExitCode.DONE, listed.stderr
    (case,) = json.loads(listed.stdout)["cases"]
    assert (case["name"], case["outcome"], case["details"]["property"]) == (
        "net unsat",
        "unsat",
        "props/more/unsat.vnnlib",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("props/more",), "there is no network"),
        (("props/net.onnx", "none"), "there is no file none"),
        (("props/net.onnx", "data.npz", "props/more"), "neither a network"),
        (("props", "--network", "f=props/net.onnx"), "name the networks before the folder"),
        (("props/net.onnx", "props/sat.vnnlib", "--jobs", "2"), "--jobs and --resume are for a folder"),
        (("props/net.onnx", "props/sat.vnnlib", "--expect", "unsatt"), "did you mean 'unsat'?"),
        (("props/net.onnx", "props/sat.vnnlib", "--json", "none/r.json"), "does not exist"),
        (("props/net.onnx", "props/sat.vnnlib", "--json", "-", "--junit", "-"), "are one file"),
    ],
)
def test_what_cannot_be_asked(place: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call("vnnlib", *arguments)
    assert result.exit_code == ExitCode.USAGE and said in result.stderr and result.stdout in ("", "error\n")


def test_what_a_list_found_as_a_record() -> None:
    """Of a list an answer fails where it is known to be wrong; of a folder where it is not what is asked for."""
    listed = [Instance(Path("net.onnx"), Path(f"{name}.vnnlib"), 9.0, None) for name in ("a", "b", "c", "d")]
    words = [("sat", "", ""), ("sat", "unsat", "sat, but unsat is expected"), ("timeout", "", ""), ("unsat", "", "")]
    rows = [
        BenchRow(one.name, "net", 9.0, expected, word, 1.0, wrong, "no disk", "missing" if word == "unsat" else "")
        for one, (word, expected, wrong) in zip(listed, words, strict=True)
    ]
    record = bench_record(rows, listed, {})
    states = [case.state.value for case in record.cases]
    assert states == ["passed", "failed", "skipped", "passed"] and not record.expectations
    strict = record.strict()
    assert [case.state.value for case in strict.cases] == ["passed", "failed", "failed", "failed"]
    assert "no certificate: no disk" in junit(strict) and "2 of 4 are not decided" in strict.unmet[0].message
    asked = folder_record(rows, listed, ["sat\n((X_0 1.0))\n", "", "", ""], InstanceStatus.UNSAT, {})
    assert [case.state.value for case in asked.cases] == ["failed", "failed", "failed", "passed"]
    assert "((X_0 1.0))" in junit(asked)
    assert asked.unmet[0].message == "1 of 4 are unsat; the first that is not, net a, is sat"


def test_a_run_is_shown_as_json_alone(place: Path) -> None:
    certify()
    shown = call("show", "run.sqlite", "--failures", "--json", "-")
    assert shown.exit_code == ExitCode.DONE and json.loads(shown.stdout)["summary"]["examples"] == 6
    assert "verified accuracy" in shown.stderr and "index label" in shown.stderr


def test_what_xml_and_json_cannot_write() -> None:
    odd = Case("a\x00\x1b[31m<&\ud800", "g\x0b", "unknown", State.ERROR, text="\x01", details={"margin": float("-inf")})
    record = Record("certify", (odd, odd), about={"nothing": float("nan")})
    (suite,) = suites(junit(record))
    assert suite.errors == 2 and "<&" in next(iter(suite)).name
    document = json.loads(as_json(record))
    assert document["cases"][0]["details"]["margin"] == "-inf" and document["about"]["nothing"] is None


def test_the_exit_codes_are_documented() -> None:
    text = (ROOT / "docs" / "guide" / "in-ci.md").read_text(encoding="utf-8")
    rows = {int(code): name for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.M)}
    assert rows == {code.value: code.name for code in ExitCode}


def test_no_command_ends_with_a_number_of_its_own() -> None:
    for path in [*(ROOT / "verifier" / "commands").glob("*.py"), ROOT / "training" / "cli.py"]:
        bare = re.findall(r"Exit\(\d+\)|os\._exit\([02-9]\)|sys\.exit\(\d+\)", path.read_text(encoding="utf-8"))
        assert not bare, (path.name, bare)
