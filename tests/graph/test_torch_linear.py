"""Linear operators of traced models, and models that move the batch about and bring it back: values as the model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.functions import Function
from torch import Tensor

from verifier.errors import UnsupportedError
from verifier.graph import Graph
from verifier.graph.torch_import import import_torch
from verifier.ops.shape import Gather


def checked(function: Callable[..., Tensor], shape: tuple[int, ...]) -> Graph:
    """Import, and compare on inputs of the test's own."""
    model = Function(function).eval()
    generator = torch.Generator().manual_seed(7)
    graph = import_torch(model, torch.randn(1, *shape, generator=generator))
    x = torch.randn(5, *shape, generator=generator) * 3
    with torch.no_grad():
        theirs, ours = model(x.clone()), graph.forward(x)
    assert torch.allclose(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-4)
    return graph


def generic(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assigned(x: Tensor, place: Any, value: Any) -> Tensor:
    y = x.clone()
    y[place] = value
    return y


EVERY = slice(None)

SEQUENCES: dict[str, Callable[..., Tensor]] = {
    "einsum": lambda s, x: torch.einsum("btd,de->bte", x, s.m),
    "einsum, ellipsis": lambda s, x: torch.einsum("...d,d->...", x, s.w),
    "einsum, permutation": lambda s, x: torch.einsum("btd->bdt", x),
    "einsum, a matrix each": lambda s, x: torch.einsum("btd,tde->bte", x, generic(5, 4, 3)),
    "einsum, two constants": lambda s, x: torch.einsum("btd,d,de->bet", x, s.w, s.m),
    "einsum, sequence first": lambda s, x: torch.einsum("tbd,de->tbe", x.transpose(0, 1), s.m).transpose(0, 1),
    "cumsum": lambda s, x: x.cumsum(1) + x.cumsum(-1),
    "triangles": lambda s, x: x.tril(1) - x.triu(-1),
    "resize, linear": lambda s, x: F.interpolate(x, size=7, mode="linear"),
    "assign a number": lambda s, x: assigned(x, (EVERY, slice(1, 3)), 0.5),
    "assign a constant": lambda s, x: assigned(x, (EVERY, slice(1, 3)), s.w),
    "assign values": lambda s, x: assigned(x, (EVERY, slice(1, 3)), x[:, 2:4] * 2),
    "assign one row": lambda s, x: assigned(x, (EVERY, 2), x[:, 0] * 2),
    "assign rows by number": lambda s, x: assigned(x, (EVERY, [0, 2]), 0.0),
    "assign rows of values": lambda s, x: assigned(x, (EVERY, [0, 2]), x[:, [1, 1]] * 3),
    "assign to zeros": lambda s, x: assigned(torch.zeros(x.shape[0], 7, 4), (EVERY, slice(2, 7)), x * 2),
    "masked fill": lambda s, x: x.masked_fill(torch.arange(4) > 2, -2.0),
    "where": lambda s, x: torch.where(torch.arange(4) > 2, x, s.w) + torch.where(torch.arange(4) > 2, x, -x),
    "gather": lambda s, x: x.gather(1, torch.tensor([[[0], [1], [3]]]).expand(x.shape[0], 3, 4)),
    "scatter": lambda s, x: torch.zeros(x.shape[0], 7, 4).scatter(
        1, torch.tensor([[[0], [1], [3], [5], [6]]]).expand(x.shape[0], 5, 4), x
    ),
    "constant on the left": lambda s, x: generic(3, 4) @ x.transpose(1, 2),
    "constants on the left": lambda s, x: generic(5, 3, 4) @ x.unsqueeze(3),
    "constants on the right": lambda s, x: x.unsqueeze(2) @ generic(5, 4, 3),
    "a row on the left": lambda s, x: s.w @ x.transpose(1, 2),
    "same precision": lambda s, x: x.float().to(x.dtype) * 2,
}

BATCH_MOVES: dict[str, Callable[..., Tensor]] = {
    "mean of a stack": lambda s, x: torch.stack([x, x * s.w, -x]).mean(0),
    "sum of a stack, kept": lambda s, x: torch.stack([x, x * s.w, -x]).sum(0, keepdim=True)[0],
    "largest of a stack": lambda s, x: torch.stack([x, x * s.w, -x]).amax(0),
    "two batches in one": lambda s, x: (lambda a, b: a - b)(*torch.relu(torch.cat([x, x * s.w])).chunk(2, 0)),
    "two batches apart": lambda s, x: F.linear(torch.cat([x, -x]), s.m.t()).view(2, -1, 5, 3).sum(0),
    "wider constant": lambda s, x: (x + torch.arange(3.0).view(3, 1, 1, 1)).sum(0),
    "sequence first": lambda s, x: F.linear(x.transpose(0, 1), s.m.t()).relu().transpose(0, 1).mean(1),
    "merged with the sequence": lambda s, x: F.linear(x.reshape(-1, 4), s.m.t()).relu().view(-1, 5, 3),
    "merged, convolution": lambda s, x: F.conv2d(x.reshape(-1, 1, 4, 1), torch.ones(2, 1, 2, 1)).view(-1, 5, 6),
    "merged, batch norm": lambda s, x: F.batch_norm(x.reshape(-1, 4), s.c, s.c, s.w, s.w).view(-1, 5, 4),
    "merged, max pool": lambda s, x: F.max_pool2d(x.reshape(-1, 1, 4, 1), (2, 1)).view(-1, 5, 2),
    "merged, addmm": lambda s, x: torch.addmm(s.w[:3], x.reshape(-1, 4), s.m).view(-1, 5, 3),
    "heads": lambda s, x: (lambda q, k: torch.relu(q) + k)(
        *x.reshape(x.shape[0], 5, 2, 2).permute(2, 0, 3, 1).unbind(0)
    ),
    "unbind": lambda s, x: sum(x.unbind(1)) + sum(x.transpose(0, 1).unbind(0)),
    "split": lambda s, x: x.transpose(0, 1).split([2, 3], 0)[1].transpose(0, 1),
    "batch in the middle": lambda s, x: torch.tanh(x.permute(2, 0, 1)).sum(0) * s.w[0],
    "sum over the front": lambda s, x: torch.sigmoid(x.transpose(0, 1)).sum(0),
    "zeros alike": lambda s, x: (x.transpose(0, 1) + torch.zeros_like(x.transpose(0, 1))).transpose(0, 1),
    "pad": lambda s, x: F.pad(x.transpose(0, 1), (1, 1)).transpose(0, 1),
}

IMAGES: dict[str, Callable[..., Tensor]] = {
    "bilinear": lambda s, x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "bilinear, corners": lambda s, x: F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=True),
    "bilinear, smaller": lambda s, x: F.interpolate(x, scale_factor=0.5, mode="bilinear"),
    "bicubic": lambda s, x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "nearest": lambda s, x: F.interpolate(x, size=(7, 9), mode="nearest"),
    "nearest, exact": lambda s, x: F.interpolate(x, size=(7, 9), mode="nearest-exact"),
    "trilinear": lambda s, x: F.interpolate(x.unsqueeze(1), size=(3, 7, 8), mode="trilinear"),
    "nearest, volume": lambda s, x: F.interpolate(x.unsqueeze(1), scale_factor=2, mode="nearest"),
    "conv3d": lambda s, x: F.conv3d(x.unsqueeze(1), generic(2, 1, 2, 3, 3), stride=(1, 2, 1), padding=(0, 1, 1)),
    "transposed conv3d": lambda s, x: F.conv_transpose3d(x.unsqueeze(1), generic(1, 2, 2, 3, 3), stride=2),
    "volume means": lambda s, x: F.avg_pool3d(x.unsqueeze(1), 2) + F.adaptive_avg_pool3d(x.unsqueeze(1), (1, 2, 3)),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_linear_operators(name: str) -> None:
    checked(SEQUENCES[name], (5, 4))


@pytest.mark.parametrize("name", BATCH_MOVES)
def test_the_batch_may_move_and_come_back(name: str) -> None:
    checked(BATCH_MOVES[name], (5, 4))


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    checked(IMAGES[name], (2, 5, 6))


LOST: dict[str, Callable[..., Tensor]] = {
    "sum over the batch": lambda s, x: x.transpose(0, 1).sum(1),
    "einsum over the batch": lambda s, x: x + torch.einsum("btd->td", x),
    "norm over a merged batch": lambda s, x: x + torch.einsum("btd,btd->", x, x),
    "running sum over examples": lambda s, x: x.cumsum(0),
    "examples joined": lambda s, x: F.linear(x.reshape(1, -1, 4), s.m.t()).view(-1, 5, 3).cumsum(0),
    "mirrored examples": lambda s, x: x.transpose(0, 1).flip(1).transpose(0, 1),
    "another example's entries": lambda s, x: x.roll(1, 0),
    "assigned across": lambda s, x: assigned(x, 0, 1.0),
}


@pytest.mark.parametrize("name", LOST)
def test_mixing_is_refused_wherever_the_batch_is(name: str) -> None:
    with pytest.raises(UnsupportedError, match="batch dimension"):
        import_torch(Function(LOST[name]).eval(), torch.randn(1, 5, 4))


def test_dimensions_are_permuted_not_gathered() -> None:
    graph = checked(lambda s, x: x.reshape(x.shape[0], 5, 2, 2).permute(2, 0, 3, 1).unbind(0)[0].relu(), (5, 4))
    assert sum(isinstance(n.op, Gather) for n in graph.nodes) == 1  # the choice of one of two
