"""The PyTorch importer: what it accepts computes what the model computes; what it refuses says why and where."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.functions import Function
from torch import Tensor, nn

from verifier.errors import InputError, ModelError, UnsupportedError
from verifier.graph import Graph, walker
from verifier.graph.runner import ModelRunner
from verifier.graph.torch_import import import_torch
from verifier.ops.conv import Conv2d
from verifier.ops.linear import Linear
from verifier.ops.relu import ReLU
from verifier.ops.shape import Gather, Permute
from verifier.ops.smooth import Tanh


def checked(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    """Import, and compare once more on inputs of the test's own."""
    model = model.eval()
    generator = torch.Generator().manual_seed(7)
    graph = import_torch(model, torch.randn(1, *shape, generator=generator))
    x = torch.randn(5, *shape, generator=generator) * 3
    with torch.no_grad():
        theirs = model(x.clone())
        ours = graph.forward(x)
    assert torch.allclose(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-4)
    names = [n.name for n in graph.nodes]
    assert len(set(names)) == len(names)
    return graph


VECTOR: dict[str, Callable[..., Tensor]] = {
    "linear": lambda s, x: F.linear(x, s.m.t(), s.w[:3]),
    "matmul": lambda s, x: x @ s.m,
    "matvec": lambda s, x: (x @ s.w).unsqueeze(1),
    "one output": lambda s, x: (x * s.w).sum(1),
    "addmm": lambda s, x: torch.addmm(s.w[:3], x, s.m),
    "addmm scaled": lambda s, x: torch.addmm(s.w[:3], x, s.m, beta=0.5, alpha=2.0),
    "add": lambda s, x: x + torch.relu(x),
    "add alpha": lambda s, x: torch.add(x, torch.relu(x), alpha=0.3),
    "sub alpha": lambda s, x: torch.sub(x, s.w, alpha=0.3),
    "sub": lambda s, x: torch.relu(x) - x,
    "rsub": lambda s, x: 1.5 - x,
    "rsub tensor": lambda s, x: s.w - x,
    "neg": lambda s, x: -x,
    "mul": lambda s, x: x * s.w * 0.7 * s.c,
    "div": lambda s, x: x / s.c / 3,
    "scalars": lambda s, x: (2 * x + 1) / 4 - 0.25,
    "integer constant": lambda s, x: x + torch.arange(4),
    "mask": lambda s, x: x * (torch.arange(4) > 1),
    "broadcast up": lambda s, x: x.unsqueeze(2) * s.m,
    "broadcast nodes": lambda s, x: x.unsqueeze(2) + (x @ s.m).unsqueeze(1),
    "batched constant": lambda s, x: x + torch.ones_like(x) * s.w,
    "new constant": lambda s, x: x - x.new_full((x.shape[0], 4), 0.5),
    "cat": lambda s, x: torch.cat([x, torch.relu(x), x], 1),
    "cat constant": lambda s, x: torch.cat([torch.tanh(x), s.w.expand(x.shape[0], 4)], 1),
    "stack": lambda s, x: torch.stack([x, -x], 1),
    "split": lambda s, x: x.split([1, 3], 1)[1] + x.split([1, 3], 1)[0],
    "chunk": lambda s, x: x.chunk(2, 1)[0] - x.chunk(2, 1)[1],
    "unbind": lambda s, x: torch.stack(x.unbind(1)[::-1], -1),
    "slice": lambda s, x: x[:, 1:] - x[:, :-1],
    "step": lambda s, x: x[:, ::2],
    "select": lambda s, x: x[:, 2:3] * x.new_ones(3),
    "index": lambda s, x: x[:, [3, 0, 0]],
    "index select": lambda s, x: x.index_select(1, torch.tensor([2, 2, 1])),
    "flip": lambda s, x: x.flip(1),
    "roll": lambda s, x: x.roll(1, 1),
    "expand": lambda s, x: x.unsqueeze(1).expand(-1, 3, -1),
    "repeat": lambda s, x: x.repeat(1, 2),
    "view": lambda s, x: x.view(-1, 2, 2),
    "transpose": lambda s, x: x.view(-1, 2, 2).transpose(1, 2).flatten(1),
    "left matmul": lambda s, x: s.m.t() @ x.unsqueeze(2).expand(-1, 4, 2),
    "squeeze": lambda s, x: x.unsqueeze(1).squeeze(1),
    "pad": lambda s, x: F.pad(x, (1, 2), value=0.5),
    "mean": lambda s, x: x - x.mean(1, keepdim=True),
    "sum": lambda s, x: x.view(-1, 2, 2).sum(-1),
    "clone": lambda s, x: x.clone().detach().contiguous() + x.to(torch.float32),
    "folded": lambda s, x: x * torch.sigmoid(s.w) / s.m.norm() + s.w.sum(),
    "relu": lambda s, x: F.relu(x),
    "relu in place": lambda s, x: (x * 2).relu_(),
    "in place, read again": lambda s, x: (lambda y: y.relu_() + y)(x * s.w),
    "in place input": lambda s, x: x.relu_() * 2,
    "leaky relu": lambda s, x: F.leaky_relu(x, 0.2),
    "hardtanh": lambda s, x: F.hardtanh(x, -0.5, 0.7),
    "relu6": lambda s, x: F.relu6(x * 4),
    "clamp": lambda s, x: x.clamp(-0.3, 0.4),
    "clamp min": lambda s, x: x.clamp(min=-0.3),
    "clamp max": lambda s, x: x.clamp(max=0.4),
    "clamp at zero": lambda s, x: x.clamp(min=0),
    "abs": lambda s, x: x.abs(),
    "sigmoid": lambda s, x: torch.sigmoid(x),
    "tanh": lambda s, x: torch.tanh(x),
    "maximum": lambda s, x: torch.maximum(x, x.flip(1)),
    "minimum": lambda s, x: torch.minimum(x, x.flip(1)),
    "maximum with constant": lambda s, x: torch.maximum(x, s.w) + torch.minimum(s.w, x),
    "amax": lambda s, x: x.amax(1, keepdim=True),
    "max min": lambda s, x: x.view(-1, 2, 2).max(2).values - x.view(-1, 2, 2).min(2).values,
    "shape arithmetic": lambda s, x: x.reshape(x.size(0), -1) / x.shape[1],
    "dropout": lambda s, x: F.dropout(x, 0.5, s.training),
}


@pytest.mark.parametrize("name", VECTOR)
def test_vector_functions(name: str) -> None:
    checked(Function(VECTOR[name]), (4,))


def pools() -> list[nn.Module]:
    return [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((2, 3), (1, 2), (1, 1), ceil_mode=True),
        nn.MaxPool2d(2, 1, 1, dilation=2),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 4)),
        nn.AdaptiveMaxPool2d(1),
        nn.AdaptiveMaxPool2d((2, 4)),
        nn.ZeroPad2d((1, 0, 2, 1)),
        nn.ReflectionPad2d(1),
        nn.PixelUnshuffle(1),
        nn.Upsample(scale_factor=2),
    ]


@pytest.mark.parametrize("module", pools(), ids=str)
def test_pools_2d(module: nn.Module) -> None:
    checked(nn.Sequential(nn.Conv2d(2, 3, 3), module, nn.Flatten()), (2, 7, 6))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(2, 3, 3, 2, 1),
        nn.Conv1d(2, 2, 2, padding="same", groups=2),
        nn.Conv1d(2, 3, 3, padding="same", dilation=2),
        nn.ConvTranspose1d(2, 3, 3, 2, 1, 1),
        nn.MaxPool1d(3, 2, 1),
        nn.AvgPool1d(3, 2, 1),
        nn.AdaptiveAvgPool1d(3),
        nn.AdaptiveMaxPool1d(4),
        nn.BatchNorm1d(2),
        nn.Linear(8, 3),
        nn.ConstantPad1d(1, -0.5),
    ],
    ids=str,
)
def test_modules_1d(module: nn.Module) -> None:
    checked(module, (2, 8))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(2, 4, 3, (2, 1), (1, 0), (1, 2), groups=2),
        nn.Conv2d(2, 3, (2, 3), padding="same"),
        nn.Conv2d(2, 3, 3, padding="valid", bias=False),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(2, 3, 3, 2, 1, 1),
        nn.ConvTranspose2d(2, 4, 2, dilation=2, groups=2, bias=False),
    ],
    ids=str,
)
def test_convolutions_2d(module: nn.Module) -> None:
    checked(module, (2, 6, 5))


def trained_norm(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The model after a few batches in training mode, so that running statistics are not the initial ones."""
    model.train()
    for seed in range(3):
        model(torch.randn(8, *shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1)
    return model.eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.head = nn.Linear(4 * 8 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = torch.relu(y + self.branch(y))
        y = torch.cat([y, self.branch(y)], 1)  # a module used twice
        y = F.max_pool2d(y, 2)
        return self.head(y.flatten(1))


def residual() -> nn.Module:
    return trained_norm(Residual(), (1, 8, 8))


def test_residual_network_with_a_shared_branch() -> None:
    graph = checked(residual(), (1, 8, 8))
    assert any(n.origin == "branch.0 (Conv2d)" for n in graph.nodes)
    kernels = [n.op.weight for n in graph.nodes if isinstance(n.op, Conv2d)]
    assert len(kernels) == 3 and kernels[1] is kernels[2]


def test_parameters_are_the_models_own() -> None:
    model = residual()
    graph = import_torch(model, torch.randn(1, 1, 8, 8))
    own = {id(p) for p in [*model.parameters(), *model.buffers()]}
    floats = [t for n in graph.nodes[1:] for _, t in n.op.parameters() if t.is_floating_point()]
    assert floats and all(id(t) in own for t in floats)
    x = torch.randn(4, 1, 8, 8)
    graph.forward(x).square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-3), name
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert torch.allclose(graph.forward(x), model(x), atol=1e-4)


def test_gradients_through_folded_constants() -> None:
    model = Function(lambda s, x: x * torch.exp(s.w)).eval()
    graph = import_torch(model, torch.randn(1, 4))
    graph.forward(torch.ones(1, 4)).sum().backward()
    assert torch.allclose(model.w.grad, model.w.exp())


def test_reparametrised_weight() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU()).eval()
    graph = checked(model, (4,))
    graph.forward(torch.ones(2, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_relus_of_max_pools() -> None:
    regular = checked(nn.Sequential(nn.MaxPool2d(2)), (1, 6, 6))
    assert sum(isinstance(n.op, ReLU) for n in regular.nodes) == 3  # feature maps stay feature maps
    graph = checked(nn.Sequential(nn.MaxPool2d(3, padding=1)), (1, 6, 6))
    assert sum(isinstance(n.op, ReLU) for n in graph.nodes) == 4  # ceil(log2 9)


def test_simple_operators_are_used() -> None:
    assert isinstance(checked(Function(lambda s, x: x.view(-1, 2, 2).mT), (4,)).nodes[-1].op, Permute)
    assert isinstance(checked(Function(lambda s, x: x.flip(1)), (4,)).nodes[-1].op, Gather)
    graph = checked(Function(lambda s, x: x.reshape(x.shape[0], 4).contiguous() @ s.m), (4,))
    assert len(graph.nodes) == 2 and isinstance(graph.nodes[1].op, Linear)
    graph = checked(nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Identity()), (4,))
    assert len(graph.nodes) == 2


def test_double_precision() -> None:
    model = residual().double()
    graph = import_torch(model, torch.randn(2, 1, 8, 8, dtype=torch.float64))
    assert graph.dtype == torch.float64


def test_model_and_random_state_stay_untouched() -> None:
    model = residual()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    import_torch(model, torch.zeros(1, 1, 8, 8))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# --- exported programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("decomposed", [False, True])
def test_exported_programs(batch: int | None, decomposed: bool) -> None:
    model = residual()
    dynamic = ({0: torch.export.Dim("batch")},) if batch is None else None
    program = torch.export.export(model, (torch.randn(batch or 2, 1, 8, 8),), dynamic_shapes=dynamic)
    if decomposed:
        program = program.run_decompositions()
    graph = import_torch(program, torch.randn(2, 1, 8, 8))
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(graph.forward(x), model(x), atol=1e-4)
        wide = copy.deepcopy(model).double()(x.double())
    runner = ModelRunner(program)
    assert torch.allclose(runner.run(x), wide, rtol=1e-9, atol=1e-9)
    assert torch.allclose(runner.run(x, None), model(x), atol=1e-5) and runner.run(x, None).dtype == torch.float32


def test_program_with_another_input() -> None:
    program = torch.export.export(nn.Linear(4, 3), (torch.randn(2, 4),))
    with pytest.raises(InputError, match=r"takes torch.float32 of shape \[2, 4\]"):
        import_torch(program, torch.randn(1, 5))


# --- the runner ------------------------------------------------------------------------------------------------------


def test_runner_leaves_the_model_and_follows_its_weights() -> None:
    model = Function(lambda s, x: (x * s.w).relu_()).eval()
    runner = ModelRunner(model)
    x = torch.randn(3, 4)
    kept = x.clone()
    assert torch.equal(runner.run(x), (x.double() * model.w.double()).relu())
    assert torch.equal(x, kept) and model.w.dtype == torch.float32
    assert runner.run(x).dtype == torch.float64 and not runner.run(x).requires_grad
    with torch.no_grad():
        model.w.mul_(-1)
    assert torch.equal(runner.run(x), (x.double() * model.w.double()).relu())
    assert torch.equal(runner.run(x, None), (x * model.w).relu())


def test_runner_with_a_model_that_loses_a_batch_of_one() -> None:
    runner = ModelRunner(Function(lambda s, x: x.unsqueeze(2).squeeze()).eval())
    assert runner.run(torch.ones(1, 4)).shape == (1, 4)


def test_runner_flattens_and_reports() -> None:
    assert ModelRunner(nn.Unflatten(1, (2, 2))).run(torch.ones(3, 4)).shape == (3, 4)
    with pytest.raises(ModelError, match="failed on a batch of shape"):
        ModelRunner(nn.Linear(3, 2)).run(torch.ones(2, 4))
    with pytest.raises(ModelError, match="a single tensor is needed"):
        ModelRunner(Function(lambda s, x: {"y": x})).run(torch.ones(2, 4))
    with pytest.raises(ModelError, match="dimension 0 must be the batch"):
        ModelRunner(Function(lambda s, x: x.sum(0))).run(torch.ones(2, 4))


# --- refusals --------------------------------------------------------------------------------------------------------

MIXING: dict[str, Callable[..., Tensor]] = {
    "sum": lambda s, x: x.sum(0, keepdim=True) + x,
    "mean of all": lambda s, x: x - x.mean(),
    "permute": lambda s, x: x.permute(1, 0),
    "transpose": lambda s, x: x.t(),
    "reshape": lambda s, x: x.reshape(-1, 2),
    "flatten": lambda s, x: x.flatten(0, 1),
    "cat": lambda s, x: torch.cat([x, x], 0),
    "flip": lambda s, x: x.flip(0),
    "roll": lambda s, x: x.roll(1),
    "select": lambda s, x: x[0],
    "repeat": lambda s, x: x.repeat(2, 1),
    "stack": lambda s, x: torch.stack([x, x], 0),
    "left matrix": lambda s, x: s.m[:2, :2] @ x,
    "per-example constant": lambda s, x: x + torch.arange(2)[:, None],
}


@pytest.mark.parametrize("name", MIXING)
def test_mixing_the_batch_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="moves or mixes the batch dimension"):
        import_torch(Function(MIXING[name]).eval(), torch.randn(1, 4))


def test_broadcasting_over_the_batch_is_refused() -> None:
    model = Function(lambda s, x: x.unsqueeze(1).expand(-1, 2, 4) + x).eval()
    with pytest.raises(UnsupportedError, match="broadcast the batch dimension of one"):
        import_torch(model, torch.randn(1, 4))


class Head(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x, 1).values


def test_unsupported_operator_says_where() -> None:
    model = nn.Sequential(nn.Linear(4, 3), Head()).eval()
    with pytest.raises(UnsupportedError) as caught:
        import_torch(model, torch.randn(1, 4))
    message = str(caught.value)
    for part in (
        "aten.sort",
        "'sort'",
        "1 (Head)",
        "test_torch_import.py",
        "torch.sort(x, 1)",
        "\nSupported:",
    ):
        assert part in message
    assert all(len(line) <= 100 for line in message.partition("\nSupported:")[2].splitlines())


REFUSED: list[tuple[Callable[..., object], str]] = [
    (lambda s, x: torch.div(x, 2, rounding_mode="floor"), "rounds"),
    (lambda s, x: F.linear(s.w, x), "weight and bias must not depend|mixes the batch"),
    (lambda s, x: x.clamp(1.0, -1.0), "wrong order"),
    (lambda s, x: (x, x), "returns 2 values"),
    (lambda s, x: s.w.expand(x.shape[0], 4), "does not depend on its input"),
    (lambda s, x: x.double(), "precision"),
    (lambda s, x: x.sort(1).values, "aten.sort"),
    (lambda s, x: x if x.sum() > 0 else -x, "torch.export cannot trace"),
]


@pytest.mark.parametrize("function, message", REFUSED, ids=[m for _, m in REFUSED])
def test_refusals(function: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        import_torch(Function(function).eval(), torch.randn(1, 4))


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_two_inputs() -> None:
    with pytest.raises(UnsupportedError, match="several inputs"):
        import_torch(TwoInputs().eval(), torch.randn(1, 4))
    program = torch.export.export(TwoInputs().eval(), (torch.randn(2, 4), torch.randn(2, 4)))
    with pytest.raises(UnsupportedError, match="takes 2 inputs"):
        import_torch(program, torch.randn(1, 4))


def test_training_mode() -> None:
    with pytest.raises(ModelError, match=r"training mode.*eval\(\)"):
        import_torch(nn.Linear(4, 3).train(), torch.randn(1, 4))
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    model[1].train()
    with pytest.raises(ModelError, match=r"'1'.*training mode"):
        import_torch(model, torch.randn(1, 4))
    with pytest.raises(ModelError, match="as in training"):
        import_torch(Function(lambda s, x: F.dropout(x, 0.5, True)).eval(), torch.randn(1, 4))
    with pytest.raises(ModelError, match="training"):
        program = torch.export.export(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train(), (torch.randn(2, 4),))
        import_torch(program, torch.randn(1, 4))
    with pytest.raises(ModelError, match=r"training|running statistics"):
        import_torch(nn.BatchNorm1d(4, track_running_stats=False).eval(), torch.randn(1, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad: float) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].bias[1] = bad
    with pytest.raises(ModelError, match=r"'0\.bias' holds NaN or infinite"):
        import_torch(model, torch.randn(1, 4))
    with pytest.raises(ModelError, match="not finite"):
        import_torch(Function(lambda s, x: x + bad).eval(), torch.randn(1, 4))
    with pytest.raises(ModelError, match="divides by zero"):
        import_torch(Function(lambda s, x: x / (s.w - s.w)).eval(), torch.randn(1, 4))


def test_bad_examples() -> None:
    model = nn.Linear(4, 3).eval()
    with pytest.raises(InputError, match="floating-point"):
        import_torch(model, torch.ones(1, 4, dtype=torch.int64))
    with pytest.raises(InputError, match="float32 or float64"):
        import_torch(model, torch.ones(1, 4, dtype=torch.float16))
    with pytest.raises(InputError, match="use one precision"):
        import_torch(model, torch.ones(1, 4, dtype=torch.float64))
    with pytest.raises(InputError, match="hold an entry"):
        import_torch(model, torch.ones(0, 4))


def test_a_model_that_fails_by_itself_is_told_from_one_that_cannot_be_traced() -> None:
    with pytest.raises(InputError, match=r"itself fails on an input of shape \[5, 5, 1\] per example.*") as caught:
        import_torch(nn.Conv2d(1, 2, 3).eval(), torch.ones(1, 5, 5, 1))
    assert "to have 1 channels" in str(caught.value) and "--layout nhwc" in str(caught.value)
    assert "control flow" not in str(caught.value) and len(str(caught.value).splitlines()) == 2


def test_a_failing_trace_is_two_lines_and_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedError, match="control flow that depends on values") as caught:
        import_torch(Function(lambda s, x: x if x.sum() > 0 else -x).eval(), torch.randn(1, 4))
    assert len(str(caught.value).splitlines()) == 2
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("torch").disabled


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("net.pt2", r"of type str: pass a torch.nn.Module .*torch.export.load"),
        (lambda x: x, "of type function: pass a torch.nn.Module"),
        (torch.jit.script(nn.Linear(4, 3).eval()), "TorchScript, which cannot be traced: pass a torch.nn.Module"),
    ],
    ids=["path", "function", "TorchScript"],
)
def test_what_is_no_model_is_refused(model: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        import_torch(model, torch.ones(1, 4))


def test_models_that_depend_on_the_batch_size_or_on_chance_are_refused() -> None:
    with pytest.raises(ModelError, match="disagree"):
        import_torch(Function(lambda s, x: x / x.shape[0]).eval(), torch.randn(1, 4))
    with pytest.raises(ModelError, match="disagree"):
        import_torch(Function(lambda s, x: x + torch.rand(4)).eval(), torch.randn(1, 4))


def test_a_wrong_operator_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison has teeth: an importer that gets one operator slightly wrong is refused."""
    monkeypatch.setitem(walker.HANDLERS, "tanh", lambda w, a: w.scaled(w.emit(Tanh(), a["self"]), 1 + 1e-7))
    with pytest.raises(ModelError, match="outputs differ by"):
        import_torch(nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval(), torch.randn(1, 4))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


def test_model_with_state() -> None:
    with pytest.raises(ModelError, match="changes its own buffers"):
        import_torch(Counter().eval(), torch.randn(1, 4))


def test_a_model_that_fixes_its_precision_is_compared_in_it() -> None:
    model = Function(lambda s, x: F.linear(x.float(), s.m.t().float()))
    checked(model, (4,))
    with pytest.raises(ModelError, match="fixes its own precision"):
        ModelRunner(model).run(torch.ones(1, 4))
