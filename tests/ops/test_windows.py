"""Forms of chosen neurons' windows: every method says what it says of the coefficients written out."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.forms import Dense, LinearForm, Windows
from verifier.ops.conv import Conv2d
from verifier.ops.elementwise import Subtract
from verifier.testing.operators import forms

SHAPE = (2, 5, 4)


def random(*size: int, seed: int = 0) -> Tensor:  # [*size]
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def windows() -> list[Windows]:
    return [form for form in forms(SHAPE) if isinstance(form, Windows)]


def equal(form: LinearForm, dense: LinearForm) -> bool:
    a, b = torch.broadcast_tensors(form.dense(), dense.dense())
    return torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_values_of_windows_are_those_of_the_written_out_form() -> None:
    x, factor, spread = random(2, *SHAPE), random(2, *SHAPE, seed=1), random(2, *SHAPE, seed=2).abs()
    for form in windows():
        dense = Dense(form.dense())
        assert torch.allclose(*torch.broadcast_tensors(form.dot(x), dense.dot(x)))
        assert torch.allclose(*torch.broadcast_tensors(form.abs_dot(spread), dense.abs_dot(spread)))
        assert torch.allclose(form.norm(2), dense.norm(2))
        assert equal(form.scale(factor), dense.scale(factor)) and equal(form.abs(), dense.abs())
        assert equal(form.times(-1.5), dense.times(-1.5))
        below, constant = form.below(factor, spread, x, spread)
        expected, same = dense.below(factor, spread, x, spread)
        assert isinstance(below, Windows) and equal(below, expected) and torch.allclose(constant, same)
        local = form.local(margin=1)
        assert torch.allclose(local.rows(local.coefficients.flatten(2).square().sum(2)).sqrt(), dense.norm(2))


def test_sums_of_windows_that_begin_elsewhere_stay_windows() -> None:
    for form in windows():
        inner = Windows(form.coefficients[..., :1, :1] * 2, form.corner + 1, SHAPE)
        inner = Windows.within(inner.coefficients, inner.corner, SHAPE)
        for a, b in ((form, inner), (inner, form), (form, form.times(0.5))):
            assert isinstance(a.add(b), Windows) and equal(a.add(b), Dense(a.dense() + b.dense()))
            assert equal(a.combine(b, -1.0), Dense(a.dense() - b.dense()))
            assert isinstance(a.stack(b), Windows) and equal(a.stack(b), Dense(a.dense()).stack(Dense(b.dense())))
        shuffled = Windows(form.coefficients.flip(1), form.corner.flip(1), SHAPE)
        assert equal(form.add(shuffled), Dense(form.dense() + shuffled.dense()))


def test_a_residual_block_keeps_windows() -> None:
    like, index = random(1), torch.tensor([[0, 31, 77, 12]])
    start = Windows.selected(index, (3, 6, 6), like)
    first = Conv2d(random(3, 2, 1, 1), None, (2, 2))
    second = Conv2d(random(3, 2, 3, 3, seed=1), None, (2, 2), (1, 1))
    shape = (2, 12, 12)
    short = first.adjoint(Subtract().adjoint(start, [(3, 6, 6)] * 2, 1), [shape], 0)
    long = second.adjoint(start, [shape], 0)
    total = long.add(short)
    assert isinstance(total, Windows) and total.size == (3, 3)
    x = random(1, *shape, seed=2)
    difference = second.linear(x) - first.linear(x)
    assert torch.allclose(total.dot(x), difference.flatten(1)[:, index[0]])
