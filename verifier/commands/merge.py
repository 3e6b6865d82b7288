"""`verifier merge`: what several machines have of one run, in one place. Light: torch is loaded where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.answer import Answers
from verifier.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table


def merge(
    stores: Annotated[
        list[Path],
        typer.Argument(
            help="SQLite files of one run, such as those of `certify --shard`; or folders of one sweep over --eps; or "
            "folders of results of one list, such as those of `bench --shard`."
        ),
    ],
    out: Annotated[Path, typer.Option(help="SQLite file, or folder, to write; it must not exist.")],
    certificates: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of certificates of one of them; give it once for each folder."),
    ] = None,
    certificates_out: Annotated[
        Path | None, typer.Option(help="Folder to put all certificates into; it must not exist.")
    ] = None,
) -> None:
    """Make one of several that have parts of one run, and print its table.

    Refuses those of other models, data or settings, and such as contradict each other. `certify --resume` and
    `bench --resume` go on with what it makes, under another --shard or none.
    """
    if bool(certificates) != (certificates_out is not None):
        raise InputError("--certificates and --certificates-out go together: the folders, and the one to make of them")
    proofs = certificates or []
    Answers().print(_MERGED[_kind(stores)](stores, out, proofs, certificates_out))


def _runs(stores: list[Path], out: Path, certificates: list[Path], certificates_out: Path | None) -> Table:
    from verifier.certification.merge import merge

    return merge(stores, out, certificates=certificates, certificates_out=certificates_out).table()


def _sweeps(folders: list[Path], out: Path, certificates: list[Path], certificates_out: Path | None) -> Table:
    from verifier.certification.merge_sweeps import merge_sweeps

    return merge_sweeps(folders, out, certificates=certificates, certificates_out=certificates_out).table()


def _lists(folders: list[Path], out: Path, certificates: list[Path], certificates_out: Path | None) -> Table:
    from verifier.vnncomp.bench_report import table
    from verifier.vnncomp.merge import merge_results

    return table(merge_results(folders, out, certificates, certificates_out))


#: what is merged -> how
_MERGED = {"a store": _runs, "a folder of a sweep": _sweeps, "a folder of results": _lists}


def _kind(places: list[Path]) -> str:
    """What the places are. Raises InputError where they are not of one kind."""
    kinds = {place: _kind_of(place) for place in places}
    first = places[0]
    other = next((place for place in places if kinds[place] != kinds[first]), None)
    if other is not None:
        raise InputError(f"{first} is {kinds[first]}, {other} is {kinds[other]}: only what is of one kind is merged")
    return kinds[first]


def _kind_of(place: Path) -> str:
    if not place.is_dir():
        return "a store"
    return "a folder of results" if (place / "results.csv").exists() else "a folder of a sweep"
