"""Reading an ONNX file that nobody vouches for: every size is checked before memory is taken for it."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from verifier.errors import InputError, ModelError, UnsupportedError
from verifier.files import check_file

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: bytes of a model with its external data: what protobuf can hold at all; and unpacked from a .gz file
MAX_BYTES = 2**31 - 1
MAX_UNPACKED = 2**30
#: entries of one tensor that the model computes
MAX_ENTRIES = 2**26
MAX_NODES = 100_000

_CHUNK = 2**20
_NUMBERS = {
    "FLOAT": torch.float32,
    "DOUBLE": torch.float64,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}


def require_onnx() -> None:
    """Raises InputError where the packages of the extra are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"ONNX models need a package that is not here ({error}): pip install 'rampart-verifier[onnx]'"
        ) from error


def read_model(path: str | os.PathLike[str]) -> ModelProto:
    """The model of a `.onnx` or `.onnx.gz` file, its external data read into it.

    Raises:
        InputError: no such file, unreadable, not ONNX, or too large.
        ModelError, UnsupportedError: ONNX, but of a kind that is not read here.
    """
    require_onnx()
    import onnx
    from google.protobuf.message import DecodeError

    where = Path(path)
    data = read_bytes(where)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        if not model.graph.node and not model.graph.output:
            raise InputError(f"{where} is not an ONNX model: it has no operators and no outputs")
        _check_kind(model, where)
        _embed_external_data(model, where)
    except (DecodeError, RuntimeError, UnicodeError) as error:
        raise InputError(f"{where} is not an ONNX model, or a damaged one: {error}") from error
    return model


def read_bytes(path: Path, limit: int = MAX_BYTES, unpacked: int = MAX_UNPACKED) -> bytes:
    """The content of a file, unpacked where its name ends in .gz; of so many bytes at most. Raises InputError."""
    check_file(path)
    try:
        if path.name.endswith(".gz"):
            return _unpacked(path, unpacked)
        if path.stat().st_size > limit:
            raise InputError(f"{path} is larger than {limit} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _unpacked(path: Path, limit: int) -> bytes:
    """A gzip file's content, a piece at a time, so that a small file cannot fill the memory."""
    parts: list[bytes] = []
    size = 0
    unpacker = zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        try:
            while packed := file.read(_CHUNK):
                while packed:
                    if unpacker.eof:  # a gzip file may be several, one after another
                        unpacker = zlib.decompressobj(wbits=31)
                    parts.append(unpacker.decompress(packed, _CHUNK))
                    size += len(parts[-1])
                    if size > limit:
                        raise InputError(f"{path} unpacks to more than {limit} bytes")
                    packed = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
        except zlib.error as error:
            raise InputError(f"{path} is not a gzip file, or a damaged one: {error}") from error
    if not unpacker.eof:
        raise InputError(f"{path} is cut off: its gzip stream has no end")
    return b"".join(parts)


def _check_kind(model: ModelProto, where: Path) -> None:
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise UnsupportedError(f"{where} has {len(graph.node)} operators; at most {MAX_NODES} are read")
    if model.functions:
        raise UnsupportedError(f"{where} defines functions of its own, which are not read: inline them on export")
    if graph.sparse_initializer:
        raise UnsupportedError(f"{where} has sparse weights, which are not read: store them dense")
    for node in graph.node:  # onnxruntime would read these, from wherever they say
        for attribute in node.attribute:
            if any(t.external_data or t.data_location for t in (attribute.t, *attribute.tensors)):
                raise UnsupportedError(f"{describe(node)} in {where} has data in a file of its own, which is not read")


# --- tensors


def stored_tensor(proto: TensorProto, what: str) -> Tensor:
    """A stored tensor [*shape], with its sizes checked against the data that is there.

    Raises:
        ModelError: the data does not fit the shape. UnsupportedError: not a kind of number that is computed with here.
    """
    from onnx import TensorProto, numpy_helper

    try:
        kind = TensorProto.DataType.Name(proto.data_type)
    except ValueError as error:
        raise ModelError(f"{what} has an unknown type of number, {proto.data_type}") from error
    if kind not in _NUMBERS:
        raise UnsupportedError(
            f"{what} holds {kind} numbers; those computed with here are {', '.join(_NUMBERS)}. "
            "Export the model in float32"
        )
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        raise UnsupportedError(f"{what} lies in a file of its own, which only the graph's initialisers may")
    shape = checked_shape(proto.dims, what, limit=MAX_BYTES)
    dtype = _NUMBERS[kind]
    count = math.prod(shape)
    if proto.HasField("raw_data"):
        wanted, stored = count * dtype.itemsize, len(proto.raw_data)
        if stored != wanted:
            raise ModelError(f"{what} of shape {list(shape)} needs {wanted} bytes and has {stored}: a damaged file?")
    elif sum(_typed_lengths(proto)) != count:
        raise ModelError(f"{what} of shape {list(shape)} has {sum(_typed_lengths(proto))} numbers: a damaged file?")
    try:
        array = np.array(numpy_helper.to_array(proto))  # a copy: the bytes in the file are read-only
    except Exception as error:
        raise ModelError(f"{what} cannot be read: {error}") from error
    if array.shape != shape:
        raise ModelError(f"{what} has shape {list(array.shape)} and says {list(shape)}")
    tensor = torch.from_numpy(array)
    if tensor.dtype != dtype:
        raise ModelError(f"{what} holds {tensor.dtype} and says {dtype}")
    return tensor


def _typed_lengths(proto: TensorProto) -> tuple[int, ...]:
    return len(proto.float_data), len(proto.int32_data), len(proto.int64_data), len(proto.double_data)


def checked_shape(dims: Any, what: str, limit: int = MAX_ENTRIES) -> tuple[int, ...]:
    """The dimensions as a shape of at most `limit` entries. Raises ModelError, UnsupportedError."""
    shape = tuple(int(d) for d in dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"{what} has shape {list(shape)}: a size must not be negative")
    if len(shape) > 16:
        raise UnsupportedError(f"{what} has {len(shape)} dimensions; at most 16 are read")
    if math.prod(shape) > limit:
        raise UnsupportedError(f"{what} has shape {list(shape)}, more than {limit} entries")
    return shape


# --- external data


def _embed_external_data(model: ModelProto, where: Path) -> None:
    """Weights that lie in files beside the model, put into it; no other file is touched."""
    from onnx import TensorProto

    total = 0
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            data = _external(tensor, where)
            total += len(data)
            if total > MAX_BYTES:
                raise UnsupportedError(f"{where} has more than {MAX_BYTES} bytes of weights in other files")
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = data


def files_beside(path: Path) -> list[Path]:
    """The files with weights that a model names and that are there; none where it cannot be read."""
    require_onnx()
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_bytes(path))
        tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
        names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
        folder = path.parent.resolve()
        files = [folder / name for name in sorted(names)]
        return [file for file in files if file.resolve().is_relative_to(folder) and file.is_file()]
    except (DecodeError, InputError, OSError, RuntimeError, UnicodeError, ValueError):
        return []


def _external(tensor: TensorProto, where: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"initialiser {tensor.name!r} of {where}"
    outside = f"{what} names the external file {location!r}, which is not a plain file in the model's folder"
    parts = Path(location).parts
    if not location or "\0" in location or Path(location).is_absolute() or ".." in parts or "\\" in location:
        raise InputError(outside)
    try:
        folder = where.parent.resolve(strict=True)
        file = (folder / location).resolve(strict=True)
        if not file.is_relative_to(folder) or not file.is_file():
            raise InputError(outside)
        offset = int(entries.get("offset", "0") or 0)
        size = file.stat().st_size
        length = int(entries["length"]) if entries.get("length") else size - offset
        if offset < 0 or length < 0 or offset + length > size or length > MAX_BYTES:
            raise InputError(f"{what} reads {length} bytes from {offset} on in {file}, which has {size}")
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise InputError(f"{what} names the external file {location!r}, which cannot be read: {error}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} has external data at offset or of length that is no number: {entries}") from error
    if len(data) != length:
        raise InputError(f"{what}: {file} ended early")
    return data


# --- order


def ordered_nodes(graph: GraphProto, known: set[str], output: str) -> list[NodeProto]:
    """The operators that `output` depends on, each after those it reads.

    Raises:
        ModelError: a name that is made twice or never, or a cycle.
    """
    makers: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers or name in known:
                raise ModelError(f"value {name!r} is made twice, by {describe(node)} the second time")
            makers[name] = number
    order: list[int] = []
    state: dict[int, int] = {}  # 1: being looked at, 2: done
    if output in known:
        return []
    if output not in makers:
        raise ModelError(f"the output {output!r} is made by no operator")
    stack: list[tuple[int, Iterator[str]]] = []

    def enter(number: int) -> None:
        state[number] = 1
        stack.append((number, iter(graph.node[number].input)))

    enter(makers[output])
    while stack:
        number, inputs = stack[-1]
        name = next(inputs, None)
        if name is None:
            state[number] = 2
            order.append(number)
            stack.pop()
        elif name and name not in known:
            if name not in makers:
                raise ModelError(f"{describe(graph.node[number])} reads {name!r}, which nothing makes")
            maker = makers[name]
            if state.get(maker) == 1:
                raise ModelError(f"the operators go in a circle: {describe(graph.node[maker])} depends on itself")
            if maker not in state:
                enter(maker)
    return [graph.node[i] for i in order]


def describe(node: NodeProto) -> str:
    """Which operator it is, for messages."""
    name = node.name or next(iter(node.output), "")
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    return f"operator {domain}{node.op_type} (node {name[:200]!r})"
