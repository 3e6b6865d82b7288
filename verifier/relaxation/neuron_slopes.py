"""Slopes that prove bounds of neurons, or rows of a specification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.evidence import Record
from verifier.graph import Graph
from verifier.graph.canonical import Canonical
from verifier.relaxation.recorded_slopes import RecordedSlopes


@dataclass(frozen=True)
class NeuronSlopes:
    """Slopes that prove bounds of one node's entries for one example: each bound has its own.

    A slope is nu / nu-hat of a backward pass from the entry (from its negative for an upper bound); any slopes prove
    something. Of the output node they prove the specification's rows: `neuron` is then the row, `side` 0.
    """

    example: int  #: of the stage's query
    node: int
    neuron: Tensor  # [R] int64: places in the flattened node
    side: Tensor  # [R] uint8: 0 for a lower bound, 1 for an upper one
    #: activation node -> its neurons [u] int64, and their slopes [R, u] in float16 or float32
    slopes: Mapping[int, tuple[Tensor, Tensor]]

    @property
    def size(self) -> int:
        """Bytes of the slopes."""
        return sum(s.numel() * s.element_size() for _, s in self.slopes.values())

    def of_example(self, example: int) -> NeuronSlopes:
        return replace(self, example=example)

    def placed(self, canonical: Canonical) -> RecordedSlopes:
        """By the activations of a certificate's network."""
        places = canonical.activations
        return RecordedSlopes({places[a]: (n.numpy(), s.double().numpy()) for a, (n, s) in self.slopes.items()})

    def step(self, canonical: Canonical, graph: Graph, bounds: Bounds, code: type[np.generic]) -> Record | None:
        if self.node not in canonical.place:
            return None
        return {
            "node": canonical.place[self.node], "neurons": self.neuron.numpy().astype(np.int32),
            "sides": self.side.numpy().astype(np.uint8),
            "slopes": self.placed(canonical).coded(canonical.network, code),
        }  # fmt: skip
