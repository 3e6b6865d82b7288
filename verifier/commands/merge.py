"""`verifier merge`: what several machines have of one run, in one store. Light: torch is loaded where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verifier.commands.answer import Answers
from verifier.errors import InputError


def merge(
    stores: Annotated[list[Path], typer.Argument(help="SQLite files of one run, such as those of `certify --shard`.")],
    out: Annotated[Path, typer.Option(help="SQLite file to write; it must not exist.")],
    certificates: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of certificates of one of the stores; give it once for each folder."),
    ] = None,
    certificates_out: Annotated[
        Path | None, typer.Option(help="Folder to put all certificates into; it must not exist.")
    ] = None,
) -> None:
    """Make one store of several that have parts of one run, and print its table.

    Refuses stores of other models, data or settings, and such as contradict each other. `certify --resume` goes on with
    the new store, under another --shard or none.
    """
    from verifier.certification.merge import merge as merged

    if bool(certificates) != (certificates_out is not None):
        raise InputError("--certificates and --certificates-out go together: the folders, and the one to make of them")
    report = merged(stores, out, certificates=certificates or (), certificates_out=certificates_out)
    Answers().print(report.table())
