"""Which network each of many certificates is about: by the files beside them. Needs numpy alone.

A certificate names its network by a digest, and the checker compares that with the network which it is given: a network
that is found wrongly makes a certificate invalid, never valid.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from verifier.checker.audit import NETWORK
from verifier.checker.document import Document, read_network
from verifier.checker.errors import FileError
from verifier.checker.network import CanonicalNetwork

#: where no network is found
ADVICE = "name it by --network, or use `verifier check --model`"
_SQLITE = b"SQLite format 3\0"


class Sorted(NamedTuple):
    """Certificates by their networks."""

    groups: list[tuple[CanonicalNetwork, list[Path]]]
    without: dict[Path, str]  #: those whose network is not there, and what was looked for


def by_network(
    paths: Sequence[Path], places: Sequence[Path], given: Sequence[Path] = (), advice: str = ADVICE
) -> Sorted:
    """Finds the network of each certificate: in its own folder, or anywhere below the places.

    Args:
        paths: of the certificates. places: what the user named: files, and folders.
        given: files of networks; none: those that are found. advice: what to do where there is none.

    Raises:
        FileError: no network at all, or a file of one that cannot be read.
    """
    files = list(given) or _found(paths, places)
    if not files:
        raise FileError(_nowhere(paths[0], advice))
    networks = {file: read_network(file) for file in files}
    by_digest = {network.digest: network for network in networks.values()}
    if len(by_digest) == 1:
        return Sorted([(next(iter(by_digest.values())), list(paths))], {})
    groups: dict[str, tuple[CanonicalNetwork, list[Path]]] = {}
    without = {}
    for path in paths:
        digest = _named(path)
        network = by_digest.get(digest) if digest is not None else networks.get(path.parent / NETWORK)
        if network is None:
            about = "no network that it names" if digest is None else f"the network {digest}"
            without[path] = f"it is about {about}, and none of the {len(by_digest)} files of networks here holds that"
            continue
        groups.setdefault(network.digest, (network, []))[1].append(path)
    return Sorted(list(groups.values()), without)


def _found(paths: Sequence[Path], places: Sequence[Path]) -> list[Path]:
    """The files of networks beside certificates, and below the places."""
    beside = [folder / NETWORK for folder in dict.fromkeys(path.parent for path in paths)]
    beside = [file for file in beside if file.is_file()]
    below = [file for place in places if place.is_dir() for file in sorted(place.rglob(NETWORK))]
    return list(dict.fromkeys([*beside, *below]))


def _nowhere(path: Path, advice: str) -> str:
    """What to do about a certificate whose network is nowhere. Raises FileError where it is no certificate."""
    with path.open("rb") as file:
        store = file.read(len(_SQLITE)) == _SQLITE
    if store:
        return f"{path} is a store of `certify`, and no certificate: name the folder that --certificates was given"
    Document.read(path)  # it may be something else altogether, which this says
    return (
        f"there is no {os.fspath(path.parent / NETWORK)}, the network that the certificates are about, as `certify "
        f"--certificates` writes it: {advice}"
    )


def _named(path: Path) -> str | None:
    """The digest that a certificate names; None where it cannot be read, which the check says."""
    try:
        digest = Document.read(path).head.get("network")
    except (ValueError, OSError):
        return None
    return digest if isinstance(digest, str) else None
