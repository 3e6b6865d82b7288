"""What is said of each certificate: which files are looked at, which are valid, and with what exit code."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_checker import node

from verifier.checker import __main__ as command
from verifier.checker import audit as module
from verifier.checker.audit import Audited, audit, certificates_in, claim, line, summary
from verifier.checker.check import check
from verifier.checker.document import Document, claim_digest, packed_network
from verifier.checker.errors import FileError
from verifier.checker.network import CanonicalNetwork

NETWORK = CanonicalNetwork((node("input", (), 3),))


def written(path: Path, x: list[float], eps: float = 0.25, **region: Any) -> Path:
    """A certificate that the first of three inputs is the largest, all around x."""
    arrays = {"x": np.array(x), "chosen": np.arange(2)}
    part = {"set": {"kind": "linf", "x": "x", "eps": eps, **region}, "bounds": []}
    part["proofs"] = [{"rule": "interval", "rows": "chosen"}]
    head = {"version": 1, "network": NETWORK.digest, "semantics": "real", "parts": [part], "about": {"index": 7}}
    head["specification"] = {"kind": "robustness", "label": 0, "classes": 3}
    head["claim"] = claim_digest(head, arrays)
    path.write_bytes(Document(head, arrays).packed())
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A valid certificate, one that proves too little, a file that is none, and the network beside them."""
    good, bad = written(tmp_path / "a.cert", [3.0, 1.0, 2.0]), written(tmp_path / "b.cert", [3.0, 1.0, 2.75])
    (tmp_path / "c.cert").write_bytes(b"no certificate")
    (tmp_path / "network.rampart").write_bytes(packed_network(NETWORK))
    return [good, bad, tmp_path / "c.cert"]


def test_a_row_says_what_was_found(files: list[Path]) -> None:
    good, bad, none = audit(files, NETWORK)
    assert (good.path, good.valid, good.reason, good.semantics, good.about) == (
        files[0],
        True,
        "",
        "real",
        {"index": 7},
    )
    assert good.lower == check(NETWORK, Document.read(files[0])).clauses.min() == pytest.approx(0.5)
    assert good.claim == "label 0 over linf 0.25, real arithmetic"
    assert good.size == files[0].stat().st_size and good.seconds > 0
    assert not bad.valid and "1 of 2 clauses are not proved" in bad.reason and not none.valid and none.reason
    for row in (bad, none):
        assert (row.lower, row.claim, row.semantics) == (-np.inf, "", "")
    assert line(good) == (
        f"valid    a.cert  > {good.lower:.6g}  {good.claim}  {good.size / 1000:.1f} kB  {good.seconds:.3f} s"
    )
    assert line(bad) == f"INVALID  b.cert: {bad.reason}"
    some = [replace(row, size=10 * k, seconds=2.0**k) for k, row in enumerate((none, good, bad))]
    assert summary(some, NETWORK) == (
        f"1 of 3 certificates are valid\nnetwork {NETWORK.digest}\n"
        "bytes: median 10, most 20; seconds: median 2.000, most 4.000, all 7.0"
    )


def test_claims_name_their_sets_and_valid_ranges(tmp_path: Path) -> None:
    ends = [{}, {"low": 0.0, "high": 1.0}, {"high": 4.0}]
    of = [Document.read(written(tmp_path / "x", [3.0, 1.0, 2.0], **given)) for given in ends]
    named = ["linf 0.25", "linf 0.25 within [0, 1]", "linf 0.25 within [-, 4]"]
    assert [claim(one) for one in of] == [f"label 0 over {name}, real arithmetic" for name in named]
    parts = [part for one in of for part in one.head["parts"]]
    rows = {"kind": "rows", "rows": "rows", "offset": "offset", "clause": "clause"}
    for count, dots in ((3, ""), (4, " ...")):
        several = Document(of[0].head | {"parts": (parts * 2)[:count], "specification": rows}, of[0].arrays)
        assert claim(several) == f"rows of its own over {' and '.join(named)}{dots}, real arithmetic"


class Started:
    """What is started, in place of processes."""

    def __init__(self) -> None:
        self.processes: list[int] = []
        self.chunks: list[int] = []

    def Pool(self, count: int, begin: Any, arguments: tuple[Any, ...]) -> Started:
        self.processes.append(count)
        begin(*arguments)
        return self

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def imap(self, work: Any, paths: list[Path], chunksize: int) -> Iterator[Audited]:
        self.chunks.append(chunksize)
        return map(work, paths)


def test_processes_are_started_where_there_is_work_for_them(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(count: int, jobs: int) -> tuple[list[int], list[int]]:
        started = Started()
        monkeypatch.setattr(module.multiprocessing, "get_context", lambda _: started)
        monkeypatch.setattr(module.resource_tracker, "ensure_running", lambda: None)
        given = (files * 100)[:count]
        assert [row.valid for row in audit(given, NETWORK, jobs)] == [path == files[0] for path in given]
        return started.processes, started.chunks

    assert rows(3, 1) == rows(1, 4) == rows(3, 0) == ([], [])
    assert rows(3, 2) == ([2], [1]) and rows(2, 3) == ([2], [1])
    assert rows(48, 4) == ([4], [3]) and rows(160, 2) == ([2], [16])


def test_folders_are_read_themselves_or_what_is_below_them(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("b.cert", "a.cert", "deep/2/x.cert", "deep/1/y.cert", "deep/1/z.txt")]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    b, a, x, y, z = places
    assert certificates_in([tmp_path]) == [a, b] and certificates_in([tmp_path / "deep"]) == [y, x]
    assert certificates_in([z, tmp_path, x]) == [z, a, b, x]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="holds no certificates"):
        certificates_in([tmp_path, tmp_path / "empty"])
    with pytest.raises(FileError, match="there is no file or folder"):
        certificates_in([tmp_path / "none"])


def test_one_invalid_certificate_is_a_failure(
    files: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, none = map(str, files)
    assert [command.main([*places, "--jobs", "1"]) for places in ([good], [good, bad], [none], [none, good])] == [
        0, 1, 1, 1,
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert said.count("valid    a.cert") == 3 and said.count("INVALID  ") == 3 and "1 of 2 certificates are" in said
    assert command.main([good, "--network", bad]) == command.main([f"{good}.none"]) == 2
    other = files[0].parent / "other.rampart"
    (files[0].parent / "network.rampart").rename(other)
    assert command.main([good]) == 2 and command.main([good, "--network", str(other)]) == 0
    assert "network.rampart" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(
        command, "audit", lambda paths, network, jobs: asked.append(jobs) or iter(audit(paths, network))
    )
    assert command.main([good, "--network", str(other)]) == 0 and asked == [os.cpu_count()]


def test_the_module_is_the_command(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for places, code in ((files[:1], 0), (files, 1)):
        monkeypatch.setattr(sys, "argv", ["checker", *map(str, places), "--jobs", "1"])
        monkeypatch.delitem(sys.modules, "verifier.checker.__main__", raising=False)
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("verifier.checker", run_name="__main__")
        assert ended.value.code == code
