"""`verifier verify`: one input, decided, with its evidence. Light: torch is loaded where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.inputs import OneInputOptions
from verifier.commands.networks import NetworksOptions
from verifier.commands.options import DEVICE, STAGES, PerturbationOptions, QuestionOptions, limit_of
from verifier.commands.shared import check_target, exported, say, stage_names, time_limit
from verifier.commands.specification import specification_of
from verifier.errors import InputError
from verifier.verdict import Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from verifier.commands.inputs import Given
    from verifier.result import Result


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """How it is decided, and what is written."""

    stages: Annotated[str | None, STAGES] = None
    device: Annotated[str | None, DEVICE] = None
    timeout: Annotated[float, limit_of("Seconds, after which it stays unknown")] = 60.0
    semantics: Annotated[
        str, typer.Option(help="real: the network over the real numbers; float32: as hardware runs it.")
    ] = "real"
    out: Annotated[Path | None, typer.Option(help="Write a counterexample to this .npy or .npz file.")] = None
    certificate: Annotated[
        Path | None, typer.Option(help="Write the certificate of a proof to this file; `check` reads it.")
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.")] = False

    def check(self) -> None:
        """Raises InputError where a file could not be written: known now rather than in minutes."""
        check_target("--out", self.out)
        check_target("--certificate", self.certificate)
        if self.out is not None and self.out.suffix not in (".npy", ".npz"):
            raise InputError(f"--out must be a .npy or .npz file, got {self.out}: a picture would round the numbers")


def verify(
    network: NetworksOptions,
    chosen: OneInputOptions,
    asked: PerturbationOptions,
    about: QuestionOptions,
    how: VerifyOptions,
) -> None:
    """Decide one input: can any perturbation of size eps change the network's answer to it?

    Prints the verdict first (verified, falsified or unknown), then what it rests on, one "name: value" per line. Exit
    code 0 for any verdict.
    """
    how.check()
    if network.several and how.certificate is not None:
        raise InputError("certificates are about one network: verify each network of a cascade by itself for one")
    given = chosen.one(asked.limits is not None, how.quiet)
    result = _decided(network, given, asked, about, how)
    for name, value in _lines(result, given.x):
        print(f"{name}: {value}")
    _write(result, given, how)


def _decided(
    network: NetworksOptions, given: Given, asked: PerturbationOptions, about: QuestionOptions, how: VerifyOptions
) -> Result:
    from verifier.api import verify as run
    from verifier.certification.certify import input_precision

    question, stages = about.asked(), stage_names(how.stages)
    model = network.load(about, asked.of(asked.eps), stages)
    x = given.x.to(input_precision(model))
    limit, spec, label = time_limit(how.timeout), None, given.labels
    if question is not None:
        spec, label = specification_of(question, model, x, label), None
    return run(
        model, x, asked.eps, threat=asked.threat, clip=asked.limits, label=label, spec=spec,
        stages=stages, device=how.device, budget=limit, example_budget=limit, semantics=how.semantics,
    )  # fmt: skip


def _lines(result: Result, x: Tensor) -> list[tuple[str, object]]:  # [1, *input]
    """What is said of the one example."""
    from verifier.network_answer import CascadeCertificate

    one, label = result.example(0), int(result.label[0])
    lines: list[tuple[str, object]] = [("verdict", one.verdict.value)]
    if label >= 0:
        lines.append(("label", label))
    if len(result.margins[0]) > 1:
        answer = int(result.prediction[0])
        lines.append(("prediction", answer if answer >= 0 else "none, the cascade abstains"))
    lines += [(name, value) for name, value in (("decided by", one.decided_by), ("reason", one.reason)) if value]
    lines = [(name, getattr(value, "value", value)) for name, value in lines]
    if one.trust is not None:
        lines.append(("trust", one.trust.name))
    lines += [("guarantee", c.guarantee.value) for c in result.certificate if isinstance(c, CascadeCertificate)]
    if one.verdict is not Verdict.VERIFIED or result[0].margin >= 0:  # else no row is above zero at every point
        lines.append(("worst proven margin", f"{result[0].margin:.6g}"))
    if one.attack_margin < float("inf"):
        lines.append(("smallest margin of an attack", f"{one.attack_margin:.6g}"))
    if one.counterexample is not None:
        moved = (one.counterexample.double() - x[0].double()).abs()
        changed = f"{int((moved > 0).sum())} of {moved.numel()} entries changed, by {moved.max():.6g} at most"
        lines.append(("counterexample", changed))
        lines.append(("in the model's own precision", "the same" if one.float32_agrees else "not a counterexample"))
    if one.outside is not None:
        lines.append(("where", one.outside))
    if result.hull:
        lines.append(("note", result.hull))
    return [*lines, ("seconds", f"{float(result.seconds[0]):.3f}")]


def _write(result: Result, given: Given, how: VerifyOptions) -> None:
    """The files that are asked for, as far as there is something to write."""
    point, certificate = result.counterexample[0], result.certificate[0]
    if how.out is not None and point is not None:
        exported(how.out, lambda path: _save(path, point, result, given))
    elif how.out is not None:
        say(f"no counterexample, so {how.out} is not written")
    if how.certificate is not None and certificate is not None:
        from verifier.certificate.files import write_document

        about = {"shape": list(certificate.inputs.shape)}  # of which `check --model` makes an input
        document = certificate.document(about=about)
        exported(how.certificate, lambda path: say(f"{path}: {write_document(document, path)} bytes"))
    elif how.certificate is not None:
        say(f"no proof, so {how.certificate} is not written")


def _save(path: Path, point: Tensor, result: Result, given: Given) -> None:  # [*input]
    """A counterexample: alone as .npy, with what it is one of as .npz."""
    import numpy as np

    if path.suffix == ".npy":
        np.save(path, point.numpy())
        return
    np.savez(path, counterexample=point.numpy(), input=given.x[0].numpy(), label=int(result.label[0]))
