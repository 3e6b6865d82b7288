"""Sets whose ends follow the clean input and the radius: for gradients with respect to those."""

from __future__ import annotations

import torch
from torch import Tensor

from properties import Box
from verifier.errors import InputError


class LiveBall(Box):
    """The l-infinity ball around x, within a valid range: as `properties.LinfBall`, but differentiable in x and eps.

    Args:
        x: [B, *input]. eps: one radius, or [B].
    """

    def __init__(self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None) -> None:
        nominal = x.double()
        radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
        radius = radius.reshape(-1, *(1,) * (x.dim() - 1)) if radius.dim() else radius
        lower, upper = nominal - radius, nominal + radius
        if clip is not None:
            lower, upper = lower.clamp(min=clip[0]), upper.clamp(max=clip[1])
        self.lower, self.upper, self.nominal = lower, upper, nominal


def follows(x: object, eps: object) -> bool:
    """Whether gradients are wanted with respect to the input or the radius."""
    return any(isinstance(t, Tensor) and t.requires_grad for t in (x, eps))


def check_live(threat: str, given: bool) -> None:
    """Raises InputError where a set's ends do not follow its input."""
    if threat != "linf" or given:
        raise InputError(
            'gradients with respect to x or eps are there for threat="linf" alone: detach x and eps, or ask for that; '
            "those with respect to the weights are there for every set"
        )
