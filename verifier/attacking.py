"""`attack`: counterexamples of a model, sought by any of verifier.attacks and replayed in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from properties import InputSet, Perturbation, Specification, Threat
from verifier.arguments import check_example, checked_labels, input_errors, same_answers
from verifier.arithmetic import precise_arithmetic
from verifier.attack_target import AttackTarget, attack_target
from verifier.attacks.base import Attack, make
from verifier.attacks.problem import AttackProblem, pick
from verifier.errors import InputError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from verifier.graph.runner import ImportedModel


@dataclass(frozen=True)
class AttackResult:
    """What an attack found for B examples."""

    points: Tensor  # [B, *input] members of the input sets, in the inputs' precision
    margins: (
        Tensor  # [B] float64: the lowest clause of the model there, or the target's, replayed (in float64 if it can)
    )
    success: Tensor  # [B] bool: whether that is below zero; `verify` asks for more, that it be so beyond rounding

    @property
    def error(self) -> float:
        """Error under attack: the share of examples on which it succeeded."""
        return float(self.success.double().mean())

    def distance(self, x: Tensor, norm: float = 2.0) -> Tensor:  # [B, *input] -> [B] float64
        """How far from the inputs x the points are that succeeded, in a norm (0 counts entries); infinite elsewhere."""
        change = (self.points.double() - x.cpu().double()).flatten(1)
        far = torch.linalg.vector_norm(change, norm, dim=1)
        return torch.where(self.success, far, torch.inf)


def attack(
    model: nn.Module | ExportedProgram | ImportedModel | AttackTarget,
    x: Tensor,
    eps: float | str | Tensor | None = None,
    *,
    threat: str | Threat = "linf",
    input_set: InputSet | None = None,
    label: Tensor | Sequence[int] | None = None,
    clip: tuple[float, float] | None = None,
    target: Tensor | Sequence[int] | None = None,
    spec: Specification | None = None,
    method: str | Attack = "pgd",
    batch: int = 1000,
    **options: Any,
) -> AttackResult:
    """Search for the worst points of each example's input set.

    Args:
        model: a `torch.nn.Module` in eval mode, a `torch.export.ExportedProgram`, or an `OnnxModel`. A module need not
            be one that can be verified: it is run and differentiated as it is where it cannot be imported, and where
            its own gradients are others than those of its values, as in binarised networks. Or what `attack_target`
            made of one, which is then imported once for several attacks.
        x: [B, *input], in the units that the model takes.
        eps: radius of the sets around x, within `clip` where given; or else `input_set`.
        threat: the kind of set, as in `verify`.
        label: [B] the right answers; default the model's own predictions. Or else `spec`.
        target: [B] the class that is to win against the label, never the label itself; default any.
        method: name of an attack (see `verifier.attacks.REGISTRY`), which takes the other `options`; or an attack.
        batch: examples that are attacked at once.

    Raises:
        InputError: unusable arguments. ModelError, UnsupportedError: the model cannot be run, or not differentiated.
    """
    if (eps is None) == (input_set is None):
        raise InputError("give eps or input_set, " + ("not both" if eps is not None else "one of the two is needed"))
    if input_set is not None and (clip is not None or threat != "linf"):
        raise InputError("clip and threat go with eps; an input set of your own has its own limits")
    if spec is not None and (label is not None or target is not None):
        raise InputError("give either label (and target) or spec, not both")
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    check_example(x)
    asked = attack_target(model, x)
    with input_errors():
        goal = None
        chosen = method if isinstance(method, Attack) else make(method, **options)
        inputs = Perturbation(eps, threat, clip).around(x) if eps is not None else input_set
        assert inputs is not None
        inputs = inputs.representable(x.dtype)
        if spec is None:
            right = checked_labels(label, x) if label is not None else asked.predict(x).argmax(1).cpu()
            spec = same_answers(right, asked.output_shape)
            if target is not None:
                goal = _clauses(checked_labels(target, x), right, asked.classes)
        if isinstance(method, Attack) and options:
            raise InputError(f"options go with an attack's name; set {', '.join(options)} where the attack is made")
        problem = replace(asked.problem(inputs, spec), target=goal)
    parts = torch.arange(len(x)).split(batch)
    generator = torch.Generator().manual_seed(chosen.seed)
    with precise_arithmetic():
        found = [_replayed(asked, part, chosen, generator, x.dtype) for part in map(problem.select, parts)]
    return AttackResult(*(torch.cat(column) for column in zip(*found, strict=True)))


def _clauses(target: Tensor, label: Tensor, classes: int) -> Tensor:  # [B], [B] -> [B]
    """The clauses of `robustness(label, classes)` that are about the classes `target`."""
    bad = (target < 0) | (target >= classes) | (target == label)
    if bad.any():
        at = int(bad.nonzero()[0])
        raise InputError(f"target {int(target[at])} at index {at} is no other class than the label among {classes}")
    return target - (target > label).long()


def _replayed(
    asked: AttackTarget, problem: AttackProblem, chosen: Attack, generator: torch.Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Points [B, *input], margins [B] and success [B] bool of one batch, on the CPU."""
    inputs = problem.inputs
    points = inputs.inside(chosen.run(problem, generator).points, dtype)
    clean = inputs.inside(inputs.center(), dtype)
    member = inputs.contains(points)
    points = torch.where(member.reshape(-1, *(1,) * (points.dim() - 1)), points, clean)
    with torch.no_grad():
        outputs = asked.replay(points.double()).to(points.device)
    clauses = problem.spec.per_clause(problem.spec.values(outputs))
    margins = clauses.amin(1) if problem.target is None else pick(clauses, problem.target)
    success = (margins < 0) & inputs.contains(points)
    return points.cpu(), margins.cpu(), success.cpu()
