"""Certificates that version 0.1.0 wrote are valid today: the format has not changed, nor what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from verifier.checker.__main__ import main
from verifier.checker.audit import NETWORK, SUFFIX
from verifier.checker.check import check
from verifier.checker.document import Document, read_network

KEPT = Path(__file__).parent / "kept"
FILES = sorted(KEPT.glob(f"*/*{SUFFIX}"))


def test_there_is_one_of_every_kind_of_proof() -> None:
    kinds = set()
    for path in FILES:
        for part in Document.read(path).head["parts"]:
            kinds |= {
                next(k for k in ("rule", "slopes", "cases", "boxes", "sdp") if k in proof) for proof in part["proofs"]
            }
    assert kinds == {"rule", "slopes", "cases", "boxes", "sdp"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_is_valid(path: Path) -> None:
    found = check(read_network(path.parent / NETWORK), Document.read(path))
    assert found.valid, found.reason


@pytest.mark.parametrize("folder", sorted(KEPT.iterdir()), ids=lambda folder: folder.name)
def test_folders_are_checked_by_the_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--jobs", "1"]) == 0
    assert "valid" in capsys.readouterr().out
