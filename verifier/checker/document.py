"""The file of a certificate, and of a network that certificates are about: a safetensors container in gzip.

A container is 8 bytes with the length of a JSON header, the header (name -> dtype, shape, place), and the numbers.
The certificate's own JSON is a string in the header's metadata. Reading trusts nothing: a file that is cut off,
changed, or of another kind is a FileError that says so, and no file makes it take more memory than the limit allows.
Putting the bytes into a file is for those who make certificates.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.checker.errors import FileError
from verifier.checker.memory import machine
from verifier.checker.network import CanonicalNetwork, CanonicalNode

#: bytes of a file when unpacked, bytes of its header, and levels of its JSON, at most
LIMIT, HEADER, DEPTH = 1 << 32, 1 << 26, 24
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(t): name for name, t in _TYPES.items()}


@dataclass(frozen=True, eq=False)
class Document:
    """A certificate as it is written: `head` is JSON, a string in it may name one of `arrays`."""

    head: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def packed(self) -> bytes:
        """The bytes of its file, the same ones every time. Raises ValueError: an array of a type that no file holds."""
        return _packed("certificate", self.head, self.arrays)

    @classmethod
    def read(cls, path: str | os.PathLike[str], limit: int | None = None) -> Document:
        """Read it; no more of it than its header says that there is.

        Args:
            limit: bytes when unpacked; None: a quarter of the machine's memory, at most LIMIT.

        Raises:
            FileError: no such file, or it is damaged, larger than `limit` when unpacked, or no certificate.
        """
        return cls(*_read(path, "certificate", limit))


def claim_digest(head: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """sha256 over what is claimed: network, semantics, specification and every part's set, with their numbers.

    How it is proved, and what arrays are called, does not matter.

    Raises:
        ValueError: the head lacks one of these, or is nested too deeply.
    """
    try:
        sets = [part["set"] for part in head["parts"]]
        claim = [head["network"], head["semantics"], head["specification"], sets]
    except (KeyError, TypeError) as error:
        raise ValueError(f"the certificate does not say what it claims: {error!r} is missing or malformed") from None
    return hashlib.sha256(_json(_resolved(claim, arrays, DEPTH))).hexdigest()


def _resolved(value: Any, arrays: dict[str, np.ndarray], depth: int) -> Any:
    """With digests of arrays in place of their names."""
    if depth == 0:
        raise ValueError(f"the certificate's JSON is nested more than {DEPTH} levels deep")
    if isinstance(value, str) and value in arrays:
        a = np.ascontiguousarray(arrays[value])
        return {"dtype": _NAMES[a.dtype], "shape": list(a.shape), "sha256": hashlib.sha256(_bytes(a)).hexdigest()}
    if isinstance(value, dict):
        return {str(k): _resolved(v, arrays, depth - 1) for k, v in value.items()}
    return [_resolved(v, arrays, depth - 1) for v in value] if isinstance(value, (list, tuple)) else value


def packed_network(network: CanonicalNetwork) -> bytes:
    """The bytes of a network's file, numbers that are float32 as float32."""
    nodes, arrays = [], {}
    for k, node in enumerate(network.nodes):
        names = {name: f"{k}.{name}" for name in node.arrays}
        arrays.update({names[name]: _small(a) for name, a in node.arrays.items()})
        node_head = {"kind": node.kind, "parents": list(node.parents), "size": node.size}
        nodes.append({**node_head, "arrays": names, "options": node.options})
    return _packed("network", {"version": 1, "digest": network.digest, "nodes": nodes}, arrays)


def read_network(path: str | os.PathLike[str], limit: int | None = None) -> CanonicalNetwork:
    """Read a network, and compare its digest with the one it was written with; `limit` as of `Document.read`.

    Raises:
        FileError: no such file, or it is damaged, larger than `limit` when unpacked, or no network.
    """
    head, arrays = _read(path, "network", limit)
    try:
        nodes = []
        for record in head["nodes"]:
            own = {name: arrays[place] for name, place in record["arrays"].items()}
            own = {
                k: a.astype(np.int64 if k in ("row", "column", "left", "right") else np.float64) for k, a in own.items()
            }
            nodes.append(
                CanonicalNode(record["kind"], tuple(record["parents"]), record["size"], own, record["options"])
            )
        network, digest = CanonicalNetwork(tuple(nodes)), head["digest"]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise FileError(f"{path} holds a malformed network: {error!r}") from None
    except ValueError as error:
        raise FileError(f"{path} holds a malformed network: {error}") from None
    if network.digest != digest:
        raise FileError(f"{path} holds another network than it says: digest {network.digest}, not {digest}")
    return network


def _small(a: np.ndarray) -> np.ndarray:
    """In half the bytes, where that changes nothing."""
    with np.errstate(over="ignore", under="ignore"):
        half = a.astype(np.int32 if a.dtype.kind == "i" else np.float32)
    return half if np.array_equal(half, a) else a


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _bytes(a: np.ndarray) -> bytes:
    return np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes()


def _packed(key: str, head: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {key: _json(head).decode()}}
    place, blocks = 0, []
    # aligned, as readers of the format expect: the widest numbers first
    for name, a in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        if a.dtype not in _NAMES:
            raise ValueError(f"array {name!r} is of type {a.dtype}, which a certificate cannot hold")
        blocks.append(_bytes(a))
        end = place + len(blocks[-1])
        header[name] = {"dtype": _NAMES[a.dtype], "shape": list(a.shape), "data_offsets": [place, end]}
        place = end
    text = _json(header)
    text += b" " * (-len(text) % 8)
    found = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=found, mtime=0) as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(blocks))
    return found.getvalue()


def allowed(readers: int = 1) -> int:
    """Bytes that a file may have when unpacked, where so many are read at once."""
    return min(LIMIT, machine() // (4 * readers))


def _read(path: str | os.PathLike[str], key: str, limit: int | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    most = allowed() if limit is None else limit
    try:
        with gzip.open(path) as file:
            header = _header(file, min(most, HEADER))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            size = max([0, *(end for end in ends if type(end) is int)])
            if file.tell() + size > most:
                raise FileError(
                    f"{path} is larger than {most} bytes when unpacked; give a larger limit if you trust it"
                )
            return _unpacked(header, file.read(size + 1), key)  # one more than there should be
    except FileError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path} cannot be read as a {key}: {error or type(error).__name__}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise FileError(f"{path} is no {key}, or it is damaged: {error}") from None
    except MemoryError:
        raise FileError(f"{path} takes more memory to read than there is") from None


def _header(file: gzip.GzipFile, most: int) -> dict[str, Any]:
    start = file.read(8)
    size = int.from_bytes(start, "little")
    if len(start) < 8:
        raise ValueError("its header is cut off")
    if size > most:
        raise ValueError(f"its header is larger than {most} bytes")
    text = file.read(size)
    if len(text) < size:
        raise ValueError("its header is cut off")
    header = _parsed(text.decode())
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise ValueError("it has no metadata")
    return header


def _unpacked(header: dict[str, Any], content: bytes, key: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    text = header.pop("__metadata__").get(key)
    head = _parsed(text) if isinstance(text, str) else None
    if not isinstance(head, dict):
        raise ValueError(f"its metadata holds no {key}")
    arrays, place = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        dtype, shape, (first, end) = np.dtype(_TYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, first, end)):
            raise ValueError(f"array {name!r} has a malformed shape or place")
        if first != place or end - first != math.prod(shape) * dtype.itemsize or end > len(content):
            raise ValueError(f"array {name!r} lies outside of the file, or is not of its own size")
        flat = np.frombuffer(content, dtype.newbyteorder("<"), math.prod(shape), first)
        if dtype == np.bool_ and bool((flat.view(np.uint8) > 1).any()):
            raise ValueError(f"array {name!r} holds truth values that are neither 0 nor 1")
        arrays[name], place = flat.astype(dtype, copy=False).reshape(shape), end
    if place != len(content):
        raise ValueError("there are bytes that belong to no array")
    return head, arrays


def _parsed(text: str) -> Any:
    """JSON of at most DEPTH levels, without numbers that are none."""
    depth, deepest, quoted, escaped = 0, 0, False, False
    for c in text:
        if quoted:
            quoted, escaped = escaped or c != '"', c == "\\" and not escaped
        elif c == '"':
            quoted = True
        elif c in "[{":
            depth, deepest = depth + 1, max(deepest, depth + 1)
        elif c in "]}":
            depth -= 1
    if deepest > DEPTH:
        raise ValueError(f"its JSON is nested more than {DEPTH} levels deep")

    def refused(name: str) -> Any:
        raise ValueError(f"its JSON holds {name}")

    return json.loads(text, parse_constant=refused)
