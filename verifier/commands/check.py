"""`verifier check` among the other commands. Light: torch is loaded where a model has to be."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.shared import arrays_of, examples, exported, integers, number, say, user_errors, valid_range
from verifier.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from torch import Tensor

    from properties.vnnlib import Property
    from verifier.checker.audit import Audited, Checker
    from verifier.checker.network import CanonicalNetwork

    #: refuses a certificate for what it is about
    Judge = Callable[[Audited], Audited]


def check(
    places: Annotated[list[Path], typer.Argument(help="Certificates, or folders of them.")],
    model: Annotated[
        str | None,
        typer.Option(help="The network, as in `certify`; default the file beside the certificates."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors file with all of the factory's weights.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="npz file with images and labels that the certificates must be about.")
    ] = None,
    eps: Annotated[
        float | None, typer.Option(parser=number, metavar="NUMBER", help="With --data: the radius, as in `certify`.")
    ] = None,
    threat: Annotated[str, typer.Option(help="With --data: the kind of set, as in `certify`.")] = "linf",
    clip: Annotated[str | None, typer.Option(help="With --data: the valid range of inputs, as in `certify`.")] = None,
    first_index: Annotated[int, typer.Option(help="With --data: number of its first example.")] = 0,
    property_file: Annotated[
        Path | None,
        typer.Option("--property", help="VNN-LIB file: the certificates must cover all of its cases, as of `vnnlib`."),
    ] = None,
    images_key: Annotated[str, typer.Option(help="Name of the images in the npz file.")] = "images",
    labels_key: Annotated[str, typer.Option(help="Name of the labels in the npz file.")] = "labels",
    scale: Annotated[float | None, typer.Option(help="As in `certify`.")] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of one input, such as 1,28,28, as in `certify`.")] = None,
    semantics: Annotated[
        str | None, typer.Option(help="real or float32: the arithmetic that they must be about; default either.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="In rational arithmetic: small piecewise linear networks; slow.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes; by default one per core.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one line per certificate to this CSV file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only what is not valid, and the summary.")] = False,
) -> None:
    """Check certificates in rigorous arithmetic, without any of the code that made them.

    Exit code 1 where one is not valid.
    """
    with user_errors():
        from verifier.checker.audit import audit, certificates_in, line, summary

        if jobs is not None and jobs < 1:
            raise InputError(f"--jobs must be at least 1, got {jobs}")
        if data is not None and property_file is not None:
            raise InputError("--data is of `certify`, --property of `vnnlib`: give one of them")
        if (eps is None) != (data is None):
            raise InputError("--data and --eps go together: the examples, and the radius of the sets around them")
        asked = None if property_file is None else _property(property_file)
        paths = certificates_in(places)
        network = _network(paths[0], model, weights, shape, asked)
        judges = [_arithmetic(semantics)]
        if data is not None and eps is not None:
            arrays = arrays_of(data, images_key, labels_key)
            x, labels = examples(arrays, range(len(arrays[0])), scale, shape, clip, quiet=True)
            judges.append(_judge(x, labels, threat, eps, clip, first_index))
        found: list[Audited] = []
        for one in audit(paths, network, jobs or os.cpu_count() or 1, _checker(exact)):
            for judged in judges:
                one = judged(one)
            found.append(one)
            if not (quiet and one.valid):
                print(line(one), flush=True)
        print(summary(found, network))
        if csv is not None:
            exported(csv, lambda path: _write(found, path))
        if model is None:
            say("the network is the file beside the certificates: --model compares it with a model of your own")
        open_ = [] if asked is None or property_file is None else _uncovered(found, asked, property_file.name)
        if open_ or not all(one.valid for one in found):
            raise typer.Exit(1)


def _checker(exact: bool) -> Checker:
    if exact:
        from verifier.checker.exact import check_exactly

        return check_exactly
    from verifier.checker.check import check as rigorous

    return rigorous


def _property(path: Path) -> Property:
    from verifier.vnncomp.solve import read_property

    return read_property(path)


def _arithmetic(semantics: str | None) -> Judge:
    """Refuses certificates of another arithmetic than the one asked for."""
    if semantics not in (None, "real", "float32"):
        raise InputError(f"--semantics is real or float32, got {semantics!r}")

    def judged(one: Audited) -> Audited:
        if semantics is None or not one.valid or one.semantics == semantics:
            return one
        return replace(one, valid=False, reason=f"it is about {one.semantics} arithmetic, not {semantics}")

    return judged


def _uncovered(found: Sequence[Audited], asked: Property, name: str) -> list[str]:
    """Says whether the certificates prove a property, and why not."""
    from verifier.vnncomp.certificates import uncovered

    why = uncovered(found, asked)
    if not why:
        print(f"together they prove that {name} has no counterexample")
    for reason in why:
        print(f"NOT PROVED  {name}: {reason}")
    return why


def _network(
    certificate: Path, model: str | None, weights: Path | None, shape: str | None, asked: Property | None
) -> CanonicalNetwork:
    """The network to check against: a model's canonical form, or the file beside a certificate.

    Args:
        asked: the property in question: one about inputs is a property of the network with its input beside its output.
    """
    from verifier.checker.audit import NETWORK
    from verifier.checker.document import Document, read_network

    if model is None:
        beside = certificate.parent / NETWORK
        if not beside.is_file():
            raise InputError(f"there is no {beside}: give the network by --model")
        return read_network(beside)
    import torch

    from verifier.api import Verifier
    from verifier.certification.certify import input_precision
    from verifier.graph.canonical import canonical
    from verifier.loading import load_model
    from verifier.vnncomp.joined import with_input

    sizes = integers(shape, "--shape") or Document.read(certificate).head.get("about", {}).get("shape")
    if not isinstance(sizes, (list, tuple)) or not all(type(n) is int and n > 0 for n in sizes):
        raise InputError("the certificates do not say what shape the model's input has: give --shape")
    loaded = load_model(model, weights)
    example = torch.zeros(1, *sizes, dtype=input_precision(loaded))
    graph = Verifier(loaded, example).imported
    return canonical(with_input(graph) if asked is not None and asked.with_inputs else graph).network


def _judge(x: Tensor, labels: np.ndarray, threat: str, eps: float, clip: str | None, first: int) -> Judge:
    from properties import Threat
    from verifier.arguments import input_errors
    from verifier.certification.dataset import dataset
    from verifier.certification.expected import Expected

    with input_errors():
        kind = Threat.of(threat)
    return Expected(dataset(x, labels), kind, eps, valid_range(clip), first).judged


def _write(found: Sequence[Audited], path: Path) -> None:
    import csv as table
    import io

    from verifier.files import text_replaced

    text = io.StringIO()
    rows = table.writer(text)
    rows.writerow(["file", "valid", "reason", "lower", "claim", "semantics", "bytes", "seconds"])
    for one in found:
        rows.writerow(
            [one.path, one.valid, one.reason, one.lower, one.claim, one.semantics, one.size, f"{one.seconds:.6f}"]
        )
    text_replaced(path, text.getvalue())
