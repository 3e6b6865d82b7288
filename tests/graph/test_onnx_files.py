"""ONNX files that are damaged, hostile or beyond what can be verified: a clear error, always of our own kinds."""

from __future__ import annotations

import gzip
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
from helpers.onnx_models import FLOAT, floats, ints, model, one, weights
from onnx import ModelProto, TensorProto, external_data_helper, helper, save

from verifier.errors import InputError, ModelError, UnsupportedError, VerifierError
from verifier.graph import onnx_file
from verifier.graph.onnx_model import OnnxModel

node = helper.make_node


def _network() -> ModelProto:
    nodes = [
        node("Sub", ["x", "mean"], ["s"]),
        node("Conv", ["s", "w", "b"], ["c"], pads=[1, 1, 1, 1], name="first"),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["m"], ["f"]),
        node("Gemm", ["f", "v", "d"], ["y"], transB=1),
    ]
    constants = {
        "mean": weights(1, 2, 1, 1),
        "w": weights(3, 2, 3, 3),
        "b": weights(3),
        "v": weights(4, 12),
        "d": weights(4),
    }
    return model(nodes, ("N", 2, 4, 4), constants)


def _written(tmp_path: Path, made: ModelProto | bytes, name: str = "net.onnx") -> Path:
    path = tmp_path / name
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return path


def test_gzip_is_read_as_the_plain_file(tmp_path: Path) -> None:
    plain = OnnxModel.load(_written(tmp_path, _network()))
    packed = gzip.compress(_network().SerializeToString())
    half = len(packed) // 2
    assert OnnxModel.load(_written(tmp_path, packed, "net.onnx.gz")).graph.digest() == plain.graph.digest()
    with pytest.raises(InputError, match="cut off"):
        OnnxModel.load(_written(tmp_path, packed[:half], "half.onnx.gz"))
    with pytest.raises(InputError, match="gzip"):
        OnnxModel.load(_written(tmp_path, _network(), "plain.onnx.gz"))


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = _written(tmp_path, gzip.compress(b"\0" * 2**24), "bomb.onnx.gz")
    with pytest.raises(InputError, match="more than 1000000 bytes"):
        onnx_file.read_bytes(path, unpacked=10**6)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"not a model", bytes(range(256)) * 9], ids=["empty", "0", "text", "x"]
)
def test_what_is_no_model_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="not an ONNX model"):
        OnnxModel.load(_written(tmp_path, content))
    with pytest.raises(InputError, match="there is no file"):
        OnnxModel.load(tmp_path / "missing.onnx")


def test_damaged_files_raise_errors_of_ours_only(tmp_path: Path) -> None:
    """Truncated anywhere, and with random bytes changed: mostly refused, never another kind of exception."""
    whole = _network().SerializeToString()
    source = random.Random(0)
    damaged = [whole[:n] for n in range(0, len(whole), 97)]
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(source.choice((1, 1, 2, 8))):
            at = source.randrange(len(data)) if source.random() < 0.5 else source.randrange(200)
            data[at] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
        damaged.append(bytes(data))
    refused = sum(_refused(_written(tmp_path, data)) for data in damaged)
    assert refused > len(damaged) // 3


def _refused(path: Path) -> bool:
    try:
        OnnxModel.load(path)
    except VerifierError as error:
        assert not isinstance(error, AssertionError), error
        return True
    return False


def test_models_with_changed_fields_raise_errors_of_ours_only() -> None:
    """Valid protobuf with odd content: attributes, wiring, shapes and types changed at random."""
    source = random.Random(1)
    for _ in range(250):
        made = _network()
        for _ in range(source.choice((1, 1, 2, 3))):
            source.choice(_CHANGES)(made, source)
        try:
            OnnxModel(made)
        except VerifierError as error:
            assert not isinstance(error, AssertionError), error


def _change_attribute(made: ModelProto, source: random.Random) -> None:
    attributes = [a for n in made.graph.node for a in n.attribute]
    chosen = source.choice(attributes)
    numbers = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 10**6, 2**31, 2**63 - 1)
    chosen.i = source.choice(numbers)
    del chosen.ints[:]
    chosen.ints.extend(source.choice(numbers) for _ in range(source.choice((0, 1, 2, 2, 4, 4))))
    if source.random() < 0.2:
        chosen.type = source.choice((1, 2, 3, 4, 5, 6, 7, 8, 10))


def _change_wiring(made: ModelProto, source: random.Random) -> None:
    names = ["x", "", "nothing", *(n.output[0] for n in made.graph.node), *(t.name for t in made.graph.initializer)]
    chosen = source.choice(made.graph.node)
    where = source.choice((chosen.input, chosen.output))
    if where:
        where[source.randrange(len(where))] = source.choice(names)
    if source.random() < 0.2:
        chosen.input.append(source.choice(names))


def _change_operator(made: ModelProto, source: random.Random) -> None:
    from verifier.graph.onnx_walker import supported_onnx_operators

    source.choice(made.graph.node).op_type = source.choice([*supported_onnx_operators(), "Softmax", "Loop", "Nonsense"])


def _change_shape(made: ModelProto, source: random.Random) -> None:
    sizes = (-1, 0, 1, 2, 3, 5, 2**40)
    tensor = source.choice(made.graph.initializer)
    dims = source.choice((tensor.dims, None))
    if dims is not None and len(dims):
        dims[source.randrange(len(dims))] = source.choice(sizes)
    else:
        source.choice(made.graph.input[0].type.tensor_type.shape.dim).dim_value = source.choice(sizes)


def _change_type(made: ModelProto, source: random.Random) -> None:
    if source.random() < 0.5:
        source.choice(made.graph.initializer).data_type = source.randrange(30)
    else:
        made.graph.input[0].type.tensor_type.elem_type = source.randrange(20)


def _change_opset(made: ModelProto, source: random.Random) -> None:
    made.opset_import[0].version = source.choice((-1, 0, 1, 6, 7, 9, 10, 11, 12, 18, 21, 99))


_CHANGES: list[Callable[[ModelProto, random.Random], None]] = [
    _change_attribute,
    _change_attribute,
    _change_wiring,
    _change_operator,
    _change_shape,
    _change_type,
    _change_opset,
]


# --- data in other files ---------------------------------------------------------------------------------------------


def _external(tmp_path: Path, **changes: str) -> Path:
    folder = tmp_path / "net"
    folder.mkdir()
    made = _network()
    external_data_helper.convert_model_to_external_data(made, location="weights.bin", size_threshold=0)
    save(made, str(folder / "net.onnx"))
    stored = ModelProto()
    stored.ParseFromString((folder / "net.onnx").read_bytes())
    for entry in stored.graph.initializer[0].external_data:
        if entry.key in changes:
            entry.value = changes[entry.key]
    return _written(folder, stored)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    assert OnnxModel.load(_external(tmp_path)).graph.digest() == OnnxModel(_network()).graph.digest()


@pytest.mark.parametrize("where", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "", "link.bin", "loop.bin"])
def test_external_data_outside_the_folder_is_not_touched(tmp_path: Path, where: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    path = _external(tmp_path, location=where)
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (path.parent / "loop.bin").symlink_to(path.parent / "loop.bin")
    with pytest.raises(InputError, match="external file"):
        OnnxModel.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": "100000"},
        {"length": "99999999"},
        {"length": "-5"},
        {"offset": "-5"},
        {"offset": "x"},
        {"length": "4"},
    ],
    ids=str,
)
def test_external_data_of_the_wrong_size_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    with pytest.raises(VerifierError, match=r"external|reads|bytes"):
        OnnxModel.load(_external(tmp_path, **changes))


# --- what cannot be verified -----------------------------------------------------------------------------------------


def _with(change: Callable[[ModelProto], Any], base: Callable[[], ModelProto] = _network) -> ModelProto:
    made = base()
    change(made)
    return made


def _tensor(name: str, kind: int, dims: list[int], raw: bytes) -> TensorProto:
    tensor = TensorProto(name=name, data_type=kind, raw_data=raw)
    tensor.dims.extend(dims)
    return tensor


def _weight(tensor: TensorProto) -> ModelProto:
    return _with(lambda m: m.graph.initializer.append(tensor), lambda: one("Add", (1, 4), ("x", tensor.name)))


def _branches() -> ModelProto:
    body = helper.make_graph([node("Relu", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", FLOAT, None)])
    return model(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Cast", ["t"], ["c"], to=TensorProto.BOOL),
            node("If", ["c"], ["i"], then_branch=body, else_branch=body),
            node("Add", ["i", "x"], ["y"]),
        ],
        (1, 4),
        {"t": ints(1)},
    )


HUGE = 2**62
REFUSED: dict[str, tuple[ModelProto, type[Exception], str]] = {
    "two inputs, one open": (
        _with(lambda m: m.graph.input.append(helper.make_tensor_value_info("z", FLOAT, [1, "n"]))),
        UnsupportedError,
        r"2 inputs.*'z' has no fixed shape",
    ),
    "two outputs": (
        _with(lambda m: m.graph.output.append(helper.make_tensor_value_info("r", FLOAT, None))),
        UnsupportedError,
        r"2 outputs \(y, r\)",
    ),
    "open size": (one("Relu", (1, "width")), UnsupportedError, "dimension 1 of the input 'x' has no fixed size .width"),
    "input of integers": (
        model([node("Abs", ["x"], ["y"])], (1, 4), kind=TensorProto.INT64),
        UnsupportedError,
        "float32",
    ),
    "absurd input": (one("Relu", (1, HUGE)), UnsupportedError, "entries"),
    "negative input": (one("Relu", (1, -4)), ModelError, "negative"),
    "empty input": (one("Relu", (1, 0)), ModelError, "must hold an entry"),
    "old opset": (one("Relu", (1, 4), opset=6), UnsupportedError, "opset 6"),
    "unknown operator": (
        one("Det", (1, 3, 3)),
        UnsupportedError,
        r"operator Det .node 'y'., opset 13.*\n *Supported: Abs",
    ),
    "other domain": (one("Relu", (1, 4), domain="com.acme"), UnsupportedError, "domain 'com.acme'"),
    "largest": (one("ArgMax", (1, 4)), UnsupportedError, "as a specification"),
    "branches": (_branches(), UnsupportedError, "control flow"),
    "division by zero": (one("Div", (1, 4), ("x", floats(0))), ModelError, "zero"),
    "NaN": (one("Add", (1, 4), ("x", floats(np.nan))), ModelError, "NaN"),
    "infinite": (one("MatMul", (1, 1), ("x", floats(np.inf).reshape(1, 1))), ModelError, "infinite"),
    "half precision": (_weight(_tensor("h", TensorProto.FLOAT16, [4], bytes(8))), UnsupportedError, "FLOAT16"),
    "too few bytes": (_weight(_tensor("h", FLOAT, [4], bytes(15))), ModelError, "needs 16 bytes and has 15"),
    "too large a shape": (_weight(_tensor("h", FLOAT, [HUGE, HUGE], b"")), UnsupportedError, "more than"),
    "negative shape": (_weight(_tensor("h", FLOAT, [-1, 4], bytes(16))), ModelError, "negative"),
    "unknown numbers": (_weight(_tensor("h", 77, [4], bytes(16))), ModelError, "unknown type"),
    "external attribute": (
        model(
            [
                node("Constant", [], ["k"], value=TensorProto(data_location=1, data_type=1)),
                node("Add", ["x", "k"], ["y"]),
            ],
            (1, 4),
        ),
        UnsupportedError,
        "file of its own",
    ),
    "circle": (
        model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"])], (1, 4), output="b"),
        ModelError,
        "circle",
    ),
    "of nothing": (one("Add", (1, 4), ("x", "nothing")), ModelError, "'nothing', which nothing makes"),
    "made twice": (model([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])], (1, 4)), ModelError, "made twice"),
    "constant output": (model([node("Relu", ["c"], ["y"])], (1, 4), {"c": floats(1)}), UnsupportedError, "not depend"),
    "huge expand": (one("Expand", (1, 4), ("x", ints(2**40, 4))), UnsupportedError, "entries"),
    "huge tile": (one("Tile", (1, 4), ("x", ints(2**40, 4))), UnsupportedError, "entries"),
    "huge pad": (one("Pad", (1, 4), ("x", ints(0, 0, 0, 2**40))), UnsupportedError, "entries"),
    "huge reflection": (one("Pad", (1, 4), ("x", ints(0, 0, 0, 2**40)), mode="edge"), UnsupportedError, "entries"),
    "huge padding": (
        one("Conv", (1, 1, 4, 4), ("x", weights(1, 1, 1, 1)), pads=[2**40] * 4),
        UnsupportedError,
        "entries",
    ),
    "huge stride": (
        one("ConvTranspose", (1, 1, 4, 4), ("x", weights(1, 1, 1, 1)), strides=[2**40] * 2),
        UnsupportedError,
        "entries",
    ),
    "huge window": (
        one("MaxPool", (1, 1, 4, 4), kernel_shape=[2**30] * 2, pads=[2**30 - 1] * 4),
        UnsupportedError,
        "entries",
    ),
    "huge average": (
        one("AveragePool", (1, 1, 4, 4), kernel_shape=[1, 1], pads=[0, 0, 2**40, 2**40]),
        UnsupportedError,
        "entries",
    ),
    "huge resize": (one("Resize", (1, 1, 4, 4), ("x", "", floats(1, 1, 1e8, 1e8))), UnsupportedError, "entries"),
    "huge constant": (
        model([node("ConstantOfShape", ["n"], ["k"]), node("Add", ["x", "k"], ["y"])], (1, 4), {"n": ints(2**40)}),
        UnsupportedError,
        "entries",
    ),
    "huge range": (
        model(
            [node("Range", ["a", "b", "c"], ["k"]), node("Gather", ["x", "k"], ["y"])],
            (1, 4),
            {"a": np.int64(0), "b": np.int64(2**60), "c": np.int64(1)},
        ),
        UnsupportedError,
        "entries",
    ),
    "resize without the outside": (
        one("Resize", (1, 1, 4, 4), ("x", "", floats(1, 1, 2, 2)), mode="cubic", exclude_outside=1),
        UnsupportedError,
        "exclude_outside",
    ),
    "training": (
        one("Dropout", (1, 4), ("x", np.float32(0.5), np.array(True)), 13),
        ModelError,
        "eval mode",
    ),
    "batch norm in training": (
        one("BatchNormalization", (1, 4), ("x", *[np.abs(weights(4))] * 4), 15, training_mode=1),
        ModelError,
        "eval mode",
    ),
    "index outside": (one("Gather", (1, 4), ("x", ints(4)), axis=1), ModelError, "outside"),
    "index that depends": (
        model(
            [node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("Gather", ["c", "i"], ["y"])],
            (1, 4),
            {"c": weights(9)},
        ),
        UnsupportedError,
        "indices depends on the model's input",
    ),
    "shape that does not fit": (one("Reshape", (1, 4), ("x", ints(3, -1))), ModelError, "cannot become"),
    "matrix that does not fit": (one("MatMul", (1, 4), ("x", weights(3, 4))), ModelError, "do not fit"),
    "shapes that do not broadcast": (one("Add", (1, 4), ("x", weights(3))), ModelError, "broadcast"),
    "too many inputs": (one("Relu", (1, 4), ("x", floats(1))), ModelError, "takes 1 to 1"),
    "indices of the maximum": (
        model([node("MaxPool", ["x"], ["m", "y"], kernel_shape=[2, 2])], (1, 1, 4, 4)),
        UnsupportedError,
        "output number 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_verified_is_refused_with_its_reason(name: str) -> None:
    made, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        OnnxModel(made)


def test_without_the_packages_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'rampart-verifier\[onnx\]'"):
        OnnxModel.load("net.onnx")


def test_a_graph_that_differs_from_onnxruntime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from verifier.graph import onnx_walker

    monkeypatch.setitem(onnx_walker.HANDLERS, "Relu", onnx_walker.HANDLERS["Abs"])
    with pytest.raises(ModelError, match="disagrees with onnxruntime"):
        OnnxModel(one("Relu", (1, 4)))
