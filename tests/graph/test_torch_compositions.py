"""What is composed at import of a traced model: softmax, normalisation, attention, recurrences, smooth functions."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from test_torch_linear import checked
from torch import Tensor, nn

from properties import Specification
from verifier import Verdict, verify
from verifier.api import Verifier
from verifier.graph.torch_import import import_torch

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "softmax": lambda s, x: x.softmax(-1) + x.softmax(1),
    "softmax of two": lambda s, x: x[..., :2].softmax(-1),
    "softmax, batch in the middle": lambda s, x: x.transpose(0, 1).softmax(-1).transpose(0, 1),
    "log softmax": lambda s, x: x.log_softmax(-1),
    "log softmax of two": lambda s, x: x[..., :2].log_softmax(-1),
    "logsumexp": lambda s, x: x.logsumexp(1) + x.logsumexp(2, keepdim=True)[:, 0],
    "layer norm": lambda s, x: F.layer_norm(x, (4,), s.w, s.c),
    "layer norm, two dimensions": lambda s, x: F.layer_norm(x, (5, 4)),
    "rms norm": lambda s, x: F.rms_norm(x, (4,), s.w) + F.rms_norm(x, (4,), eps=0.1),
    "group norm": lambda s, x: F.group_norm(x[:, :4], 2, s.w, s.c),
    "instance norm": lambda s, x: F.instance_norm(x[:, :4], weight=s.w),
    "variance": lambda s, x: x.var(-1) + x.std(-1) + x.var(-1, unbiased=False),
    "norms": lambda s, x: x.norm(dim=-1) + x.norm(p=1, dim=-1) + x.norm(p=float("inf"), dim=-1),
    "normalize": lambda s, x: F.normalize(x, dim=1),
    "quotients": lambda s, x: x / (x.abs() + 1) + 1 / (x.abs() + 1),
    "products": lambda s, x: x.prod(1) + (x * x).sum(1),
    "glu": lambda s, x: F.glu(x),
    "bilinear": lambda s, x: F.bilinear(x, x * s.w, s.m.reshape(-1, 4, 1)[:3].expand(3, 4, 4), s.c[:3]),
    "bilinear with a constant": lambda s, x: F.bilinear(s.w.expand(x.shape), x, torch.ones(2, 4, 4).tril(), None),
    "cosines": lambda s, x: torch.cosine_similarity(x, x * s.w, dim=-1) + F.cosine_similarity(x, s.w, dim=2),
    "squeeze and excite": lambda s, x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "attention": lambda s, x: F.scaled_dot_product_attention(x, x * s.w, x),
    "causal attention": lambda s, x: F.scaled_dot_product_attention(x, x * s.w, x, is_causal=True),
    "masked attention": lambda s, x: F.scaled_dot_product_attention(x, x * s.w, x, attn_mask=torch.arange(5) < 3),
    "attention of constant queries": lambda s, x: F.scaled_dot_product_attention(
        s.m.t().unsqueeze(0).expand(len(x), 3, 4), x, x
    ),
    "einsum of two": lambda s, x: torch.einsum("btd,bsd->bts", x, x * s.w),
    "gelu, tanh": lambda s, x: F.gelu(x, approximate="tanh"),
    "powers": lambda s, x: x**3 + x**2 + (x.abs() + 1) ** 1.5 + (x.abs() + 1) ** -2,
    "prelu": lambda s, x: F.prelu(x.transpose(1, 2), s.w),
    "softplus, beta": lambda s, x: F.softplus(x, beta=2.0),
    **{n: lambda s, x, n=n: getattr(torch, n)(x) for n in ("exp", "sin", "cos", "atan", "erf", "square", "expm1")},
    **{n: lambda s, x, n=n: getattr(torch, n)(x.abs() + 0.5) for n in ("log", "sqrt", "rsqrt", "reciprocal", "log1p")},
    **{n: lambda s, x, n=n: getattr(F, n)(x) for n in ("gelu", "silu", "mish", "hardswish", "elu", "selu", "celu")},
    **{n: lambda s, x, n=n: getattr(F, n)(x) for n in ("softplus", "logsigmoid", "hardsigmoid", "softshrink")},
    **{n: lambda s, x, n=n: getattr(F, n)(x) for n in ("softsign", "tanhshrink")},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    checked(FUNCTIONS[name], (5, 4))


class Called(nn.Module):
    """A module, called in a way of its own."""

    def __init__(self, module: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.module, x)


def first(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)[0]


def sequence_first(model: nn.Module, x: Tensor) -> Tensor:
    return model(x.transpose(0, 1))[0].transpose(0, 1)


def attended(model: nn.Module, x: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    return model(x, x, x, need_weights=False)[0].transpose(0, 1)


class VisionTransformer(nn.Module):
    """One block as timm has it: patches, a class token, q, k and v in one layer, attention written out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm1, self.norm2, self.norm = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * 0.5) @ k.transpose(-2, -1)
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x)[:, 0])


def layer(**options: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, **options)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (
        lambda: Called(nn.MultiheadAttention(4, 2, batch_first=True), lambda m, x: m(x, x, x)[0]),
        (5, 4),
    ),
    "attention, sequence first": (lambda: Called(nn.MultiheadAttention(4, 2), attended), (5, 4)),
    "encoder layer": (lambda: layer(), (5, 4)),
    "encoder": (lambda: nn.TransformerEncoder(layer(norm_first=True), 2, enable_nested_tensor=False), (3, 4)),
    "vision transformer": (VisionTransformer, (1, 4, 4)),
    "lstm": (lambda: Called(nn.LSTM(4, 3, batch_first=True), first), (5, 4)),
    "lstm, deep, both ways": (lambda: Called(nn.LSTM(4, 3, 2, bidirectional=True), sequence_first), (5, 4)),
    "last state of an lstm": (lambda: Called(nn.LSTM(4, 3, batch_first=True), lambda m, x: m(x)[1][0][-1]), (5, 4)),
    "gru": (lambda: Called(nn.GRU(4, 3, batch_first=True), first), (5, 4)),
    "rnn": (lambda: Called(nn.RNN(4, 3, batch_first=True, nonlinearity="relu"), first), (5, 4)),
    "rnn, no bias": (lambda: Called(nn.RNN(4, 3, batch_first=True, bias=False), first), (5, 4)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    build, shape = MODULES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    generator = torch.Generator().manual_seed(3)
    graph = import_torch(model, torch.randn(1, *shape, generator=generator))
    x = torch.randn(5, *shape, generator=generator)
    with torch.no_grad():
        theirs, ours = model(x), graph.forward(x)
    assert torch.allclose(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-4)


# --- a last softmax --------------------------------------------------------------------------------------------------


def classifier(*tail: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), *tail).eval()


@pytest.mark.parametrize("tail", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()], ids=str)
def test_a_last_softmax_changes_no_verdict_and_no_bound(tail: nn.Module) -> None:
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    for eps in (0.01, 0.5):
        plain, ended = verify(classifier(), x, eps), verify(classifier(tail), x, eps)
        assert plain.verdict == ended.verdict and plain.trust == ended.trust
        assert torch.equal(plain.margins, ended.margins)


def test_margins_are_of_the_values_before_a_last_softmax_and_are_said_to_be() -> None:
    """Not of probabilities, which differ by no more than 1; margins of attacks are of the outputs."""
    model = classifier(nn.Softmax(1))
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([5.0, 0.0, 0.0]))
    x = torch.rand(1, 4, generator=torch.Generator().manual_seed(0))
    result = verify(model, x, 0.01)
    with torch.no_grad():
        logits = model[:3](x)[0]
    assert result.verdict == (Verdict.VERIFIED,) and float(result.margins[0, 1]) > 1
    assert float(result.margins[0, 1]) <= float(logits[0] - logits[1])
    attacked = verify(model, x, 0.01, stages=["attack"])
    assert 0 < float(attacked.attack_margin) < 1
    console = Console(width=300, file=io.StringIO())
    console.print(Verifier(model, x).explain())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "margins are then of these values, margins of attacks of the outputs" in text
    plain = Console(width=300, file=io.StringIO())
    plain.print(Verifier(classifier(), x).explain())
    assert "margins are then" not in plain.file.getvalue()  # type: ignore[attr-defined]


def test_other_questions_are_asked_of_the_softmax_itself() -> None:
    model = classifier(nn.Softmax(1))
    x = torch.rand(1, 4, generator=torch.Generator().manual_seed(0))
    verifier = Verifier(model, x)
    assert verifier.imported.ordered is not None
    largest = float(model(x).detach().max())
    rows = torch.zeros(1, 1, 3)
    rows[0, 0, int(model(x).argmax())] = 1.0
    zero = torch.zeros(1, dtype=torch.int64)
    spec = Specification(rows, torch.full((1, 1), -(largest + 0.2)), zero)  # a level that the logits themselves reach
    bounded, attacked = (verify(model, x, 0.001, spec=spec, stages=[name]) for name in ("dual", "attack"))
    assert -0.21 < float(bounded.margins) <= float(attacked.attack_margin) < -0.19
    above, below = (Specification(rows, torch.full((1, 1), sign * 0.2 - largest), zero) for sign in (1, -1))
    assert verify(model, x, 0.001, spec=above).verdict == (Verdict.VERIFIED,)
    assert verify(model, x, 0.001, spec=below).verdict == (Verdict.FALSIFIED,)


def test_a_softmax_inside_is_no_last_one() -> None:
    with_layer = classifier(nn.Softmax(1), nn.Linear(3, 3))
    assert import_torch(with_layer, torch.rand(1, 4)).ordered is None
    per_row = nn.Sequential(nn.Linear(4, 3), nn.Softmax(2)).eval()
    assert import_torch(per_row, torch.rand(1, 2, 4)).ordered is None
