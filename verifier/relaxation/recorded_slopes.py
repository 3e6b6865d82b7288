"""Slopes as certificates have them: by canonical activation, in a byte where that is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from verifier.checker.functions import KINDS as FUNCTIONS
from verifier.checker.lines import slope_range
from verifier.checker.network import PRODUCT, CanonicalNetwork


@dataclass(frozen=True)
class RecordedSlopes:
    """Slopes of rows at some neurons: canonical activation -> (neurons [u], slopes [R, u])."""

    at: Mapping[int, tuple[np.ndarray, np.ndarray]]

    def select(self, rows: np.ndarray) -> RecordedSlopes:
        return RecordedSlopes({k: (neurons, slopes[rows]) for k, (neurons, slopes) in self.at.items()})

    def coded(self, network: CanonicalNetwork, code: type[np.generic]) -> dict[str, dict[str, np.ndarray]]:
        """As a certificate has them: in a byte a slope is a position in the activation's range of slopes."""
        found = {}
        for k, (neurons, slopes) in sorted(self.at.items()):
            if len(neurons) == 0:
                continue
            kind = network.nodes[k].kind
            own = np.float16 if code is np.uint8 and kind in FUNCTIONS else code  # their ranges are those of intervals
            values, largest = slopes, 255.0 if own is np.uint8 else float(np.finfo(np.dtype(own)).max)
            if own is np.uint8:
                least, most = (0.0, 1.0) if kind == PRODUCT else slope_range(network.nodes[k])
                way = most - least
                values = np.rint(255 * ((slopes - least) / way if way > 0 else 0 * slopes)).clip(0, 255)
            found[str(k)] = {"neurons": neurons.astype(np.int32), "slopes": values.clip(-largest, largest).astype(own)}
        return found
