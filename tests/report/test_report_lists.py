"""The pages on lists and on one instance; the answers of other tools in the forms that they come in."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.html import page
from helpers.onnx_files import vnnlib, write_absolute
from typer.testing import CliRunner, Result

from verifier import InputError
from verifier.commands.app import app
from verifier.commands.vnnlib import run as decide
from verifier.files import json_text
from verifier.report.peer import PeerAnswer, answers_of

RESULTS = """name,network,timeout,expected,status,seconds,wrong,note
net a,net,60.0,unsat,unsat,10.5,,decided by branch
net b,net,60.0,,sat,0.25,,<i>remark</i>
other c,other,60.0,,timeout,60.0,,
net d,net,60.0,unsat,sat,2.0,"sat, but unsat is expected",
"""
COMPETITION = """acas,./onnx/net.onnx,./vnnlib/a.vnnlib.gz,0.1,holds,1.5
acas,./onnx/net.onnx,b.vnnlib,0.1,unsat,3
acas,onnx\\other.onnx,c.vnnlib,0.1,sat,4.0
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "results.csv").write_text(RESULTS)
    (tmp_path / "peer.csv").write_text(COMPETITION)
    return tmp_path


def report(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments, "--out", "r.html"])


def test_a_list_with_the_answers_of_another(place: Path) -> None:
    run = report("list", "--against", "peer.csv")
    assert run.exit_code == 0, run.output
    shown = page(Path("r.html"))
    assert "2 of 4 solved: 50.0 %" in shown.text
    assert "1 answer contradicts what is known" in shown.text and "net d sat sat, but unsat is expected" in shown.text
    assert "peer has an answer to 3 of the 4 instances; the other 1 are left out here" in shown.text
    assert "The two contradict each other on 1 instance." in shown.text
    assert (
        "Solved by peer alone instance Rampart seconds peer seconds of peer other c timeout 60.00 sat 4.00"
        in shown.text
    )
    drawings = [str(one["aria-label"]) for one in shown.every("div") if one.get("role") == "img"]
    assert drawings[0] == (
        "Cactus plot of 3 instances: Rampart solves 2, half of them within 0.25 s; "
        "peer solves 3, half of them within 3 s."
    )
    assert "$" not in shown.text  # ticks are numbers, not formulas
    assert {"0.5", "1", "2"} <= {text.strip() for text in shown.texts}
    assert "<i>remark</i>" in shown.text and not shown.every("i")


def test_names_are_escaped_in_drawings_too(place: Path) -> None:
    Path("<b>$x_1$<b>.csv").write_text(COMPETITION)
    assert report("list", "--against", "<b>$x_1$<b>.csv").exit_code == 0
    shown = page(Path("r.html"))
    assert not shown.every("b")
    assert "<b>$x_1$<b>: 3 of 3" in shown.texts and "seconds of <b>$x_1$<b>" in shown.texts  # a legend, and an axis


def test_a_list_alone_by_its_table(place: Path) -> None:
    assert report("list/results.csv").exit_code == 0
    text = page(Path("r.html")).text
    assert "Results of list" in text and "Against another" not in text
    assert "Not kept: the table was made by an earlier release" in text


def test_a_list_with_its_versions_and_stages(place: Path) -> None:
    (place / "list" / "run.json").write_text(json_text({"sessions": [
        {"started": "2026-01-02", "machine": "a toaster", "versions": {"rampart": "0.2", "torch": "2.9"},
         "jobs": 2, "threads": None, "in_process": True, "stages": "dual,branch"},
        {"started": "2026-01-03", "versions": {"rampart": "0.3"}, "stages": None},
    ]}))  # fmt: skip
    assert report("list").exit_code == 0
    text = page(Path("r.html")).text
    assert "started 2026-01-02, on a toaster versions rampart 0.2, torch 2.9" in text
    assert "instances at a time 2 threads of each by default forked by warm workers yes stages dual,branch" in text
    assert "started 2026-01-03" in text and "stages by default" in text
    assert "Decided by stages instances unsat sat seconds branch 1 1 0 10.50" in text
    (place / "list" / "run.json").write_text("[]")
    broken = report("list")
    assert broken.exit_code == 2 and "run.json is not what `bench` writes beside its table" in broken.stderr


def test_answers_come_in_several_forms(place: Path) -> None:
    expected = {"net a": PeerAnswer("unsat", 1.5), "net b": PeerAnswer("unsat", 3), "other c": PeerAnswer("sat", 4)}
    assert answers_of(Path("peer.csv")) == expected
    headed = (
        "result,onnx,property,time\nunsat,net.onnx.gz,a.vnnlib,1.5\nverified,net.onnx,b,3\nviolated,other.onnx,c,4\n"
    )
    Path("headed.csv").write_text(headed)
    assert answers_of(Path("headed.csv")) == expected
    own = answers_of(Path("list/results.csv"))
    assert own["net b"] == PeerAnswer("sat", 0.25) and len(own) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("a,b,c\n", "line 1: neither a head"),
        ("name,status,seconds\nnet a,sat,soon\n", "line 2: could not convert"),
        ("name,status,seconds\nnet a,sat,-1\n", "is not a number of seconds"),
        ("name,status,seconds\nnet a\n", "line 2"),
        ("name,status,seconds\nsomething else,sat,1\n", "no answer to any instance"),
    ],
)
def test_answers_that_cannot_be_used_are_refused(place: Path, text: str, message: str) -> None:
    Path("bad.csv").write_text(text)
    run = report("list", "--against", "bad.csv")
    assert run.exit_code == 2 and message in run.stderr, run.stderr
    assert not Path("r.html").exists()


def test_an_instance_with_its_counterexample(place: Path) -> None:
    pytest.importorskip("onnxruntime")
    write_absolute(place / "net.onnx")
    (place / "sat.vnnlib").write_text(vnnlib([("0", "0.5"), ("-0.5", "0.5")], 2, "(>= Y_0 0.5)"))
    assert decide(["net.onnx", "sat.vnnlib", "--out", "sat.txt", "--quiet"]) == 0
    run = report("sat.txt", "--network", "net.onnx", "--property", "sat.vnnlib")
    assert run.exit_code == 0, run.output
    text = page(Path("r.html")).text
    assert (
        "2 inputs, 2 outputs" in text and "Checked again when this page was made: it lies in the property's set" in text
    )
    first = float(Path("sat.txt").read_text().split("X_0 ")[1].split(")")[0])
    assert f"Inputs input least value largest 0 0 {first:.8g} 0.5" in text
    Path("sat.txt").write_text("sat\n((X_0 0.75)\n(X_1 0.5)\n(Y_0 1.25)\n(Y_1 -1.25))\n")
    assert report("sat.txt", "--network", "net.onnx", "--property", "sat.vnnlib").exit_code == 0
    assert "it could not be confirmed: the witness is no input of the property" in page(Path("r.html")).text


def test_an_instance_with_its_certificates(place: Path) -> None:
    pytest.importorskip("onnxruntime")
    write_absolute(place / "net.onnx")
    (place / "unsat.vnnlib").write_text(vnnlib([("0", "0.5"), ("-0.5", "0.5")], 2, "(>= Y_0 1.5)"))
    asked = ["net.onnx", "unsat.vnnlib", "--out", "unsat.txt", "--quiet", "--certificates", "cert"]
    assert decide(asked) == 0
    given = (
        "unsat.txt",
        "--network",
        "net.onnx",
        "--property",
        "unsat.vnnlib",
        "--certificates",
        "cert",
        "--jobs",
        "1",
    )
    assert report(*given).exit_code == 0
    text = page(Path("r.html")).text
    assert "Valid when this page was made: 1 of 1 certificate; together they prove that unsat.vnnlib has no" in text
    assert "To check them again: verifier check cert --property unsat.vnnlib --model net.onnx" in text
    check = CliRunner().invoke(app, ["check", "cert", "--property", "unsat.vnnlib", "--model", "net.onnx"])
    assert check.exit_code == 0, check.output
    (place / "unsat.vnnlib").write_text(vnnlib([("0", "0.6"), ("-0.5", "0.5")], 2, "(>= Y_0 1.5)"))
    assert report(*given).exit_code == 0
    text = page(Path("r.html")).text
    assert "they do not prove unsat.vnnlib" in text and "the certificate of case 0 is about something else" in text


def test_what_an_instance_lacks_is_said(place: Path) -> None:
    Path("result.txt").write_text("unsat\n")
    run = report("result.txt")
    assert run.exit_code == 2 and "give its --network and its --property" in run.stderr
    run = report("result.txt", "--network", "a=x.onnx", "--network", "y.onnx", "--property", "p.vnnlib")
    assert run.exit_code == 2 and "not both" in run.stderr
    with pytest.raises(InputError, match="cannot read the answers"):
        answers_of(Path("nothing.csv"))


def test_the_certificates_of_a_folder_are_checked_instance_by_instance(place: Path) -> None:
    pytest.importorskip("onnxruntime")
    (place / "safety").mkdir()
    write_absolute(place / "safety" / "net.onnx")
    for name, threshold in (("a", "1.5"), ("b", "1.6"), ("c", "1.7"), ("d", "0.5")):
        text = vnnlib([("0", "0.5"), ("-0.5", "0.5")], 2, f"(>= Y_0 {threshold})")
        (place / "safety" / f"{name}.vnnlib").write_text(text)
    assert decide(["safety", "--out", "found", "--certificates", "proofs", "--quiet"]) == 0
    next((place / "proofs" / "net b").glob("*.cert")).unlink()
    (place / "safety" / "c.vnnlib").write_text(vnnlib([("0", "0.6"), ("-0.5", "0.5")], 2, "(>= Y_0 1.7)"))
    run = report("found", "--certificates", "proofs", "--jobs", "1")
    assert run.exit_code == 0, run.output
    text = page(Path("r.html")).text
    assert "of 1 of 3 unsat the certificates are valid and prove together" in text
    assert "2 unsat without certificates that prove it." in text
    assert "net a proved 1 1" in text and "net d proved" not in text
    assert "net b not a proof 0 0 case 0 has no valid certificate" in text
    assert "net c not a proof 1 1 the certificate of case 0 is about something else" in text
    assert "verifier check 'proofs/net a' --property safety/a.vnnlib --model safety/net.onnx" in text


def test_certificates_of_a_list_that_cannot_be_told_are_refused_or_said(place: Path) -> None:
    run = report("list", "--certificates", "nothing")
    assert run.exit_code == 2 and "there is no folder nothing" in run.stderr
    run = report("list", "--certificates", ".", "--certificates", "list")
    assert run.exit_code == 2 and "a list has one folder of --certificates" in run.stderr
    run = report("list", "--certificates", ".")
    assert run.exit_code == 2 and "no folder of any unsat, such as 'net a'" in run.stderr
    (place / "net a").mkdir()
    assert report("list", "--certificates", ".").exit_code == 0
    assert "net a not a proof 0 0 the results do not name the file of its property" in page(Path("r.html")).text


def test_a_page_is_a_file(place: Path) -> None:
    run = CliRunner().invoke(app, ["report", "list", "--out", "pages/"])
    assert run.exit_code == 2 and "pages/ is a directory" in run.stderr and not Path("pages").exists()
