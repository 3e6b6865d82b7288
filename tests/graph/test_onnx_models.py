"""ONNX models as a whole: the shared networks, `verify` and `certify` on them, and random compositions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxruntime")
from helpers.onnx_models import model, one
from helpers.real_data import require
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from verifier import InputError, ModelError, certify, verify
from verifier.graph.onnx_model import OnnxModel
from verifier.loading import load_model
from verifier.ops.conv import Conv2d
from verifier.ops.linear import Linear
from verifier.ops.shape import Gather, Permute

node = helper.make_node

NETWORKS = (
    *(f"vnncomp/acasxu/onnx/ACASXU_run2a_{i}_batch_2000.onnx" for i in ("1_1", "3_3", "5_9")),
    *(f"vnncomp/cifar10_resnet/onnx/resnet_{i}.onnx" for i in ("2b", "4b")),
    "vnncomp/eran/onnx/mnist_relu_9_200.onnx",
    *(f"vnncomp/marabou-cifar10/onnx/cifar10_{i}.onnx" for i in ("small", "medium", "large")),
    *(f"vnncomp/mnistfc/onnx/mnist-net_256x{i}.onnx" for i in (2, 4, 6)),
    *(f"vnncomp/oval21/onnx/cifar_{i}_kw.onnx" for i in ("base", "deep", "wide")),
    *(f"nets/{i}.onnx" for i in ("colt_mnist_0.1", "sdp_mnist", "wk_har", "wk_mnist", "wk_svhn")),
)


@pytest.mark.parametrize("path", NETWORKS)
def test_shared_networks_compute_what_onnxruntime_does(path: str) -> None:
    imported = OnnxModel.load(require(*path.split("/")))
    imported.check(torch.zeros(imported.input_shape), torch.ones(imported.input_shape))
    x = torch.rand(2, *imported.input_shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(imported.graph.forward(x).flatten(1), imported.run(x), rtol=1e-4, atol=1e-4)
    kinds = [type(n.op) for n in imported.graph.nodes[1:]]
    assert Gather not in kinds, "what is reshaped or transposed stays so: a gather is slow to pull back"


def test_channels_last_becomes_a_permutation_and_a_convolution() -> None:
    imported = OnnxModel.load(require("vnncomp", "marabou-cifar10", "onnx", "cifar10_small.onnx"))
    assert [type(n.op) for n in imported.graph.nodes[1:3]] == [Permute, Conv2d]


def test_loading_imports_nothing_heavy() -> None:
    """Start-up counts: one process per instance."""
    path = require("vnncomp", "cifar10_resnet", "onnx", "resnet_2b.onnx")
    code = f"import sys; from verifier import OnnxModel; OnnxModel.load({str(path)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch._dynamo", "sympy", "networkx", "matplotlib", "onnx.reference"} & set(done.stdout.split())


# --- the same network in torch ---------------------------------------------------------------------------------------


def _pair() -> tuple[nn.Sequential, ModelProto]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    constants = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    nodes = [
        node("Conv", ["x", "0.weight", "0.bias"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Flatten", ["b"], ["c"]),
        node("Gemm", ["c", "3.weight", "3.bias"], ["d"], transB=1),
        node("Relu", ["d"], ["e"]),
        node("Gemm", ["e", "5.weight", "5.bias"], ["y"], transB=1),
    ]
    return network, model(nodes, ("N", 1, 6, 6), constants)


def test_verify_says_of_the_file_what_it_says_of_the_module(tmp_path: Path) -> None:
    network, made = _pair()
    path = tmp_path / "net.onnx"
    path.write_bytes(made.SerializeToString())
    imported = load_model(str(path))
    x = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    for eps in (0.01, 2.0):
        ours = verify(imported, x, eps=eps, stages=["attack", "interval", "dual"])
        theirs = verify(network, x, eps=eps, stages=["attack", "interval", "dual"])
        assert ours.verdict == theirs.verdict
        assert ours.float32_agrees == theirs.float32_agrees
        torch.testing.assert_close(ours.margins, theirs.margins)
        torch.testing.assert_close(ours.prediction, theirs.prediction)
    assert any(agrees is True for agrees in ours.float32_agrees), "some counterexample is replayed by onnxruntime"
    reports = [certify(m, x, theirs.prediction, 0.01, progress=False).rows() for m in (imported, network)]
    assert [row.outcome for row in reports[0]] == [row.outcome for row in reports[1]]


def test_inputs_that_do_not_fit_are_said_to() -> None:
    imported = OnnxModel(_pair()[1])
    with pytest.raises(InputError, match=r"takes inputs of shape \[1, 6, 6\], got \[36\]"):
        verify(imported, torch.rand(2, 36), eps=0.1)
    with pytest.raises(InputError, match="float64: convert"):
        verify(imported, torch.rand(2, 1, 6, 6, dtype=torch.float64), eps=0.1)
    with pytest.raises(InputError, match="box"):
        imported.check(torch.zeros(36), torch.ones(36))
    with pytest.raises(InputError, match="finite limits"):
        imported.check(torch.zeros(1, 6, 6), -torch.ones(1, 6, 6))
    with pytest.raises(InputError, match="drop --weights"):
        load_model("net.onnx", "weights.safetensors")


def test_check_finds_a_difference_that_shows_in_the_box_alone() -> None:
    imported = OnnxModel(_pair()[1])
    first = imported.graph.nodes[1]
    assert isinstance(first.op, Conv2d) and first.op.offset is not None
    first.op.offset.add_(0.1)
    with pytest.raises(ModelError, match="disagrees with onnxruntime"):
        imported.check(torch.zeros(1, 6, 6), torch.ones(1, 6, 6))


def test_a_sum_with_a_vector_becomes_the_bias_of_a_layer() -> None:
    w = np.eye(4, dtype=np.float32)
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])]
    imported = OnnxModel(model(nodes, (1, 4), {"w": w, "b": w[0]}))
    (only,) = imported.graph.nodes[1:]
    assert isinstance(only.op, Linear) and only.op.offset is not None


def test_inputs_without_a_batch_dimension_keep_their_shape() -> None:
    for shape, own in {(5,): (5,), (1, 5): (5,), (1,): (1,), (1, 1, 5): (1, 5), (3, 5): (3, 5)}.items():
        assert OnnxModel(one("Relu", shape)).input_shape == own


# --- random compositions ---------------------------------------------------------------------------------------------


@st.composite
def compositions(draw: st.DrawFn) -> ModelProto:
    """A few operators after one another on a value of rank 3, shapes followed along."""
    shape = [1, draw(st.integers(1, 3)), draw(st.integers(2, 4))]
    start, nodes, constants, name = tuple(shape), [], {}, "x"

    def constant(value: Any) -> str:
        constants[f"c{len(constants)}"] = np.asarray(value)
        return f"c{len(constants) - 1}"

    for number in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(("MatMul", "Transpose", "Reshape", "Relu", "Add", "Slice", "Concat", "Max", "Pad")))
        inputs, options, rank = [name], {}, len(shape)
        axis = draw(st.integers(0, rank - 1))
        if kind == "MatMul":
            columns = draw(st.integers(1, 3))
            inputs.append(constant(_numbers(shape[-1], columns)))
            shape = [*shape[:-1], columns]
        elif kind == "Transpose":
            options["perm"] = draw(st.permutations(range(rank)))
            shape = [shape[d] for d in options["perm"]]
        elif kind == "Reshape":
            size = int(np.prod(shape))
            cut = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            shape = draw(st.sampled_from(([size], [1, size], [cut, size // cut], [1, cut, size // cut], [cut, 1, -1])))
            inputs.append(constant(np.array(shape, dtype=np.int64)))
            shape = [size // cut if n == -1 else n for n in shape]
        elif kind in ("Add", "Max"):
            inputs.insert(draw(st.integers(0, 1)), constant(_numbers(*[draw(st.sampled_from((1, n))) for n in shape])))
        elif kind == "Slice":
            first = draw(st.integers(0, shape[axis] - 1))
            inputs += [constant(np.array([n], dtype=np.int64)) for n in (first, shape[axis], axis)]
            shape = [*shape[:axis], shape[axis] - first, *shape[axis + 1 :]]
        elif kind == "Concat":
            inputs.append(name)
            options["axis"] = axis
            shape = [*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]]
        elif kind == "Pad":
            pads = [draw(st.integers(0, 1)) for _ in range(2 * rank)]
            inputs.append(constant(np.array(pads, dtype=np.int64)))
            shape = [n + pads[d] + pads[d + rank] for d, n in enumerate(shape)]
        nodes.append(node(kind, inputs, [f"v{number}"], **options))
        name = f"v{number}"
    return model(nodes, start, constants, output=name)


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(compositions())
def test_compositions_agree_with_onnxruntime(made: ModelProto) -> None:
    imported = OnnxModel(made)
    x: Tensor = torch.rand(1, *imported.input_shape, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(imported.graph.forward(x).flatten(1), imported.run(x), rtol=1e-4, atol=1e-4)
