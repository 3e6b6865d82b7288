"""`verifier attack`: counterexamples of a test set by one attack. Light: torch is loaded where it is used."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verifier.commands.options import DataOptions, ModelOptions, PartOptions, PerturbationOptions, QuestionOptions
from verifier.commands.shared import at_least_one, check_target, exported
from verifier.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from properties import Question, Specification
    from verifier.attacking import AttackResult


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """How it is attacked, and what is written."""

    method: Annotated[
        str, typer.Option(help="Name of an attack: fgsm, pgd, msd, hinges, leaky-pgd, ddn, pointwise, ...")
    ] = "pgd"
    steps: Annotated[int | None, typer.Option(help="Steps of the attack; by default its own number.")] = None
    restarts: Annotated[int | None, typer.Option(help="Starts of the attack; by default its own number.")] = None
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0
    batch_size: Annotated[int, typer.Option(help="Examples that are attacked at once.")] = 1000
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the worst points found to this npz file: images, labels (where they count), index, margins, "
            "success. "
            "Other commands take it as --data."
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes on how the images were read.")] = False

    def check(self) -> None:
        """Raises InputError where a number or a file cannot be used: known now rather than in minutes."""
        at_least_one(steps=self.steps, restarts=self.restarts, batch_size=self.batch_size)
        check_target("--out", self.out)
        if self.out is not None and self.out.suffix != ".npz":
            raise InputError(f"--out must be a .npz file, got {self.out}")

    def options(self) -> dict[str, Any]:
        """The attack's own, as far as they are given."""
        given = {"steps": self.steps, "restarts": self.restarts, "seed": self.seed}
        return {name: value for name, value in given.items() if value is not None}


def attack(
    network: ModelOptions,
    data: DataOptions,
    part: PartOptions,
    asked: PerturbationOptions,
    about: QuestionOptions,
    how: AttackOptions,
) -> None:
    """Attack a test set: how many answers does one attack change within eps, and by which inputs.

    An answer is the label, or what --question or --threshold ask about. What an attack does not break is not proved:
    `certify` decides that.
    """
    from verifier.attacking import attack as run
    from verifier.certification.certify import input_precision
    from verifier.certification.dataset import dataset

    how.check()
    question = about.asked()
    labelled = about.labelled(question)
    examples = data.examples(part, clipped=asked.limits is not None, quiet=how.quiet, labelled=labelled)
    test, model = dataset(examples.images, examples.labels), about.network(network)
    x = test.images.to(input_precision(model))
    spec, holding = _holding(model, x, test.labels, question)
    began = time.perf_counter()
    found = run(
        model, x, asked.eps, threat=asked.threat, spec=spec, clip=asked.limits,
        method=how.method, batch=how.batch_size, **how.options(),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if how.out is not None:
        labels = test.labels if labelled else None
        exported(how.out, lambda path: _save(path, found, labels, examples.first_index))
    _print(how.method, question, holding, found, seconds)


def _holding(
    model: Any, x: Tensor, labels: Tensor, question: Question | None
) -> tuple[Specification, int]:  # [n, *input], [n]
    """What is attacked, and at how many inputs it holds as they are."""
    from verifier.arguments import input_errors, same_answers
    from verifier.attack_target import attack_target

    target = attack_target(model, x[:1])
    y = target.predict(x).cpu()
    if question is None:
        return same_answers(labels, target.output_shape), int((y.argmax(1) == labels).sum())
    with input_errors():
        spec = question.about(y.reshape(len(x), *target.output_shape), labels)
    values = spec.judged(spec.values(y))
    return spec, int((spec.per_clause(values).amin(1) > 0).sum())


def _print(method: str, question: Question | None, holding: int, found: AttackResult, seconds: float) -> None:
    total, broken = len(found.success), int(found.success.sum())
    print(f"attack: {method}")
    if question is not None:
        print(f"question: {question}")
    names = _NAMES if question is None else _NAMES_OF_QUESTIONS
    for name, count in zip(names, (holding, total - broken), strict=True):
        print(f"{name}: {count} of {total}, {100 * count / total:.2f} %")
    print(f"smallest margin: {float(found.margins.min()):.6g}")
    print(f"seconds: {seconds:.2f}")


_NAMES = ("correct (clean accuracy)", "not broken (attacked accuracy)")
_NAMES_OF_QUESTIONS = ("holds at the inputs themselves", "not broken")


def _save(path: Path, found: AttackResult, labels: Tensor | None, first: int) -> None:  # labels [n]
    import numpy as np

    answers: dict[str, Any] = {} if labels is None else {"labels": labels.numpy()}
    np.savez(
        path, images=found.points.numpy(), index=np.arange(first, first + len(found.points)),
        margins=found.margins.numpy(), success=found.success.numpy(), **answers,
    )  # fmt: skip
