"""`attack_growing`: one radius after another, each example until it is broken (Wong 2020, section 5.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from properties import Threat
from verifier.arguments import check_example, checked_labels, input_errors
from verifier.attack_target import AttackTarget, attack_target
from verifier.attacking import AttackResult, attack
from verifier.attacks.base import Attack
from verifier.errors import InputError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from verifier.graph.runner import ImportedModel


@dataclass(frozen=True)
class GrownAttack(AttackResult):
    """What was found at the first radius that broke each example; where none did, at the last."""

    radius: Tensor  # [B] float64: the first at which it succeeded; infinite where it did at none

    def errors(self, radii: Sequence[float]) -> list[float]:
        """Errors under attack at some radii: the curve of the thesis's figure 5.4."""
        return [float((self.radius <= radius).double().mean()) for radius in radii]


def attack_growing(
    model: nn.Module | ExportedProgram | ImportedModel | AttackTarget,
    x: Tensor,
    radii: Sequence[float],
    *,
    threat: str | Threat = "linf",
    label: Tensor | Sequence[int] | None = None,
    clip: tuple[float, float] | None = None,
    method: str | Attack = "pgd",
    batch: int = 1000,
    **options: Any,
) -> GrownAttack:
    """Attack at one radius after another, each example until it is broken: its smallest radius, from above.

    The sets have to grow with their radius, as all balls do.

    Args:
        model, x, threat, label, clip, method, batch, options: as of `attack`.
        radii: growing, all > 0. The thesis takes 0.1 times powers of 1.4 for Wasserstein balls on MNIST.

    Raises:
        As `attack`; InputError for radii that do not grow.
    """
    if not radii or any(a >= b for a, b in zip((0.0, *radii), radii, strict=False)):
        raise InputError(f"radii must be numbers > 0 that grow, got {list(radii)}")
    check_example(x)
    target = attack_target(model, x)
    with input_errors():
        right = checked_labels(label, x) if label is not None else target.predict(x).argmax(1).cpu()
    points, margins = x.detach().cpu().clone(), torch.full((len(x),), torch.inf, dtype=torch.float64)
    success, reached = torch.zeros(len(x), dtype=torch.bool), torch.full_like(margins, torch.inf)
    left = torch.arange(len(x))
    for radius in radii:
        found = attack(
            target, x[left.to(x.device)], radius, threat=threat, label=right[left], clip=clip, method=method,
            batch=batch, **options,
        )  # fmt: skip
        points[left], margins[left], success[left] = found.points, found.margins, found.success
        reached[left[found.success]] = radius
        left = left[~found.success]
        if len(left) == 0:
            break
    return GrownAttack(points, margins, success, reached)
