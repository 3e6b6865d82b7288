"""Sets of inputs in rational numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from verifier.checker.errors import ExactError
from verifier.checker.exact.model import ExactModel, Number, Vector


class ExactRegion:
    """A box, perhaps with an l1 ball inside."""

    def __init__(self, low: Vector, high: Vector, center: Vector | None = None, eps: Number | None = None) -> None:
        self.low, self.high, self.center, self.eps = low, high, center, eps

    @classmethod
    def of(cls, model: ExactModel, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ExactRegion:
        kind = record["kind"]
        if kind not in ("linf", "box", "l1"):
            raise ExactError(f"sets of kind {kind!r} are not known in rational arithmetic: only linf, box and l1")
        wanted = {"lower", "upper"} if kind == "box" else {"x", "eps"}
        if not wanted <= set(record) - {"kind"} <= wanted | {"low", "high"}:
            raise ValueError(f"a set {kind!r} of {sorted(record)}")
        if kind == "box":
            low, high = (model.vector(arrays[record[name]].ravel()) for name in ("lower", "upper"))
            center, eps = None, None
        else:
            center, eps = model.vector(arrays[record["x"]].ravel()), model.number(record["eps"])
            low, high = [v - eps for v in center], [v + eps for v in center]
        if "low" in record:
            low = [max(v, model.number(record["low"])) for v in low]
        if "high" in record:
            high = [min(v, model.number(record["high"])) for v in high]
        inner = model.network.nodes[0].size
        if len(low) != inner or len(high) != inner or any(a > b for a, b in zip(low, high, strict=True)):
            raise ValueError("a set that is empty, or of other inputs than the network's")
        inside = center is None or all(a <= v <= b for a, v, b in zip(low, center, high, strict=True))
        if not inside:
            raise ValueError("the middle of a ball is outside of its valid range")
        return cls(low, high, center if kind == "l1" else None, eps)

    def minimum(self, c: Vector) -> Number:
        """The least c . z."""
        if self.center is None:
            return sum(
                (v * (a if v > 0 else b) for v, a, b in zip(c, self.low, self.high, strict=True)), 0 * self.low[0]
            )
        total, left = sum((v * x for v, x in zip(c, self.center, strict=True)), 0 * self.low[0]), self.eps
        for i in sorted(range(len(c)), key=lambda i: -abs(c[i])):  # the entries that gain most first
            room = self.center[i] - self.low[i] if c[i] > 0 else self.high[i] - self.center[i]
            moved = min(room, left)
            total, left = total - abs(c[i]) * moved, left - moved
        return total
