"""The simple bounds that the semidefinite one is compared with: Raghunathan et al. (2018), eq. 17 and 18, as proofs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.evidence import Evidence, Record, RecordRequest
from verifier.query import Query
from verifier.sdp.bounds import SdpBounds
from verifier.sdp.certificate import weights_of
from verifier.sdp.coupling import Coupling

#: the norms of the first layer by which rows are bounded
NORMS = ("frobenius", "spectral")


@dataclass(frozen=True)
class NormEvidence(Evidence):
    """Norms of the network's two layers: they are the network's own, so that nothing is kept but which norm it was.

    Args:
        norm: "spectral" or "frobenius".
    """

    kind: ClassVar[str] = "norms"
    rests_on_bounds: ClassVar[bool] = False

    norm: str

    def recompute(self, query: Query, bounds: Bounds) -> Tensor:  # [B, S]
        return SdpBounds(query.graph).lower_by_norm(query, self.norm)

    def select(self, example: int) -> Self:
        return self

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        """Weights of semidefinite certificates that prove as much as the norms do, where no path goes by the neurons.

        With the slopes' middle m and half width h, weights sqrt(m) |v| for the first row, sqrt(h) |v_i| for neuron i
        and 1 for every input have ||K^T y|| <= ||W|| (sqrt(m) |y_0| + sqrt(h) |y|) for y of the slopes, hence a reach
        of ||W|| (m + h) |v| |r| at most, which is eq. 17.
        """
        bounds = SdpBounds(asked.query.graph)
        coupling = Coupling.of(bounds.network, asked.query.spec.rows[0, asked.rows].double().cpu())
        middle, half = abs(bounds.network.middle), bounds.network.half
        ones = torch.ones(bounds.network.weights.shape[1], dtype=torch.float64)
        weights = []
        for s, v in enumerate(coupling.v):
            left = torch.cat([(middle * v.square().sum()).reshape(1), half * v.square()])
            # in units in which no square of theirs is lost in float32
            weights.append(weights_of(coupling, s, left / left.max().clamp(min=torch.finfo(left.dtype).tiny), ones))
        sides = [np.stack([w[k].numpy() for w in weights]).astype(np.float32) for k in (0, 1)]
        return [{"sdp": {"left": sides[0], "right": sides[1]}, "rows": asked.rows}]
