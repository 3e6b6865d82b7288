"""Constants that are no parameters: what the model computes of them is the network; what the import rounds is told."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from properties import LinfBall, output_range
from verifier import OnnxModel, Trust, Verdict, Verifier, import_torch, verify
from verifier.checker import functions


class Calls(nn.Module):
    """A function of the input and of some modules, which is then a classifier of three classes by a last layer."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts, self.last = function, nn.ModuleList(parts), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(x, *self.parts).flatten(1))


def _images(x: Tensor, layer: nn.Module) -> Tensor:  # [B, 4] -> [B, 1, 2, 2]
    return layer(x).unflatten(1, (1, 2, 2))


def _lstm(x: Tensor, lstm: nn.Module) -> Tensor:
    start = torch.full((1, x.shape[0], 3), 0.3)
    return lstm(x.unsqueeze(1), (start, -start))[0]


def _standard(x: Tensor, layer: nn.Linear) -> Tensor:
    weight = layer.weight - layer.weight.mean(1, keepdim=True)
    return F.linear(x, weight / weight.std(1, keepdim=True), layer.bias)


def _linear() -> nn.Linear:
    return nn.Linear(4, 4)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: Calls(lambda x, a: F.relu(a(x)), parametrizations.weight_norm(_linear())),
    "weight_norm of a convolution": lambda: Calls(
        lambda x, a: F.relu(a(x.unflatten(1, (1, 2, 2)))), parametrizations.weight_norm(nn.Conv2d(1, 2, 2))
    ),
    "spectral_norm": lambda: Calls(lambda x, a: F.relu(a(x)), parametrizations.spectral_norm(_linear())),
    "orthogonal": lambda: Calls(lambda x, a: F.relu(a(x)), parametrizations.orthogonal(_linear())),
    "standardised weights": lambda: Calls(_standard, _linear()),
    "RMSNorm without eps": lambda: Calls(lambda x, a, n: n(a(x)), _linear(), nn.RMSNorm(4)),
    "softplus": lambda: Calls(lambda x, a: F.softplus(a(x)), _linear()),
    "softplus with beta": lambda: Calls(lambda x, a: F.softplus(a(x), beta=3.0), _linear()),
    "softplus of large values": lambda: Calls(lambda x, a: F.softplus(20 + a(x)), _linear()),
    "bilinear": lambda: Calls(lambda x, a: F.interpolate(_images(x, a), scale_factor=3, mode="bilinear"), _linear()),
    "bicubic": lambda: Calls(lambda x, a: F.interpolate(_images(x, a), size=(5, 3), mode="bicubic"), _linear()),
    "einsum with constants": lambda: Calls(
        lambda x, a, b: torch.einsum("kj,bi,ji->bk", b.weight, x, a.weight), _linear(), _linear()
    ),
    "states that are not zero": lambda: Calls(_lstm, nn.LSTM(4, 3, batch_first=True)),
    "local response": lambda: Calls(lambda x, a, n: n(_images(x, a)), _linear(), nn.LocalResponseNorm(2)),
}  # fmt: skip


def explained(model: nn.Module, x: Tensor) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(Verifier(model, x).explain())
    return console.file.getvalue()  # type: ignore[attr-defined]


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    model, x = NETWORKS[name](), torch.rand(2, 4)
    model(x)
    with torch.no_grad():
        model.last.bias.copy_(torch.tensor([3.0, 0.0, -3.0]))  # far from all ties
    return model.eval(), x


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("semantics", ["real", "float32"])
def test_they_are_checked(name: str, semantics: str) -> None:
    model, x = network(name)
    result = verify(model, x, 1e-3, semantics=semantics)
    assert set(result.verdict) == {Verdict.VERIFIED} and set(result.trust) == {Trust.CHECKED}
    assert result.trust_limit == ""
    for certificate in result.certificate:
        assert certificate is not None and certificate.check().valid


def test_the_network_has_the_weights_that_the_model_multiplies_with() -> None:
    model, x = network("weight_norm")
    graph = import_torch(model, x)
    weight = model.parts[0].weight.detach()
    assert graph.computed and not graph.rounded
    matrices = [dict(node.op.parameters())["weight"] for node in graph.nodes if hasattr(node.op, "weight")]
    assert any(torch.equal(m, weight) for m in matrices)


@pytest.mark.parametrize(("number", "verdict"), [(0.7, Verdict.VERIFIED), (0.1, Verdict.UNKNOWN)])
def test_what_the_model_makes_of_it_in_float64_falsifies_nothing_alone(number: float, verdict: Verdict) -> None:
    """The weight is a square in float32; in float64 the model computes another, here beyond a limit between the two."""

    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Parameter(torch.tensor([[number]]))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.part * self.part)

    part = torch.tensor(number)
    between = 0.5 * (float(part * part) + float(part.double() ** 2))
    x, spec = torch.ones(1, 1), output_range((1,), high=between)
    assert verify(Squared().eval(), x, input_set=LinfBall(x, 0.0), spec=spec).verdict == (verdict,)


def test_softplus_is_below_what_torch_makes_of_it() -> None:
    """About the threshold lines of the operator and of the checker hold of torch's function and of the smooth one."""
    torch.manual_seed(0)
    low = 20 + 1e-3 * torch.randn(300, dtype=torch.float64)
    low[:100] -= 8 * torch.rand(100, dtype=torch.float64)
    high = low + 1e-3 * torch.rand(300, dtype=torch.float64) + 1e-9
    high[100:200] += 10 * torch.rand(100, dtype=torch.float64)
    points = torch.stack([low + t * (high - low) for t in torch.linspace(0, 1, 101, dtype=torch.float64)])
    points = torch.cat([points, torch.tensor(20.0).double().expand(1, 300).clamp(low, high)])
    values = F.softplus(points), torch.logaddexp(points, torch.zeros((), dtype=torch.float64))
    for s in (0.0, 0.5, 1 - 1e-9, 1.0):
        slope = np.full(300, s)
        below, above = functions.intercepts("softplus", low.numpy(), high.numpy(), slope, {})
        for y in values:
            rest = (y - s * points).numpy()
            assert (below <= rest + 4e-15 * 20).all() and (rest <= above + 4e-15 * 20).all()
    op = import_torch(nn.Softplus().eval(), torch.rand(1, 2)).nodes[1].op
    values = values[:1]
    lines, ranges = op.relax(low[None], high[None], 0.5 * torch.ones(1, 300).double()), op.range(low[None], high[None])
    for y in values:
        assert (lines.lower_slope * points + lines.lower_bias <= y + 1e-13).all() and (ranges[0] <= y).all()
        assert (lines.upper_slope * points + lines.upper_bias >= y - 1e-13).all() and (ranges[1] >= y).all()


class Alpha(nn.Module):
    """A constant times a number that the model rounds together with the sum, if at all."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.7, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.bias, alpha=0.3)


ROUNDED: dict[str, tuple[nn.Module, str]] = {
    "alpha": (Alpha(), "a constant times 0.3 (add)"),
    "threshold": (nn.Softplus(threshold=5.0), "softplus, which is a line from 5 on (softplus)"),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_the_import_rounds_is_told(name: str) -> None:
    model, said = ROUNDED[name]
    x = torch.tensor([[2.0, 0.0]])
    result = verify(model.eval(), x, 1e-3)
    assert result.trust == (Trust.FLOAT,) and result.trust_limit == f"the import rounded {said}"
    union = verify(model.eval(), x, 1e-3, threat="linf+l2")
    assert union.trust == (Trust.FLOAT,) and union.trust_limit == result.trust_limit
    assert f"trust is FLOAT at most, for the import rounded {said}" in explained(model.eval(), x)


def test_explanations_name_computed_constants() -> None:
    model, x = network("weight_norm")
    text = explained(model, x)
    assert "computes from its parameters alone was computed once" in text and "FLOAT at most" not in text


def test_products_by_powers_of_two_are_not_rounded() -> None:
    class Half(Alpha):
        def forward(self, x: Tensor) -> Tensor:
            return torch.add(x, self.bias, alpha=-0.5)

    assert verify(Half().eval(), torch.tensor([[2.0, 0.0]]), 1e-3).trust == (Trust.CHECKED,)


def test_constants_of_onnx_files() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.float32([[0.1, 0.7], [0.3, -0.2]]), "w")
    scale = numpy_helper.from_array(np.float32(0.3), "s")
    nodes = [helper.make_node("Mul", ["w", "s"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "computed", ends[:1], ends[1:], [weight, scale])
    model = OnnxModel(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    assert model.graph.computed and not model.graph.rounded
    assert verify(model, torch.tensor([[0.1, 2.0]]), 1e-3).trust == (Trust.CHECKED,)
