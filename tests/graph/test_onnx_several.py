"""ONNX models of several inputs and outputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from properties import output_range
from properties.vnnlib import parse
from properties.vnnlib_text import PropertyText
from verifier import InputError, OnnxModel, UnsupportedError, verify
from verifier.vnncomp.decide import decide
from verifier.vnncomp.result_file import parsed, render


def written(path: Path, shapes: tuple[list, list] = ([1, 2, 2], [1, 3])) -> Path:
    """sum = relu(flatten(image) W) + vector, difference = the same less the vector."""
    w = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Add", ["r", "vector"], ["sum"]),
        helper.make_node("Sub", ["r", "vector"], ["difference"]),
    ]
    ins = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(("image", "vector"), shapes, strict=True)
    ]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("sum", "difference")]
    graph = helper.make_graph(nodes, "g", ins, outs, [numpy_helper.from_array(w, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def reference(image: torch.Tensor, vector: torch.Tensor, sign: float) -> torch.Tensor:
    w = torch.arange(12).reshape(4, 3).float() / 10
    return torch.relu(image.flatten(1) @ w) + sign * vector


@pytest.mark.parametrize(("output", "sign"), [("sum", 1.0), ("difference", -1.0), (0, 1.0), (1, -1.0)])
def test_inputs_are_joined_and_an_output_is_chosen(tmp_path, output, sign):
    model = OnnxModel.load(written(tmp_path / "two.onnx"), output=output)
    assert model.parts == {"image": (2, 2), "vector": (3,)}
    image, vector = torch.rand(4, 2, 2), torch.rand(4, 3)
    x = torch.cat([image.flatten(1), vector], 1)
    torch.testing.assert_close(model.run(x), reference(image, vector, sign))
    y = reference(image, vector, sign)
    spec = output_range((3,), y - 0.15, y + 0.15)
    assert verify(model, (image, vector), eps=(0.0, 0.1), spec=spec).verified.all()
    assert all(v.name == "FALSIFIED" for v in verify(model, (image, vector), eps=(0.0, 0.2), spec=spec).verdict)


def test_what_does_not_fit_is_refused(tmp_path):
    path = written(tmp_path / "two.onnx")
    with pytest.raises(InputError, match="no output 'mean'; it has sum, difference"):
        OnnxModel.load(path, output="mean")
    with pytest.raises(InputError, match="got inputs of shapes"):
        verify(OnnxModel.load(path, output=0), (torch.rand(1, 3), torch.rand(1, 2, 2)), eps=0.1)
    with pytest.raises(UnsupportedError, match="'vector' has no fixed shape"):
        OnnxModel.load(written(tmp_path / "open.onnx", ([1, 2, 2], [1, "n"])), output=0)


TWO = """(vnnlib-version <2.0>)
(declare-network N (declare-input A Real [1,2,2]) (declare-input B Real {0}) (declare-output Y Real [1,3]))
(assert (and (>= A[0,0,0] 0.0) (<= A[0,0,0] 1.0) (= A[0,0,1] 0.0) (= A[0,1,0] 0.0) (= A[0,1,1] 0.0)))
(assert (and (= B[0,0] 0.0) (= B[0,1] 0.5) (= B[0,2] 0.0)))
(assert (> Y[0,1] {1}))
"""


@pytest.mark.parametrize(("limit", "status"), [("0.61", "unsat"), ("0.55", "sat")])
def test_properties_of_several_inputs_are_decided(tmp_path, limit, status):
    model = OnnxModel.load(written(tmp_path / "two.onnx"), output="sum")
    prop = parse(PropertyText(TWO.format("[1,3]", limit), "two.vnnlib"))
    answer = decide(model, prop, 20.0)  # Y_1 = 0.1 A_0 + 0.5
    assert answer.status.value == status
    if status == "sat":
        (tmp_path / "out").write_text(render(answer, prop))
        x, y = parsed(tmp_path / "out", prop)[1]
        image, vector = torch.tensor(x[:4]).reshape(1, 2, 2), torch.tensor([x[4:]])
        torch.testing.assert_close(torch.tensor([y]), reference(image, vector, 1.0))
        assert prop.witness(x, y) is not None


def test_several_inputs_have_the_shapes_of_the_network(tmp_path):
    model = OnnxModel.load(written(tmp_path / "two.onnx", ([1, 2, 2], [1, 3])), output="sum")
    text = TWO.format("[1,3]", "0.5").replace("A Real [1,2,2]", "A Real [1,4,1]").replace("A[0,0,1]", "A[0,2,0]")
    text = text.replace("A[0,1,1]", "A[0,3,0]")
    with pytest.raises(InputError, match=r"input A as \[1, 4, 1\], the network's input is \[1, 2, 2\]"):
        decide(model, parse(PropertyText(text, "two.vnnlib")), 20.0)
