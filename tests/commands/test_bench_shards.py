"""`verifier bench --shard`, and `verifier merge` of the folders: the results of the whole list."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.onnx_files import vnnlib, write_absolute
from typer.testing import CliRunner, Result

from verifier.commands.app import app
from verifier.errors import StoreError
from verifier.vnncomp.bench import BenchRow, result_file, rows_in, write_rows
from verifier.vnncomp.bench_about import sessions_in
from verifier.vnncomp.bench_list import Instance, told_apart
from verifier.vnncomp.merge import merge_results

COUNT = 5


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_absolute(tmp_path / "net.onnx")
    lines = []
    for k in range(COUNT):
        constraint = "(>= Y_0 0.5)" if k % 2 else "(>= Y_0 1.5)"
        (tmp_path / f"p{k}.vnnlib").write_text(vnnlib([("0", "0.5"), ("-0.5", "0.5")], 2, constraint))
        lines.append(f"net.onnx,p{k}.vnnlib,60\n")
    (tmp_path / "list.csv").write_text("".join(lines))
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def bench(out: str, *more: str) -> Result:
    stages = ("--stages", "attack,dual-adaptive", "--in-process", "--certificates", f"proofs {out}")
    return call("bench", "list.csv", "--out", out, *stages, *more)


def test_shards_of_a_list_become_its_results(place: Path) -> None:
    for k in (1, 2):
        assert bench(f"part{k}", "--shard", f"{k}/3").exit_code == 0
    parts = [[row.name for row in rows_in(Path(f"part{k}/results.csv"))] for k in (1, 2)]
    assert parts == [["net p0", "net p3"], ["net p1", "net p4"]]
    proofs = ("--certificates", "proofs part1", "--certificates", "proofs part2", "--certificates-out", "proofs all")
    merged = call("merge", "part2", "part1", "--out", "all", *proofs)
    assert merged.exit_code == 0 and "unsat" in merged.output, merged.output
    sessions = sessions_in(Path("all"))
    assert [session["certificates"] for session in sessions] == ["proofs part1", "proofs part2"]
    assert [row.name for row in rows_in(Path("all/results.csv"))] == ["net p0", "net p1", "net p3", "net p4"]
    resumed = bench("all", "--resume")
    assert resumed.exit_code == 0 and [line.partition(":")[0] for line in resumed.stderr.splitlines()] == ["net p2"]
    by = {row.name: row.note.rpartition("; decided by ")[2] for row in rows_in(Path("all/results.csv"))}
    assert by == {f"net p{k}": "attack" if k % 2 else "dual-adaptive" for k in range(COUNT)}, "with certificates, too"
    rows = {row.name: row.status for row in rows_in(Path("all/results.csv"))}
    assert rows == {f"net p{k}": "sat" if k % 2 else "unsat" for k in range(COUNT)}
    files = sorted(path.name for path in Path("all").glob("*.txt"))
    assert files == [f"{k:04d} net p{k}.txt" for k in range(COUNT)]
    assert Path("all/0001 net p1.txt").read_text().startswith("sat\n")
    assert sorted(path.name for path in Path("proofs all").iterdir()) == ["net p0", "net p2", "net p4"]
    wrong = call("bench", "list.csv", "--shard", "4/3")
    assert wrong.exit_code == 2 and "a shard is k of n" in wrong.stderr


def test_results_that_differ_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "a" / "results.csv"
    table.parent.mkdir()
    table.write_text(
        "name,network,timeout,expected,status,seconds,wrong,note\n"
        "net x,net,60.0,sat,timeout,60.0,,\nnet y,net,60.0,,unsat,1.0,,\n"
    )
    for name, place, values, said in (
        ("limit", 0, {"timeout": 30.0}, "limit of 'net x' is 60 s in one, 30 s in the other"),
        ("expected", 0, {"expected": "unsat"}, "'net x' should be sat and unsat"),
        ("contradicts", 1, {"status": "sat"}, "'net y' is unsat and sat, and one of the two is wrong"),
        ("better", 0, {"status": "sat"}, ""),
    ):
        other = tmp_path / name
        shutil.copytree(table.parent, other)
        rows = rows_in(table)
        rows[place] = type(rows[place])(**{**vars(rows[place]), **values})
        write_rows(other / "results.csv", rows)
        if said:
            with pytest.raises(StoreError, match=said):
                merge_results([table.parent, other], tmp_path / "all")
            assert not (tmp_path / "all").exists()
        else:
            found = merge_results([table.parent, other], tmp_path / "all")
            assert [(row.name, row.status) for row in found] == [("net x", "sat"), ("net y", "unsat")]


def test_long_names_that_begin_alike_keep_their_own_results(tmp_path: Path) -> None:
    files = [Path(f"{'p' * 160}{k}.vnnlib") for k in range(2)]
    listed = list(told_apart(Instance(Path("net.onnx"), file, 60.0, None) for file in files))
    said = zip(listed, ("unsat", "sat"), strict=True)
    rows = [BenchRow(one.name, "net", 60.0, "", status, 1.0) for one, status in said]
    for part in (tmp_path / "a", tmp_path / "b"):
        part.mkdir()
        write_rows(part / "results.csv", rows)
        for one, row in zip(listed, rows, strict=True):
            result_file(part, one).write_text(f"{row.status}\n")
    merged = merge_results([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert [row.name for row in merged] == [one.name for one in listed]
    assert [result_file(tmp_path / "all", one).read_text() for one in listed] == ["unsat\n", "sat\n"]
