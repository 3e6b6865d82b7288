"""Dual bounds behind affine functions of few inputs (verifier.relaxation.forward)."""

from __future__ import annotations

from typing import ClassVar

from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.relaxation.forward import AffineEnclosures, varying
from verifier.stages.base import register
from verifier.stages.dual import DualStage
from verifier.verdict import Semantics


@register
class ForwardStage(DualStage):
    """Dual bounds with adaptive slopes, of the neurons that functions of the input leave unstable.

    Where few inputs vary, affine functions of them on both sides of every neuron cost little more than a few
    evaluations (verifier.relaxation.forward), and leave few neurons of a wide layer to be bounded by a backward pass
    each.

    Args:
        memory: as of `DualPass`.
        most_inputs: it supports sets with at most so many inputs that vary.
    """

    semantics: ClassVar[frozenset[Semantics]] = frozenset({Semantics.REAL})
    default: ClassVar[bool] = False

    def __init__(self, memory: int = DEFAULT_MEMORY, most_inputs: int = 64) -> None:
        super().__init__(SlopeRule.ADAPTIVE, memory)
        self.name, self.aliases, self.cost_rank = "dual-forward", ("crown-forward",), 29  # type: ignore[misc]
        self.most_inputs = most_inputs

    def summary(self) -> str:
        return "Dual bounds with adaptive slopes behind forward ones"

    def supports(self, query: Query) -> bool:
        return varying(query.inputs, query.graph.dtype) <= self.most_inputs

    def ahead(self, query: Query) -> AffineEnclosures:
        return AffineEnclosures(query.graph, query.inputs)
