"""Scaled dot-product attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifier.graph.compositions.softmax import softmax
from verifier.graph.emitter import Emitter, Var
from verifier.ops.elementwise import Multiply, Shift
from verifier.ops.shape import Permute


def attention(
    w: Emitter, q: Var, k: Var, v: Var, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Var:
    """softmax(q k^T scale + mask) v of nodes [..., L, E], [..., S, E], [..., S, E'].

    Args:
        mask: constant, broadcasts to [..., L, S]: bool (what takes part), or numbers that are added.
    """
    return attended(w, w.matrix_product(q, transposed(w, k)), v, w.shape(q)[-1], mask, causal, scale)


def transposed(w: Emitter, k: Var) -> Var:
    """The node with its last two dimensions exchanged."""
    rank = len(w.shape(k))
    return w.emit(Permute([*range(rank - 2), rank - 1, rank - 2]), k)


def attended(
    w: Emitter,
    scores: Var,
    v: Var,
    width: int,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Var:
    """The same from the scores q k^T, of queries of that width: queries may be constant then."""
    scores = w.emit(Multiply(1 / math.sqrt(width) if scale is None else float(scale)), scores)
    allowed = None
    if causal:
        allowed = torch.ones(w.shape(scores)[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores, allowed = with_mask(w, scores, mask, allowed)
    return w.matrix_product(softmax(w, scores, len(w.shape(scores)) - 1, allowed), v)


def with_mask(w: Emitter, scores: Var, mask: Tensor, allowed: Tensor | None) -> tuple[Var, Tensor | None]:
    """Scores plus the finite part of a mask, and the places that take part."""
    if mask.dtype != torch.bool:
        part = mask != -torch.inf
        finite = torch.where(part, mask, torch.zeros((), dtype=mask.dtype))
        if bool((finite != 0).any()):
            scores = w.with_constant(Shift, scores, finite)
        mask = part
    if bool(mask.all()):
        return scores, allowed
    return scores, mask if allowed is None else mask & allowed
