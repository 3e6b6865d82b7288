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
    rank = len(w.shape(k))
    order = [*range(rank - 2), rank - 1, rank - 2]
    factor = 1 / math.sqrt(w.shape(q)[-1]) if scale is None else float(scale)
    scores = w.emit(Multiply(factor), w.matrix_product(q, w.emit(Permute(order), k)))
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
