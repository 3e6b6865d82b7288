"""`verifier check` among the other commands. Light: torch is loaded where a model has to be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.cli_shared import arrays_of, examples, exported, integers, number, say, user_errors, valid_range
from verifier.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from torch import Tensor

    from verifier.certificate.audit import Audited
    from verifier.certificate.checker.network import Network


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
        from verifier.certificate.audit import Checker, audit, certificates_in, line, summary
        from verifier.certificate.checker.check import check as rigorous

        if jobs is not None and jobs < 1:
            raise InputError(f"--jobs must be at least 1, got {jobs}")
        if data is not None and property_file is not None:
            raise InputError("--data is of `certify`, --property of `vnnlib`: give one of them")
        if (eps is None) != (data is None):
            raise InputError("--data and --eps go together: the examples, and the radius of the sets around them")
        checker: Checker = rigorous
        if exact:
            from verifier.certificate.exact import check_exactly

            checker = check_exactly
        try:
            paths = certificates_in(places)
            network = _network(paths[0], model, weights, shape)
        except ValueError as error:
            raise InputError(str(error)) from error
        judged = None
        if data is not None and eps is not None:
            arrays = arrays_of(data, images_key, labels_key)
            x, labels = examples(arrays, range(len(arrays[0])), scale, shape, clip, quiet=True)
            judged = _judge(x, labels, threat, eps, clip, first_index)
        found: list[Audited] = []
        for one in audit(paths, network, jobs or os.cpu_count() or 1, checker):
            one = one if judged is None else judged(one)
            found.append(one)
            if not (quiet and one.valid):
                print(line(one), flush=True)
        print(summary(found, network))
        if csv is not None:
            exported(csv, lambda path: _write(found, path))
        if model is None:
            say("the network is the file beside the certificates: --model compares it with a model of your own")
        open_ = _uncovered(found, property_file)
        if open_ or not all(one.valid for one in found):
            raise typer.Exit(1)


def _uncovered(found: Sequence[Audited], property_file: Path | None) -> list[str]:
    """Says whether the certificates prove a property, and why not."""
    if property_file is None:
        return []
    from verifier.instances.certificates import uncovered
    from verifier.instances.solve import read_property

    why = uncovered(found, read_property(property_file))
    if not why:
        print(f"together they prove that {property_file.name} has no counterexample")
    for reason in why:
        print(f"NOT PROVED  {property_file.name}: {reason}")
    return why


def _network(certificate: Path, model: str | None, weights: Path | None, shape: str | None) -> Network:
    """The network to check against: a model's canonical form, or the file beside a certificate."""
    from verifier.certificate.audit import NETWORK
    from verifier.certificate.document import Document, read_network

    if model is None:
        beside = certificate.parent / NETWORK
        if not beside.is_file():
            raise InputError(f"there is no {beside}: give the network by --model")
        return read_network(beside)
    import torch

    from verifier.api import Verifier
    from verifier.certificate.canonical import canonical
    from verifier.certification.certify import input_precision
    from verifier.loading import load_model

    sizes = integers(shape, "--shape") or Document.read(certificate).head.get("about", {}).get("shape")
    if not isinstance(sizes, (list, tuple)) or not all(type(n) is int and n > 0 for n in sizes):
        raise InputError("the certificates do not say what shape the model's input has: give --shape")
    loaded = load_model(model, weights)
    example = torch.zeros(1, *sizes, dtype=input_precision(loaded))
    return canonical(Verifier(loaded, example).imported).network


def _judge(
    x: Tensor, labels: np.ndarray, threat: str, eps: float, clip: str | None, first: int
) -> Callable[[Audited], Audited]:
    from properties import Threat
    from verifier.api import input_errors
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
    rows.writerow(["file", "valid", "reason", "lower", "claim", "bytes", "seconds"])
    for one in found:
        rows.writerow([one.path, one.valid, one.reason, one.lower, one.claim, one.size, f"{one.seconds:.6f}"])
    text_replaced(path, text.getvalue())
