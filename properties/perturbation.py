"""What is asked about inputs: how far they may move (eps), in which sense (threat), within which range (clip)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from properties.arguments import ends, radii
from properties.input_set import InputSet
from properties.threat import Threat


@dataclass(frozen=True)
class Perturbation:
    """The perturbation asked about; it makes the input sets of clean inputs.

    Args:
        eps: radius >= 0, in the units of the inputs unless the threat model says otherwise, also written as "8/255";
            or one per example, [B].
            (Only perturbations of one radius can be compared with each other.)
        threat: the kind of set, such as "linf", "l2" or "linf+5*l2"; kept as a `Threat`.
        clip: (low, high), the valid range of inputs; None: all numbers are valid.

    Raises:
        ValueError: a radius that is no finite number >= 0, no such threat model, or a range that is none.
    """

    eps: float | str | Tensor
    threat: str | Threat = "linf"
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        eps = radii(self.eps)
        object.__setattr__(self, "eps", eps.clone() if eps.dim() else float(eps))
        object.__setattr__(self, "threat", Threat.of(self.threat))
        object.__setattr__(self, "clip", None if self.clip is None else ends(self.clip))

    def around(self, x: Tensor) -> InputSet:
        """The sets of clean inputs x [B, *input]. Raises ValueError where x is not finite, or outside of `clip`."""
        assert not isinstance(self.eps, str)  # a number since it was made
        return Threat.of(self.threat).around(x, self.eps, self.clip)

    @property
    def symmetric(self) -> bool:
        """Whether the sets around two inputs hold each other's center or neither does (`InputSet.symmetric`)."""
        return Threat.of(self.threat).symmetric

    @property
    def nested(self) -> bool:
        """Whether of two radii around one input the smaller's set lies in the larger's (`InputSet.nested`)."""
        return Threat.of(self.threat).nested

    def describe(self) -> dict[str, Any]:
        """eps, threat and clip by these names, as JSON values: two perturbations are the same where these are."""
        eps = self.eps.tolist() if isinstance(self.eps, Tensor) else self.eps
        return {"eps": eps, "threat": str(self.threat), "clip": self.clip}

    def __str__(self) -> str:
        """Such as "l2 0.5 within [0, 1]"."""
        eps = f"{self.eps:g}" if isinstance(self.eps, float) else "a radius per example"
        within = "" if self.clip is None else f" within [{self.clip[0]:g}, {self.clip[1]:g}]"
        return f"{self.threat} {eps}{within}"
