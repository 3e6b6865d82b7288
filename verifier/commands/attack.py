"""`verifier attack`: counterexamples of a test set by one attack. Light: torch is loaded where it is used."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verifier.commands.options import DataOptions, ModelOptions, PartOptions, PerturbationOptions
from verifier.commands.shared import at_least_one, check_target, exported
from verifier.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from verifier.attacking import AttackResult


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """How it is attacked, and what is written."""

    method: Annotated[str, typer.Option(help="Name of an attack: fgsm, pgd, msd, leaky-pgd, ddn, pointwise, ...")] = (
        "pgd"
    )
    steps: Annotated[int | None, typer.Option(help="Steps of the attack; by default its own number.")] = None
    restarts: Annotated[int | None, typer.Option(help="Starts of the attack; by default its own number.")] = None
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0
    batch_size: Annotated[int, typer.Option(help="Examples that are attacked at once.")] = 1000
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the worst points found to this npz file: images, labels, index, margins, success. "
            "Other commands take it as --data."
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes on how the images were read.")] = False

    def check(self) -> None:
        """Raises InputError where a number or a file cannot be used: known now rather than in minutes."""
        at_least_one(steps=self.steps, restarts=self.restarts)
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
    how: AttackOptions,
) -> None:
    """Attack a test set: how many labels does one attack change within eps, and by which inputs.

    What an attack does not break is not proved: `certify` decides that.
    """
    from verifier.attacking import attack as run
    from verifier.certification.certify import input_precision
    from verifier.certification.dataset import dataset

    how.check()
    examples = data.examples(part, clipped=asked.limits is not None, quiet=how.quiet)
    test, model = dataset(examples.images, examples.labels), network.load()
    x = test.images.to(input_precision(model))
    began = time.perf_counter()
    found = run(
        model, x, asked.eps, threat=asked.threat, label=test.labels, clip=asked.limits,
        method=how.method, batch=how.batch_size, **how.options(),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if how.out is not None:
        exported(how.out, lambda path: _save(path, found, test.labels, examples.first_index))
    _print(how.method, _clean(model, x, test.labels), found, seconds)


def _clean(model: Any, x: Tensor, labels: Tensor) -> int:  # [n, *input], [n]
    """How many inputs have their label as they are."""
    from verifier.attack_target import attack_target

    return int((attack_target(model, x[:1]).predict(x).argmax(1).cpu() == labels).sum())


def _print(method: str, correct: int, found: AttackResult, seconds: float) -> None:
    total, broken = len(found.success), int(found.success.sum())
    print(f"attack: {method}")
    for name, count in (("correct (clean accuracy)", correct), ("not broken (attacked accuracy)", total - broken)):
        print(f"{name}: {count} of {total}, {100 * count / total:.2f} %")
    print(f"smallest margin: {float(found.margins.min()):.6g}")
    print(f"seconds: {seconds:.2f}")


def _save(path: Path, found: AttackResult, labels: Tensor, first: int) -> None:  # labels [n]
    import numpy as np

    np.savez(
        path, images=found.points.numpy(), labels=labels.numpy(), index=np.arange(first, first + len(labels)),
        margins=found.margins.numpy(), success=found.success.numpy(),
    )  # fmt: skip
