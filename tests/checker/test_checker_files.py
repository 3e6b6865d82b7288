"""Containers of certificates and networks byte by byte: what is written, what is read, and what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_checker import node

from verifier.checker import document, memory
from verifier.checker.audit import audit
from verifier.checker.document import DEPTH, Document, claim_digest, packed_network, read_network
from verifier.checker.network import CanonicalNetwork


def packed(path: Path, header: Any, body: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(gzip.compress((len(text) if length is None else length).to_bytes(8, "little") + text + body))
    return path


def unpacked(path: Path) -> tuple[dict[str, Any], int, bytes]:
    content = gzip.decompress(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), start, content[start:]


KEPT = Path(__file__).resolve().parents[1] / "certificate" / "kept"
META = {"__metadata__": {"certificate": '{"version":1}'}}


def entry(dtype: str, shape: Any, first: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


def test_every_type_and_shape_is_read(tmp_path: Path) -> None:
    a, b = np.arange(3.0), np.array([True, False])
    entries = {"a": entry("F64", [3], 0, 24), "b": entry("BOOL", [2, 1], 24, 26), "c": entry("U8", [], 26, 27)}
    entries["d"] = entry("I64", [0, 5], 27, 27)
    read = Document.read(packed(tmp_path / "x", {**META, **entries}, a.tobytes() + b.tobytes() + b"\xc8")).arrays
    assert np.array_equal(read["a"], a) and read["b"].tolist() == [[True], [False]] and read["c"] == 200
    assert read["d"].shape == (0, 5) and read["d"].dtype == np.int64
    assert Document.read(packed(tmp_path / "x", META)).arrays == {}


#: entries and bytes of a container, and what is said of it
BROKEN: list[tuple[dict[str, Any], bytes, str]] = [
    ({"a": entry("U8", [2.0], 0, 2)}, b"12", "malformed shape"), ({"a": entry("U8", [True], 0, 1)}, b"1", "malformed"),
    ({"a": entry("U8", [None], 0, 1)}, b"1", "malformed shape"), ({"a": entry("U8", [1], 0.0, 1)}, b"1", "malformed"),
    ({"a": entry("U8", [1], 0, 1.0)}, b"1", "malformed shape"),
    ({"a": entry("U8", [-1, -2], 0, 2)}, b"12", "malformed shape"),
    ({"a": entry("U8", [-1], 0, -1), "b": entry("U8", [3], -1, 2)}, b"12", "malformed shape"),
    ({"a": entry("U8", [2], 0, 1)}, b"1", "outside"), ({"a": entry("U8", [1], 0, 2)}, b"12", "outside"),
    ({"a": entry("U8", [3], 0, 3)}, b"12", "outside"), ({"a": entry("U8", [1], 1, 2)}, b"12", "outside"),
    ({"a": entry("U8", [1], 0, 1), "b": entry("U8", [2], 0, 2)}, b"12", "outside"),
    ({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, b"123", "outside"),
    ({"a": entry("U8", [1], 0, 1)}, b"12", "belong to no array"), ({}, b"1", "belong to no array"),
    ({"a": entry("BOOL", [2], 0, 2)}, b"\0\2", "truth"), ({"a": entry("BOOL", [2], 0, 2)}, b"\2\1", "truth"),
    ({"a": entry("BF16", [1], 0, 2)}, b"12", "damaged"), ({"a": {"dtype": "U8"}}, b"", "damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "body", "message"), BROKEN)
def test_arrays_fill_the_file_and_are_what_they_say(
    entries: dict[str, Any], body: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Document.read(packed(tmp_path / "x", {**META, **entries}, body))


def test_headers_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"\0" * 7, (2).to_bytes(8, "little") + b"{"):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match="cut off"):
            Document.read(path)
    with pytest.raises(ValueError, match="cut off"):
        Document.read(packed(path, META, length=1000))
    for header in ([], 3, None, {}, {"__metadata__": 3}, {"__metadata__": []}, {"__metadata__": None}):
        with pytest.raises(ValueError, match="no metadata"):
            Document.read(packed(path, header))
    for certificate in (3, None, {}, "[]", "3"):
        with pytest.raises(ValueError, match="no certificate"):
            Document.read(packed(path, {"__metadata__": {"certificate": certificate}}))


def test_a_limit_is_the_most_that_is_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "x", META)
    size = len(gzip.decompress(path.read_bytes()))
    assert Document.read(path, size).head == {"version": 1}
    with pytest.raises(ValueError, match="larger"):
        Document.read(path, size - 1)
    body = packed(tmp_path / "y", {**META, "a": entry("U8", [40], 0, 40)}, bytes(40))
    size = len(gzip.decompress(body.read_bytes()))
    assert Document.read(body, size).arrays["a"].shape == (40,)
    with pytest.raises(ValueError, match=f"larger than {size - 1} bytes"):
        Document.read(body, size - 1)


def test_no_more_is_read_than_a_header_says_or_a_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files below unpack to gigabytes; what is read of them stays in a few megabytes."""
    zeros = 1 << 31
    claims: dict[str, tuple[dict[str, Any], int | None, str]] = {
        "more than it says": (META, None, "belong to no array"),
        "all that it says": ({**META, "a": entry("U8", [zeros], 0, zeros)}, None, "larger than 2097152 bytes"),
        "all of it header": (META, zeros, "its header is larger"),
        "a header beyond the limit": (META, 1 << 22, "its header is larger than 2097152 bytes"),
        "less than nothing": ({**META, "a": entry("U8", [-9], 0, -9)}, None, "malformed"),
    }
    monkeypatch.setattr(document, "machine", lambda: 1 << 23)
    for name, (header, length, message) in claims.items():
        path = tmp_path / "bomb"
        text = json.dumps(header).encode()
        start = (len(text) if length is None else length).to_bytes(8, "little") + text
        path.write_bytes(gzip.compress(start) + gzip.compress(bytes(1 << 24)) * (zeros >> 24))
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            Document.read(path)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 1 << 23, name


def test_one_file_that_fills_the_memory_is_one_bad_row(tmp_path: Path) -> None:
    kept = next(place.parent for place in sorted(KEPT.rglob("branch.cert")))
    for name in ("branch.cert", "network.rampart"):
        shutil.copy(kept / name, tmp_path)
    bomb = packed(tmp_path / "bomb.cert", {**META, "a": entry("U8", [1 << 50], 0, 1 << 50)}, bytes(1000))
    good, network = tmp_path / "branch.cert", read_network(tmp_path / "network.rampart")

    def hungry(_: CanonicalNetwork, read: Document) -> Any:
        raise MemoryError

    rows = list(audit([good, bomb, good], network))
    assert [row.valid for row in rows] == [True, False, True] and "larger than" in rows[1].reason
    assert ["more memory" in row.reason for row in audit([good, bomb], network, checker=hungry)] == [True, False]


def test_a_limit_is_shared_by_those_who_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "machine", lambda: 1 << 33)
    assert document.allowed() == 1 << 31 and document.allowed(4) == 1 << 29
    monkeypatch.setattr(document, "machine", lambda: 1 << 40)
    assert document.allowed() == document.LIMIT
    assert memory.machine() >= 1 << 20


def test_a_machine_has_what_its_container_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER", (tmp_path / "none", limit))
    limit.write_text("max\n")
    whole = memory.machine()
    limit.write_text("1048576\n")
    assert memory.machine() == 1048576 < whole
    limit.write_text(str(1 << 62))
    assert memory.machine() == whole


def test_arrays_are_aligned_and_headers_end_at_eights(tmp_path: Path) -> None:
    arrays = {"a": np.ones(3, np.uint8), "b": np.ones(3), "c": np.ones(1, np.float16), "d": np.ones(5, np.int32)}
    for k in range(8):
        (tmp_path / "x").write_bytes(Document({"x" * k: 1}, arrays).packed())
        header, start, body = unpacked(tmp_path / "x")
        assert start % 8 == 0 and header.pop("__metadata__") and header.keys() == arrays.keys()
        for name, found in header.items():
            first, end = found["data_offsets"]
            assert first % arrays[name].itemsize == 0 and body[first:end] == arrays[name].tobytes()
    for a in (np.ones(1, complex), np.array(["a"]), np.array([None])):
        with pytest.raises(ValueError, match="cannot hold"):
            Document({}, {"a": a}).packed()


def test_numbers_of_networks_take_half_the_bytes_where_that_changes_nothing(tmp_path: Path) -> None:
    for value, column, types in ((0.5, 1, ("F32", "I32")), (0.1, 2**40, ("F64", "I64")), (2.0, 2, ("F32", "I32"))):
        entries = {"row": np.array([0]), "column": np.array([column]), "value": np.array([value])}
        network = CanonicalNetwork((node("input", (), 2**41), node("sparse", (0,), 1, entries)))
        (tmp_path / "n").write_bytes(packed_network(network))
        header, _, _ = unpacked(tmp_path / "n")
        assert (header["1.value"]["dtype"], header["1.column"]["dtype"]) == types


def test_claims_are_not_nested_without_end() -> None:
    head = {"network": "", "semantics": "real", "parts": [{"set": {}}]}
    for wrapped in (lambda value: [value], lambda value: {"a": value}):
        deep: Any = 1
        for _ in range(DEPTH - 2):
            deep = wrapped(deep)
        claim_digest({**head, "specification": deep}, {})
        with pytest.raises(ValueError, match="levels"):
            claim_digest({**head, "specification": wrapped(deep)}, {})


@pytest.mark.parametrize("before", ["", "\\", '\\"', '"', "[" * 100, ']"[{', [[]] * 50, [{"a": []}] * 50])
def test_json_is_not_nested_without_end_whatever_its_texts_hold(before: Any, tmp_path: Path) -> None:
    for level in (lambda value: [value], lambda value: {"[": value}):
        value: Any = "]]]"
        for _ in range(DEPTH - 1):
            value = level(value)
        head = {"a": before, "b": value, "c": before}
        assert Document.read(packed(tmp_path / "x", {"__metadata__": {"certificate": json.dumps(head)}})).head == head
        deeper = json.dumps({**head, "b": level(value)})
        with pytest.raises(ValueError, match="levels"):
            Document.read(packed(tmp_path / "x", {"__metadata__": {"certificate": deeper}}))
