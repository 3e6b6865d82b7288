"""Folders of certificates that become one: of one network, with one claim for each number, and a text where none is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from verifier.certification.join import Joined
from verifier.checker.document import Document, packed_network, read_network
from verifier.errors import InputError, StoreError

KEPT = Path(__file__).resolve().parents[1] / "certificate" / "kept"


def folder(path: Path, network: str, **files: str) -> Path:
    """A folder with a network, and of each number a kept certificate of it, or a text."""
    path.mkdir()
    shutil.copy(KEPT / network / "network.rampart", path)
    for number, holds in files.items():
        if (KEPT / network / f"{holds}.cert").is_file():
            shutil.copy(KEPT / network / f"{holds}.cert", path / f"{number[1:]}.cert")
        else:
            (path / f"{number[1:]}.missing").write_text(holds)
    return path


def test_one_has_what_any_has(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", "relu", _1="no proof", _2="branch", _3="no time")
    b = folder(tmp_path / "b", "relu", _1="dual", _4="never tried")
    for k, order in enumerate(([a, b], [b, a])):
        joined = Joined.of(order, tmp_path / f"out{k}")
        assert not joined.out.exists(), "nothing is written before it is asked for"
        joined.write()
        held = {path.name: path.read_bytes() for path in joined.out.iterdir()}
        assert held.keys() == {"network.rampart", "1.cert", "2.cert", "3.missing", "4.missing"}
        assert held["1.cert"] == (b / "1.cert").read_bytes() and held["2.cert"] == (a / "2.cert").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "out0", "out1"}


def test_networks_are_compared_where_no_number_is_in_both(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", "relu", _1="dual"), folder(tmp_path / "b", "tanh", _2="dual-adaptive")
    with pytest.raises(StoreError, match="certificates of different networks"):
        Joined.of([a, b], tmp_path / "out")
    (b / "network.rampart").write_bytes(b"none")
    with pytest.raises(InputError, match="is no folder of certificates"):
        Joined.of([a, b], tmp_path / "out")
    (b / "network.rampart").write_bytes(packed_network(read_network(a / "network.rampart")))
    assert Joined.of([a, b], tmp_path / "out").certificates.keys() == {"1.cert", "2.cert"}


def test_of_one_claim_the_smaller_certificate_is_taken_and_of_two_none(tmp_path: Path) -> None:
    same = sorted((KEPT / "relu").glob("*.cert"))
    first = Document.read(same[0])
    other = next(p for p in same if Document.read(p).head["claim"] != first.head["claim"])
    equal = next(p for p in same[1:] if Document.read(p).head["claim"] == first.head["claim"])
    a, b = folder(tmp_path / "a", "relu", _1=same[0].stem), folder(tmp_path / "b", "relu", _1=equal.stem)
    c = folder(tmp_path / "c", "relu", _1=other.stem)
    least = min((same[0], equal), key=lambda path: path.stat().st_size)
    for order in ([a, b], [b, a]):
        chosen = Joined.of(order, tmp_path / "out").certificates["1.cert"]
        assert chosen.read_bytes() == least.read_bytes()
    with pytest.raises(StoreError, match="claim different things"):
        Joined.of([a, c], tmp_path / "out")
