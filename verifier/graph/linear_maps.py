"""Linear maps that importers share: a matrix along one dimension, einsum with constants, resizing, running sums."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from verifier.graph.emitter import Emitter, Var
from verifier.ops.contract import Contract
from verifier.ops.elementwise import Multiply
from verifier.ops.linear import Linear
from verifier.ops.pool import Reduce
from verifier.ops.shape import Permute


def along(w: Emitter, x: Var, dim: int, matrix: Tensor) -> Var:  # [m, n]
    """The matrix applied along a dimension of size n (batch-free)."""
    rank = len(w.shape(x))
    order = list(range(rank))
    order[dim], order[-1] = order[-1], order[dim]
    if dim == rank - 1:
        return w.emit(Linear(matrix), x)
    return w.emit(Permute(order), w.emit(Linear(matrix), w.emit(Permute(order), x)))


def running_sums(w: Emitter, x: Var, dim: int, exclusive: bool = False, reverse: bool = False) -> Var:
    """Sums of the entries up to each (exclusive: before it; reverse: from it on) along a dimension."""
    ones = torch.ones(w.shape(x)[dim], w.shape(x)[dim], dtype=w.dtype)
    return along(w, x, dim, ones.triu(int(exclusive)) if reverse else ones.tril(-int(exclusive)))


def resized(w: Emitter, x: Var, first: int, resize: Callable[[Tensor, int], Tensor], own: bool = False) -> Var:
    """The node resized along its dimensions from `first` on, by a separable linear rule.

    Args:
        resize: resize(t, d) of t [n, n_d], the identity's rows: each row resized as dimension first + d is, a matrix
            [n_d, m_d].
        own: the model multiplies with these very numbers as they come out in its precision, or (a mean) it does not.
    """
    for d in range(len(w.shape(x)) - first):
        size = w.shape(x)[first + d]
        exact = resize(torch.eye(size, dtype=torch.float64), d).t()
        if exact.shape[0] == size and torch.equal(exact, torch.eye(size, dtype=torch.float64)):
            continue
        matrix = (resize(torch.eye(size, dtype=w.dtype), d).t() if own else exact.to(w.dtype)).contiguous()
        if not torch.equal(matrix.double(), exact):
            w.computed |= own
            if not own:
                w.rounds("the weights of means over windows")
        x = along(w, x, first + d, matrix)
    return x


def letters(w: Emitter, equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, an ellipsis written out."""
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    most = max([r - len(t) + 3 for t, r in zip(terms, ranks, strict=True) if "..." in t], default=0)
    names = "".join(free[:most])
    spread = [
        t.replace("...", names[most - (r - len(t) + 3) :] if "..." in t else "")
        for t, r in zip(terms, ranks, strict=True)
    ]
    if any(len(t) != r for t, r in zip(spread, ranks, strict=True)):
        raise w.unsupported(f"the equation {equation!r} does not fit")
    if not arrow:
        every = "".join(spread)
        return spread, names + "".join(sorted(c for c in set(every) - set(names) if every.count(c) == 1))
    return spread, result.replace("...", names)


def contractions(w: Emitter, x: Var, own: str, constants: Sequence[tuple[Tensor, str]], result: str) -> Var:
    """einsum of a node (batch-free) and any constants, each [*its letters], one after another.

    Products of constants would have to be rounded. Constants that share a letter with what is there come first.
    """
    left = list(constants) or [(torch.ones((), dtype=w.dtype), "")]
    while left:
        k = next((k for k, (_, other) in enumerate(left) if set(other) & set(own)), 0)
        constant, other = left.pop(k)
        wanted = set(result).union(*(letters for _, letters in left))
        between = "".join(c for c in dict.fromkeys(own + other) if c in wanted) if left else result
        x, own = contraction(w, x, own, constant, other, between), between
    return x


def contraction(w: Emitter, x: Var, own: str, constant: Tensor, other: str, result: str) -> Var:
    """einsum("own,other->result") of a node (batch-free) and a constant [*other]; letters may repeat."""
    x, own = _diagonals(w, x, own)
    constant, other = torch.einsum(f"{other}->{''.join(dict.fromkeys(other))}", constant), "".join(dict.fromkeys(other))
    alone = [c for c in other if c not in own and c not in result]
    if alone:  # sums of constants
        if not _sums_exactly(constant):
            w.rounds("sums of an einsum's constants")
        kept = "".join(c for c in other if c not in alone)
        constant, other = torch.einsum(f"{other}->{kept}", constant), kept
    if not other:
        letters = string.ascii_letters
        fresh = next(c for c in letters if c not in own + result)
        constant, other = constant.reshape(1).expand(1), fresh
        x, own = w.expanded(x, (1, *w.shape(x))), fresh + own
    return w.emit(Contract(own, other, result, constant.contiguous()), x)


def _sums_exactly(t: Tensor) -> bool:  # [*shape]
    """Whether sums of entries are not rounded: whole numbers that do not add up to much."""
    return bool((t == t.round()).all()) and float(t.abs().double().sum()) < 2**24


def pair_contraction(w: Emitter, x: Var, own: str, y: Var, other: str, result: str) -> Var:
    """einsum("own,other->result") of two nodes (batch-free), no letter twice in one of them."""
    every = own + "".join(c for c in other if c not in own)
    sides = []
    for node, letters in ((x, own), (y, other)):
        present = [c for c in every if c in letters]
        numbers = torch.arange(int(torch.Size(w.shape(node)).numel())).reshape(w.shape(node))
        numbers = numbers.permute([letters.index(c) for c in present])
        sizes = iter(numbers.shape)
        sides.append(w.gathered(node, numbers.reshape([next(sizes) if c in letters else 1 for c in every])))
    found = w.product(*sides)
    gone = [i for i, c in enumerate(every) if c not in result]
    found = w.emit(Reduce(gone), found) if gone else found
    left = [c for c in every if c in result]
    order = [left.index(c) for c in result]
    return found if order == list(range(len(order))) else w.emit(Permute(order), found)


def _diagonals(w: Emitter, x: Var, own: str) -> tuple[Var, str]:
    """The node's entries at which dimensions of the same letter agree."""
    if len(set(own)) == len(own):
        return x, own
    shape = w.shape(x)
    kept = "".join(dict.fromkeys(own))
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    return w.gathered(x, torch.einsum(f"{own}->{kept}", numbers)), kept


def masked(w: Emitter, x: Var, mask: Tensor) -> Var:
    """The node's entries where a mask [*shape] of zeros and ones says so, zero elsewhere."""
    return w.with_constant(Multiply, x, mask.to(w.dtype))
