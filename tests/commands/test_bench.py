"""`verifier bench`: lists, processes, what is wrong is found, what is done is not done again."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from helpers.onnx_files import vnnlib, write_absolute
from helpers.real_data import require
from typer.testing import CliRunner, Result

from verifier import __version__
from verifier.commands.app import app
from verifier.errors import InputError
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_list import instances_of
from verifier.vnncomp.recheck import complaint

BOX = [("0", "0.5"), ("-0.5", "0.5")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_absolute(tmp_path / "net.onnx")
    for name, constraint in (("sat", "(>= Y_0 0.5)"), ("unsat", "(>= Y_0 1.5)"), ("open", "(> Y_0 1.0)")):
        with gzip.open(tmp_path / f"{name}.vnnlib.gz", "wt") as file:
            file.write(vnnlib(BOX, 2, constraint))
    return tmp_path


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


def rows(folder: str) -> list[dict[str, str]]:
    with (Path(folder) / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_list_is_run_in_processes_of_their_own(place: Path) -> None:
    Path("list.csv").write_text("net.onnx,sat.vnnlib,60\nnet.onnx,unsat.vnnlib,60,unsat\n")
    run = bench("list.csv", "--out", "results", "--jobs", "2", "--threads", "1", "--plot", "cactus.png")
    assert run.exit_code == 0, run.output
    assert [(row["status"], row["expected"], row["wrong"]) for row in rows("results")] in (
        [("sat", "", ""), ("unsat", "unsat", "")],
        [("unsat", "unsat", ""), ("sat", "", "")],  # whichever ended first
    )
    assert all(float(row["seconds"]) > 0.2 for row in rows("results"))
    assert Path("cactus.png").read_bytes().startswith(b"\x89PNG")
    assert "net sat: sat in" in run.stderr
    assert (Path("results") / "0001 net unsat.txt").read_text() == "unsat\n"


def test_a_contradiction_fails_in_red_and_a_run_is_resumed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    Path("list.csv").write_text(
        "onnx,vnnlib,timeout,expected\nnet.onnx,sat.vnnlib.gz,30,unsat\nnet.onnx,unsat.vnnlib.gz,30,?\n"
        "net.onnx,open.vnnlib.gz,30,sat\n"
    )
    first = bench("list.csv", "--in-process", "--out", "results", "--filter", "sat")
    assert first.exit_code == 1
    assert "WRONG: net sat: sat, but unsat is expected" in first.stdout
    assert "\x1b[1;31m" in first.stdout
    assert [row["status"] for row in rows("results")] == ["sat", "unsat"]
    again = bench("list.csv", "--in-process", "--out", "results")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    resumed = bench("list.csv", "--in-process", "--out", "results", "--resume", "--stages", "attack,interval,dual")
    assert resumed.exit_code == 1
    sessions = json.loads(Path("results/run.json").read_text())["sessions"]
    assert [(one["instances"], one["stages"]) for one in sessions] == [(2, None), (3, "attack,interval,dual")]
    assert all(one["in_process"] and one["versions"]["rampart"] == __version__ for one in sessions)
    assert [line.partition(":")[0] for line in resumed.stderr.splitlines()] == ["net open"]  # only what was left
    assert rows("results")[0]["wrong"] != ""
    assert rows("results")[2]["status"] in ("unknown", "unsat")  # y0 = 1 is reached, y0 > 1 is not


def test_instances_of_one_name_are_told_apart(place: Path) -> None:
    for folder, constraint in (("a", "(>= Y_0 0.5)"), ("b", "(>= Y_0 1.5)")):
        Path(folder).mkdir()
        (Path(folder) / "p.vnnlib").write_text(vnnlib(BOX, 2, constraint))
    lines = "net.onnx,a/p.vnnlib,30,{}\nnet.onnx,b/p.vnnlib,30,unsat\nnet.onnx,b/p.vnnlib,40,unsat\n"
    Path("list.csv").write_text(lines.format("unsat"))
    run = bench("list.csv", "--in-process", "--out", "results", "--timeout", "20")
    assert (run.exit_code, [row["status"] for row in rows("results")]) == (1, ["sat", "unsat", "unsat"])
    assert "WRONG: net p: sat" in run.stdout
    # a list that knew nothing, and knows more when the run is resumed
    Path("list.csv").write_text(lines.format("?"))
    assert bench("list.csv", "--in-process", "--out", "later", "--timeout", "20").exit_code == 0
    Path("list.csv").write_text(lines.format("unsat"))
    resumed = bench("list.csv", "--in-process", "--out", "later", "--timeout", "20", "--resume")
    assert (resumed.exit_code, resumed.stderr) == (1, "")  # nothing is run again
    assert rows("later")[0]["wrong"] == "sat, but unsat is expected"


def test_errors_are_rows_and_not_the_end(place: Path) -> None:
    Path("broken.onnx").write_bytes(b"nothing")
    Path("list.csv").write_text("broken.onnx,sat.vnnlib,9,sat\nnet.onnx,unsat.vnnlib,9,unsat\n")
    run = bench("list.csv", "--in-process", "--out", "results", "--quiet")
    assert run.exit_code == 2 and run.stderr.startswith("error: broken sat: ") and run.stderr.count("\n") == 1
    assert [row["status"] for row in rows("results")] == ["error", "unsat"]
    assert "broken.onnx" in rows("results")[0]["note"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_to_is_found_out_first(place: Path) -> None:
    Path("list.csv").write_text("net.onnx,sat.vnnlib,9\n")
    run = bench("list.csv", "--in-process", "--out", "/proc")
    assert run.exit_code == 2
    assert "cannot write" in run.stderr
    assert "net sat" not in run.stderr


@pytest.mark.parametrize(
    ("x", "y0", "message"),
    [
        ("0.5", "0.5", ""),
        ("0.25", "0.25", "does not replay"),
        ("0.75", "0.75", "is no input"),
        ("0.1", "0.1", "not float32"),
    ],
)
def test_witnesses_are_checked_again_by_the_files(place: Path, x: str, y0: str, message: str) -> None:
    Path("list.csv").write_text("net.onnx,sat.vnnlib,9,sat\n")
    (instance,) = instances_of(Path("list.csv"))
    result = Path("r.txt")
    result.write_text(f"sat\n((X_0 {x})\n(X_1 0.0)\n(Y_0 {y0})\n(Y_1 -{y0}))\n")
    if not message:
        result.write_text("sat\n((X_0 0.5)\n(X_1 0.25)\n(Y_0 0.5)\n(Y_1 -0.5))\n")
    assert message in complaint(instance, InstanceStatus.SAT, result)
    assert (complaint(instance, InstanceStatus.SAT, result) == "") == (message == "")
    assert "unsat, but sat is expected" in complaint(instance, InstanceStatus.UNSAT, result)
    assert complaint(instance, InstanceStatus.TIMEOUT, result) == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("net.onnx,sat.vnnlib", "not 2 columns"),
        ("net.onnx,sat.vnnlib,soon", "not a number of seconds"),
        ("net.onnx,sat.vnnlib,-1", "not a number of seconds"),
        ("net.onnx,sat.vnnlib,9,maybe", "'maybe'"),
        ("net.onnx,none.vnnlib,9", "there is no file"),
    ],
)
def test_bad_lists(place: Path, line: str, message: str) -> None:
    Path("list.csv").write_text(f"net.onnx,sat.vnnlib,9\n{line}\n")
    with pytest.raises(InputError, match=f"line 2.*{message}"):
        instances_of(Path("list.csv"))


def test_what_is_no_list_is_said(place: Path) -> None:
    Path("zip.csv").write_bytes(b"PK\xbd\xbe")
    for name, message in (("none.csv", "there is no list of instances none.csv"), ("zip.csv", "not a text in UTF-8")):
        run = bench(name)
        assert run.exit_code == 2 and message in run.stderr and run.stdout == ""


def test_the_competitions_lists_are_read() -> None:
    listed = instances_of(require("vnncomp", "acasxu", "instances.csv"), 60.0)
    assert len(listed) == 93
    assert {instance.timeout for instance in listed} == {60.0}
    assert {instance.expected for instance in listed} == {InstanceStatus.SAT, InstanceStatus.UNSAT}
