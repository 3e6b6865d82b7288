"""`verifier report`: one page of HTML on what was found. Light: torch is loaded where it is used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from verifier.commands.options import DATA, MODEL, OUTPUT, SAFE, WEIGHTS, FormatOptions, ModelOptions
from verifier.commands.shared import at_least_one, check_target, exported, image_shape, say
from verifier.errors import InputError

_SQLITE = b"SQLite format 3\0"


class _Kind(Enum):
    """What a place holds; the value is what made it."""

    STORES = "certify"
    LIST = "bench"
    INSTANCE = "vnnlib"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What belongs to runs of `certify`."""

    model: Annotated[str | None, MODEL] = None
    weights: Annotated[Path | None, WEIGHTS] = None
    output: Annotated[str | None, OUTPUT] = None
    data: Annotated[list[Path] | None, DATA] = None
    form: FormatOptions
    safe: Annotated[bool, SAFE] = False


@dataclass(frozen=True, kw_only=True)
class InstanceFiles:
    """What belongs to an instance of `vnnlib`."""

    network: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE", help="Of vnnlib: its network, or its networks by name."),
    ] = None
    property_file: Annotated[Path | None, typer.Option("--property", help="Of vnnlib: its property.")] = None

    def networks(self) -> Mapping[str, Path]:
        """The files by name; of one without a name that is empty. Raises InputError."""
        found: dict[str, Path] = {}
        for text in self.network or []:
            name, equals, file = text.partition("=")
            name, file = (name, file) if equals else ("", text)
            if name in found:
                raise InputError(f"--network {name or text} is given more than once: give it once")
            found[name] = Path(file)
        if "" in found and len(found) > 1:
            raise InputError("--network is one file, or NAME=FILE for each: not both")
        return found


def _file(text: str) -> Path:
    """Of a path that ends like a folder's, which a Path would not say any more."""
    if text.endswith(("/", os.sep)):
        raise typer.BadParameter(f"{text} is a directory: give a file, such as {text}report.html")
    return Path(text)


def report(
    places: Annotated[
        list[Path],
        typer.Argument(help="Stores of `certify`, or folders of them; or what `bench` or `vnnlib` wrote to --out."),
    ],
    out: Annotated[Path, typer.Option(parser=_file, metavar="PATH", help="HTML file to write.")],
    about: RunOptions,
    files: InstanceFiles,
    certificates: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of certificates, which are checked; of several stores one each, in order, or a sweep's; of a "
            "list the one with a folder for each instance."
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Of bench: csv file with the answers of another tool, or of another run.")
    ] = None,
    pixels: Annotated[
        str | None, typer.Option(help="Draw inputs as images of this shape, such as 28,28, where they are flat.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that check certificates; default one per core.")] = None,
) -> None:
    """Make one self-contained page of HTML: on runs of `certify`, a list of `bench`, or an instance of `vnnlib`.

    With --data, the file that `certify` was given, counterexamples are drawn beside their inputs; with --model, too, it
    says what the network calls them. The page fetches nothing from anywhere.
    """
    at_least_one(jobs=jobs)
    check_target("--out", out)
    kind = _kind(places)
    _check_options(kind, {
        "--model": (about.model, _Kind.STORES), "--data": (about.data or None, _Kind.STORES),
        "--network": (files.network, _Kind.INSTANCE), "--property": (files.property_file, _Kind.INSTANCE),
        "--against": (against, _Kind.LIST),
    })  # fmt: skip
    drawn = image_shape(pixels, "--pixels")
    if kind is _Kind.STORES:
        _on_stores(places, out, about, certificates, drawn, jobs)
    elif kind is _Kind.LIST:
        from verifier.report.lists import bench_report

        proofs = _one_folder(certificates, "a list")
        exported(out, lambda path: bench_report(places[0], path, against, certificates=proofs, jobs=jobs))
    else:
        _on_instance(places[0], out, files, certificates, drawn, jobs)
    say(f"wrote {out}: {out.stat().st_size / 1000:.0f} kB")


def _on_stores(
    places: Sequence[Path], out: Path, about: RunOptions, certificates: Sequence[Path] | None,
    pixels: tuple[int, ...] | None, jobs: int | None,
) -> None:  # fmt: skip
    from verifier.certification import Report
    from verifier.report import html_report
    from verifier.report.inputs import labelled

    reports = [Report.open(store) for place in places for store in _stores_in(place)]
    images, labels = None, None
    if about.data:
        from verifier.loading import prepare_images

        raw, labels = about.form.arrays(about.data, any(map(labelled, reports)))
        images, _ = prepare_images(raw, about.form.scale, image_shape(about.form.shape), about.form.layout)
    given = about.model
    model = (
        None
        if given is None
        else ModelOptions(model=given, weights=about.weights, output=about.output, safe=about.safe).load()
    )
    exported(
        out,
        lambda path: html_report(
            reports,
            path,
            model=model,
            images=images,
            labels=labels,
            certificates=certificates,
            pixels=pixels,
            jobs=jobs,
        ),
    )


def _on_instance(
    result: Path, out: Path, files: InstanceFiles, certificates: Sequence[Path] | None,
    pixels: tuple[int, ...] | None, jobs: int | None,
) -> None:  # fmt: skip
    from verifier.report.lists import instance_report

    networks, asked = files.networks(), files.property_file
    if not networks or asked is None:
        raise InputError(f"{result} is a result of `vnnlib`: give its --network and its --property, too")
    folder = _one_folder(certificates, "an instance")
    exported(
        out,
        lambda path: instance_report(result, networks, asked, path, certificates=folder, pixels=pixels, jobs=jobs),
    )


def _one_folder(certificates: Sequence[Path] | None, of: str) -> Path | None:
    if certificates and len(certificates) > 1:
        raise InputError(f"{of} has one folder of --certificates")
    return certificates[0] if certificates else None


def _kind(places: Sequence[Path]) -> _Kind:
    """What the places hold. Raises InputError where one is not there, or they do not go together."""
    kinds = {_kind_of(place) for place in places}
    if len(kinds) > 1 or (len(places) > 1 and kinds != {_Kind.STORES}):
        raise InputError("a page is on stores of `certify`, or on one list of `bench`, or on one result of `vnnlib`")
    return kinds.pop()


def _kind_of(place: Path) -> _Kind:
    if place.is_dir() and not (place / "results.csv").exists():
        if not _stores_in(place):
            raise InputError(f"{place} holds neither stores of `certify` (*.sqlite) nor results.csv of `bench`")
        return _Kind.STORES
    if place.is_dir() or place.suffix == ".csv":
        return _Kind.LIST
    if not place.is_file():
        raise InputError(f"there is no {place}")
    with place.open("rb") as file:
        start = file.read(len(_SQLITE))
    if start == _SQLITE:
        return _Kind.STORES
    word = start.partition(b"\n")[0].strip()
    if word in (b"sat", b"unsat", b"unknown", b"timeout", b"error"):
        return _Kind.INSTANCE
    raise InputError(f"{place} is neither a store of `certify`, nor results of `bench`, nor a result of `vnnlib`")


def _stores_in(place: Path) -> list[Path]:
    """The stores in a folder; of a store itself, that."""
    return sorted(place.glob("*.sqlite")) if place.is_dir() else [place]


def _check_options(kind: _Kind, given: Mapping[str, tuple[object, _Kind]]) -> None:
    """Raises InputError where an option is given that belongs to something else."""
    for option, (value, of) in given.items():
        if value is not None and value != [] and of is not kind:
            raise InputError(f"{option} is of `{of.value}`, and this is a page on `{kind.value}`: leave it out")
