"""Conditions on values of traced models: comparisons, logic, choices and casts become numbers 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from helpers.functions import Function
from test_torch_linear import checked
from torch import Tensor, nn

from verifier import Trust, Verdict, verify
from verifier.errors import ModelError
from verifier.graph.torch_import import import_torch
from verifier.ops.elementwise import Multiply
from verifier.ops.jumps import Step

CONDITIONS: dict[str, Callable[..., Tensor]] = {
    "greater than a number": lambda s, x: (x > 0.3).float(),
    "all comparisons": lambda s, x: torch.stack([x < s.w, x <= 0, x >= 1, x.ge(s.w), x < 0.2], 1).float(),
    "of two values": lambda s, x: (x[:, :2] > x[:, 2:4]).float() - (x[:, :2] <= 2 * x[:, 1:3]).to(x.dtype),
    "equal": lambda s, x: (x.relu() == 0).float() + (x.relu() != 0).type_as(x),
    "logic": lambda s, x: ((x > 0) & (x < 1) | (x < s.w) ^ (x > -1)).float(),
    "logic with constants": lambda s, x: ((x > 0) & (s.w > 0) | (s.w < -1)).float() + (~(x > 1)).float(),
    "logical functions": lambda s, x: torch.logical_or(torch.logical_not(x > 0), x > 1).float(),
    "where": lambda s, x: torch.where(x > 0, x, 0.1 * x),
    "where, constants": lambda s, x: torch.where(x > s.w, 2.0, s.w) + torch.where(x > 0, 0.0, x),
    "where, of another value": lambda s, x: torch.where(x[:, :1] > x[:, 1:2], x[:, 2:], x[:, :3]),
    "where, in sequence": lambda s, x: torch.where(x.transpose(0, 1) > 0, x.transpose(0, 1), 1.0).transpose(0, 1),
    "masked fill": lambda s, x: x.masked_fill(x > 1, 0.0) + x.masked_fill(x < s.w, 2.0),
    "masked fill, constant": lambda s, x: x.masked_fill(s.w > 0, 0.5),
    "a mask as a factor": lambda s, x: x * (x > 0) + x * (x > 0.5).float(),
    "counted": lambda s, x: (x > 0).sum(1).float() + (x > 0.5).to(torch.int64).sum(1) * 0.5,
    "to whole numbers": lambda s, x: (3 * x).int().float() + (2 * x).long() * 0.25,
    "whole numbers": lambda s, x: ((3 * x).long() > 1).float() + ((3 * x).long() * 2 + 1 - (x > 0).long()) / 2,
    "moved": lambda s, x: (x > 0).transpose(1, 2).reshape(-1, 2, 10).float(),
    "truth of numbers": lambda s, x: x.relu().bool().float(),
    "heaviside": lambda s, x: torch.heaviside(x, s.w) + torch.heaviside(x, torch.tensor(1.0)),
    "threshold by hand": lambda s, x: F.relu(x - 1) + (x > 1).float(),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions(name: str) -> None:
    checked(CONDITIONS[name], (5, 4))


STAIRS: dict[str, Callable[..., Tensor]] = {
    "threshold": lambda s, x: F.threshold(x, 0.5, 0.5) + F.threshold(x, 0.0, -1.0) + F.threshold(x, -0.25, 2.0),
    "hardshrink": lambda s, x: F.hardshrink(x) - 0.5 * F.hardshrink(x, 1.0),
    "softshrink": lambda s, x: F.softshrink(x, 0.7),
    "whole parts": lambda s, x: torch.trunc(3 * x) + torch.fix(2 * x) + torch.frac(x),
    "rrelu": lambda s, x: F.rrelu(x, 0.1, 0.4, training=False),
    "remainders": lambda s, x: torch.fmod(x, 0.7) + torch.remainder(x, 0.9) + torch.remainder(x, -1.1),
    "fake quantise": lambda s, x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 15),
    "fake quantise, tensors": lambda s, x: torch.fake_quantize_per_tensor_affine(
        x, torch.tensor(0.1), torch.tensor(3, dtype=torch.int32), -8, 7
    ),
    "fake quantise, channels": lambda s, x: torch.fake_quantize_per_channel_affine(
        x, s.c.float(), torch.tensor([0, 2, 0, -1], dtype=torch.int32), 2, -8, 7
    ),
    "fake quantise, channels alike": lambda s, x: torch.fake_quantize_per_channel_affine(
        x, s.c.float(), torch.zeros(4, dtype=torch.int32), 2, -8, 7
    ),
    "tanhshrink": lambda s, x: F.tanhshrink(x) + x.tanh(),
}


@pytest.mark.parametrize("name", STAIRS)
def test_functions_that_jump(name: str) -> None:
    checked(STAIRS[name], (5, 4))


FUTURE = torch.ones(5, 5).triu(1).bool()
MINUS = torch.zeros(5, 5).masked_fill(FUTURE, -torch.inf)


def scores(x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


MASKED: dict[str, Callable[..., Tensor]] = {
    "filled": lambda s, x: (scores(x).masked_fill(FUTURE, -torch.inf) / 2).softmax(-1) @ x,
    "filled twice": lambda s, x: (
        scores(x).masked_fill(FUTURE, -torch.inf).masked_fill(torch.arange(5) == 3, float("-inf")).softmax(-1) @ x
    ),
    "added": lambda s, x: (scores(x) + MINUS).softmax(-1) @ x,
    "added twice, moved": lambda s, x: (scores(x) + MINUS + MINUS.flip(0, 1).t()).unsqueeze(1).softmax(-1)[:, 0] @ x,
    "chosen": lambda s, x: torch.where(FUTURE, -torch.inf, scores(x)).transpose(1, 2).softmax(1).transpose(1, 2) @ x,
}


@pytest.mark.parametrize("name", MASKED)
def test_minus_infinity_before_a_softmax_is_a_probability_of_zero(name: str) -> None:
    checked(MASKED[name], (5, 4))


REFUSED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "a sum of conditions": (lambda s, x: ((x > 0) + (x > 1)).float(), "adds conditions"),
    "logic on numbers": (lambda s, x: ((2 * x).long() & 1).float(), "combines numbers"),
    "a narrow cast": (lambda s, x: x.to(torch.int8).float(), "casts to torch.int8"),
    "division of whole numbers": (lambda s, x: ((4 * x).long() // 2).float(), "whole numbers"),
    "minus infinity elsewhere": (lambda s, x: scores(x).masked_fill(FUTURE, -torch.inf).relu(), "minus infinity"),
    "no entry left": (lambda s, x: (scores(x) + MINUS.new_full((5, 5), -torch.inf)).softmax(-1), "not a number"),
    "an entry that depends": (lambda s, x: s.w[(x > 0).long()[:, 0]], "selects entries of a constant"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        import_torch(Function(function).eval(), torch.randn(1, 5, 4))


def counts(s: Function, x: Tensor) -> Tensor:
    """Conditions of every kind inside one network of three outputs."""
    h = x @ s.m
    on = (h > 0.2).float()
    kept = torch.where(h > h.mean(1, keepdim=True), h, 0.5 * h)
    both = ((h > 0) & (h < 1)).to(x.dtype)
    return kept + 0.5 * on + 0.25 * both + 0.1 * (4 * h).long()


def test_what_is_proved_of_conditions_holds_and_is_checked() -> None:
    model, x = Function(counts).eval(), torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    label, seen = model(x).argmax(1), set()
    for eps in (0.002, 0.2):
        found = verify(model, x, eps=eps, budget=3)
        moved = x + eps * (2 * torch.rand(3000, *x.shape, generator=torch.Generator().manual_seed(1)) - 1)
        same = (model(moved.flatten(0, 1)).argmax(1).unflatten(0, (3000, 6)) == label).all(0)
        seen |= set(found.verdict)
        for verdict, trust, kept in zip(found.verdict, found.trust, same, strict=True):
            assert verdict is not Verdict.VERIFIED or (kept and trust is Trust.CHECKED)
    assert seen >= {Verdict.VERIFIED, Verdict.FALSIFIED}


@pytest.mark.parametrize(("limit", "value", "products"), [(0.5, -1.0, 1), (0.1, 0.7, 2), (1e16, -1.0, 2)])
def test_what_a_step_is_multiplied_with_is_not_rounded(limit: float, value: float, products: int) -> None:
    class Threshold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.threshold(x, limit, value)

    graph = import_torch(Threshold().eval(), torch.zeros(1, 2, dtype=torch.float64))
    steps = [i for i, node in enumerate(graph.nodes) if isinstance(node.op, Step)]
    found = [n.op.constant for n in graph.nodes if isinstance(n.op, Multiply) and n.parents[0] in steps]
    heights = [Fraction(float(c)) for c in found]
    assert len(heights) == products and not graph.rounded
    assert heights[0] - sum(heights[1:]) == Fraction(limit) - Fraction(value)
