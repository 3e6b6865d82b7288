"""The canonical network is the graph's function over the real numbers, and one for every importer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.onnx_models import model as onnx_model
from scipy import special
from torch import Tensor, nn
from torch.nn import functional as F

from verifier.checker.network import CanonicalNetwork, CanonicalNode
from verifier.errors import UnsupportedError
from verifier.graph import Graph
from verifier.graph.canonical import canonical
from verifier.graph.ir import GraphBuilder
from verifier.graph.onnx_model import OnnxModel
from verifier.graph.torch_import import import_torch
from verifier.ops.base import REGISTRY as OPERATORS
from verifier.ops.base import Activation, OperatorExample
from verifier.ops.conv import ConvTranspose2d
from verifier.ops.elementwise import Divide, Multiply, Shift
from verifier.ops.linear import Linear
from verifier.ops.norm import BatchNorm
from verifier.ops.pool import AveragePool, Reduce
from verifier.ops.relu import ReLU

EXAMPLES = [(name, k, example) for name, cls in sorted(OPERATORS.items()) for k, example in enumerate(cls.examples())]


def matrix_of(node: CanonicalNode) -> np.ndarray:
    """The stored matrix [size, all parents' sizes] of an affine node, by definition of the kinds alone."""
    a, o = node.arrays, node.options
    if node.kind == "matrix":
        return np.kron(np.eye(o.get("repeat", 1)), a["weight"])
    if node.kind == "sparse":
        width = 1 + int(a["column"].max()) if len(a["column"]) else 1
        dense = np.zeros((node.size, width))
        dense[a["row"], a["column"]] = a["value"]
        return dense
    channels, height, width = o["input"]
    out, oh, ow = o["output"]
    dense = np.zeros((out * oh * ow, channels * height * width))
    per, fan = out // o["groups"], channels // o["groups"]
    for f, i, j in np.ndindex(out, oh, ow):
        for c, p, q in np.ndindex(*a["weight"].shape[1:]):
            y = i * o["stride"][0] + p * o["dilation"][0] - o["padding"][0]
            x = j * o["stride"][1] + q * o["dilation"][1] - o["padding"][2]
            if 0 <= y < height and 0 <= x < width:
                channel = f // per * fan + c
                dense[(f * oh + i) * ow + j, (channel * height + y) * width + x] = a["weight"][f, c, p, q]
    return dense.T if node.kind == "conv_transpose" else dense


def bias_of(node: CanonicalNode) -> np.ndarray:
    bias = node.arrays.get("bias")
    if bias is None:
        return np.zeros(node.size)
    return bias if len(bias) == node.size else np.repeat(bias, node.size // len(bias))


#: functions of one variable without options, as others have written them
SMOOTH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp, "log": np.log, "reciprocal": np.reciprocal, "sqrt": np.sqrt, "rsqrt": lambda z: 1 / np.sqrt(z),
    "square": np.square, "sin": np.sin, "cos": np.cos, "tan": np.tan, "atan": np.arctan, "erf": special.erf,
    "softplus": lambda z: np.logaddexp(0, z), "gelu": lambda z: z * special.ndtr(z),
    "gelu_tanh": lambda z: z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "silu": lambda z: z * special.expit(z), "mish": lambda z: z * np.tanh(np.logaddexp(0, z)),
    "softsign": lambda z: z / (1 + np.abs(z)), "tanhshrink": lambda z: z - np.tanh(z),
    "hardswish": lambda z: z * np.clip(z / 6 + 0.5, 0, 1), "floor": np.floor, "round": np.rint, "sign": np.sign,
}  # fmt: skip


def evaluated(network: CanonicalNetwork, x: np.ndarray) -> np.ndarray:
    """The stored network at x, in float64."""
    values: list[np.ndarray] = []
    for node in network.nodes:
        if node.kind == "input":
            values.append(x)
            continue
        z = np.concatenate([values[p] for p in node.parents])
        o = node.options
        functions = {
            "leaky": lambda z, o=o: np.where(z >= 0, z, o["slope"] * z),
            "clip": lambda z, o=o: np.clip(z, o["low"], o["high"]),
            "abs": lambda z, o=o: np.abs(z),
            "sigmoid": lambda z, o=o: 1 / (1 + np.exp(-z)),
            "tanh": lambda z, o=o: np.tanh(z),
            "product": lambda z, n=node: z[n.arrays["left"]] * z[n.arrays["right"]],
            "power": lambda z, o=o: z ** o["exponent"],
            "elu": lambda z, o=o: np.where(z >= 0, z, o["alpha"] * np.expm1(np.minimum(z, 0))),
            "celu": lambda z, o=o: np.where(z >= 0, z, o["alpha"] * np.expm1(np.minimum(z, 0) / o["alpha"])),
            "step": lambda z, o=o: np.where(z >= 0 if o["closed"] else z > 0, 1.0, 0.0),
            **SMOOTH,
        }
        if node.kind in functions:
            values.append(functions[node.kind](z))
        else:
            dense = matrix_of(node)
            dense = np.pad(dense, ((0, 0), (0, len(z) - dense.shape[1])))
            values.append(dense @ z + bias_of(node))
        assert values[-1].shape == (node.size,)
    return values[-1]


def graph_of(example: OperatorExample) -> Graph:
    """A graph of one operator, its parents cut out of one input."""
    sizes = [int(torch.Size(s).numel()) for s in example.shapes]
    builder = GraphBuilder((sum(sizes),))
    gather, reshape = OPERATORS["Gather"], OPERATORS["Reshape"]
    parents, first = [], 0
    for size, shape in zip(sizes, example.shapes, strict=True):
        part = builder.add(gather(torch.arange(first, first + size)), [0])
        parents.append(builder.add(reshape(shape), [part]))
        first += size
    builder.add(example.op, parents)
    return builder.build()


@pytest.mark.parametrize(("name", "number", "example"), EXAMPLES, ids=[f"{n}-{k}" for n, k, _ in EXAMPLES])
def test_every_operator(name: str, number: int, example: OperatorExample) -> None:
    graph = graph_of(example)
    generator = torch.Generator().manual_seed(number)
    x = 2 * torch.randn(2, *graph.input_shape, generator=generator, dtype=torch.float64)
    if isinstance(example.op, Activation):
        x = x.clamp(*example.op.facts.domain)
    wanted = graph.to("cpu", torch.float64).forward(x).reshape(2, -1).numpy()
    network = canonical(graph).network
    for point, value in zip(x.numpy(), wanted, strict=True):
        np.testing.assert_allclose(evaluated(network, point), value, rtol=1e-13, atol=1e-13)


class _Unknown(Activation):
    def apply(self, x: Tensor) -> Tensor:
        return x

    relax = range = unstable = apply  # type: ignore[assignment]

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return []


def test_an_activation_that_certificates_do_not_know() -> None:
    builder = GraphBuilder((3,))
    builder.add(_Unknown(), [0], name="mystery")
    with pytest.raises(UnsupportedError, match=r"mystery.*_Unknown"):
        canonical(builder.build())


def affine_node(op: object, shape: tuple[int, ...]) -> CanonicalNode:
    builder = GraphBuilder(shape)
    builder.add(op, [0])  # type: ignore[arg-type]
    return canonical(builder.build()).network.nodes[-1]


def within(stored: float, true: Fraction, ulps: int, size: float) -> bool:
    unit = Fraction(1, 2**53)
    gamma = ulps * unit / (1 - ulps * unit)
    return abs(Fraction(stored) - true) <= gamma * Fraction(size)


def test_ulps_of_means_and_quotients() -> None:
    node = affine_node(AveragePool((3, 3), (2, 2), (1, 1), True, False), (2, 6, 6))
    counts = 1 / matrix_of(node)[matrix_of(node) > 0]
    assert len(counts) > 100
    for value in node.arrays["value"]:
        true = Fraction(1, round(1 / value))
        assert within(value, true, node.options["ulps"], value)
    node = affine_node(Reduce((0,), mean=True), (7,))
    assert all(within(v, Fraction(1, 7), node.options["ulps"], v) for v in node.arrays["value"])
    constants = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    node = affine_node(Divide(constants), (40,))
    pairs = zip(node.arrays["value"], constants.tolist(), strict=True)
    assert all(within(v, 1 / Fraction(c), node.options["ulps"], abs(v)) for v, c in pairs)
    assert "ulps" not in affine_node(Multiply(constants), (40,)).options


@pytest.mark.parametrize("cancelling", [False, True])
def test_ulps_of_batch_norm(cancelling: bool) -> None:
    """Against 60 digits; also where the shift cancels."""
    getcontext().prec = 60
    generator, n = torch.Generator().manual_seed(1), 60
    weight, mean = (torch.randn(n, generator=generator) for _ in range(2))
    var = torch.rand(n, generator=generator).square() * 10
    bias = (mean.double() / (var.double() + 1e-5).sqrt() * weight.double()).float() if cancelling else weight * 3
    node = affine_node(BatchNorm(weight, bias, mean, var, 1e-5), (n,))
    ulps = node.options["ulps"]
    for k in range(n):
        w, b, m, v = (Decimal(float(t[k])) for t in (weight, bias, mean, var))
        scale = w / (v + Decimal.from_float(1e-5)).sqrt()
        assert within(node.arrays["value"][k], Fraction(scale), ulps, abs(node.arrays["value"][k]))
        assert within(node.arrays["bias"][k], Fraction(b - m * scale), ulps, node.arrays["bias_size"][k])


def test_numbers_too_small_to_vouch_for() -> None:
    with pytest.raises(UnsupportedError, match="1e-290"):
        affine_node(Divide(torch.tensor([1e300, 1.0], dtype=torch.float64)), (2,))
    with pytest.raises(UnsupportedError, match="NaN or infinite"):
        affine_node(Linear(torch.tensor([[torch.nan]])), (1,))


def test_what_copies_is_left_out() -> None:
    """Reshapes, identities and zero biases leave no trace; the places of their values are kept."""
    builder = GraphBuilder((1, 2, 2))
    flat = builder.add(OPERATORS["Reshape"]((4,)), [0])
    same = builder.add(OPERATORS["Gather"](torch.arange(4)), [flat])
    sum_ = builder.add(Linear(torch.eye(4)[:3], torch.zeros(3)), [same])
    moved = builder.add(Shift(torch.tensor([1.0, 2.0, 3.0])), [sum_])
    last = builder.add(ReLU(), [moved])
    dead = builder.add(Multiply(2.0), [flat])
    graph = replace(builder.build(last))
    found = canonical(graph)
    assert [n.kind for n in found.network.nodes] == ["input", "matrix", "leaky"]
    assert found.network.nodes[1].arrays["bias"].tolist() == [1, 2, 3]
    assert found.place == {0: 0, flat: 0, same: 0, moved: 1, last: 2}
    assert dead not in found.place


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        h = torch.relu(self.second(h) + h)
        return self.last(F.avg_pool2d(h, 2).flatten(1))


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    return {name.replace(".", "_"): value.detach().numpy() for name, value in module.state_dict().items()}


def of_nodes(module: nn.Module, shape: tuple[int, ...], *nodes: tuple[str, str, dict[str, object]]) -> Graph:
    """An ONNX model with the module's numbers; nodes "kind", "inputs -> output", attributes."""
    from onnx import helper

    made = []
    for kind, names, attributes in nodes:
        inputs, output = names.split(" -> ")
        made.append(helper.make_node(kind, inputs.split(), [output], **attributes))
    constants = {name: np.float32(value) for name, value in numbers(module).items()}
    constants |= {name + "_t": value.T.copy() for name, value in constants.items() if value.ndim == 2}
    return OnnxModel(onnx_model(made, (1, *shape), constants)).graph


GEMM = {"transB": 1}
SAME = {"pads": [1, 1, 1, 1]}
SPLIT = nn.Sequential(nn.Flatten(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
MLP = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
CONV = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
TWINS = {
    "mlp": (MLP, (4,), (
        ("Gemm", "x 0_weight 0_bias -> a", GEMM), ("Relu", "a -> b", {}), ("Gemm", "b 2_weight 2_bias -> y", GEMM),
    )),
    "acas": (SPLIT, (1, 1, 5), (
        ("Flatten", "x -> f", {}), ("MatMul", "f 1_weight_t -> a", {}), ("Add", "a 1_bias -> b", {}),
        ("Relu", "b -> c", {}), ("MatMul", "c 3_weight_t -> d", {}), ("Add", "d 3_bias -> y", {}),
    )),
    "conv": (CONV, (2, 4, 4), (
        ("Conv", "x 0_weight 0_bias -> a", {"strides": [2, 2], **SAME}), ("Relu", "a -> b", {}),
        ("Flatten", "b -> c", {}), ("Gemm", "c 3_weight 3_bias -> y", GEMM),
    )),
    "residual": (Residual(), (1, 4, 4), (
        ("Conv", "x first_weight first_bias -> a", SAME), ("Relu", "a -> b", {}),
        ("Conv", "b second_weight second_bias -> c", SAME), ("Add", "c b -> d", {}), ("Relu", "d -> e", {}),
        ("AveragePool", "e -> f", {"kernel_shape": [2, 2], "strides": [2, 2]}), ("Flatten", "f -> g", {}),
        ("Gemm", "g last_weight last_bias -> y", GEMM),
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_one_digest_from_torch_and_from_onnx(name: str) -> None:
    module, shape, nodes = TWINS[name]
    module = module.eval()
    twin = canonical(of_nodes(module, shape, *nodes)).network
    own = canonical(import_torch(module, torch.zeros(1, *shape))).network
    assert own.digest == twin.digest
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1e-3
    assert canonical(import_torch(module, torch.zeros(1, *shape))).network.digest != own.digest


def test_one_digest_in_every_precision() -> None:
    """float32 parameters are exact in float64; a network of float64 parameters is another one."""
    graph = import_torch(MLP.eval(), torch.zeros(1, 4))
    assert canonical(graph).network.digest == canonical(graph.to("cpu", torch.float64)).network.digest
    moved = graph.to("cpu", torch.float64).map_tensors(lambda t: t * (1 + 2.0**-40))
    assert canonical(moved).network.digest != canonical(graph).network.digest


def test_a_transposed_convolution_that_pads_its_output_more_than_its_input() -> None:
    """No convolution with padding >= 0 fits: it becomes a sparse matrix."""
    weight = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    op = ConvTranspose2d(weight, None, (2, 2), (0, 0), (1, 1))
    assert affine_node(op, (2, 2, 3)).kind == "sparse"
