"""Checking many certificates of one network, in as many processes as are asked for. Needs numpy alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np

from verifier.checker.check import Check, check
from verifier.checker.document import Document, allowed
from verifier.checker.errors import FileError
from verifier.checker.network import CanonicalNetwork
from verifier.checker.starting import deaf_to_interrupts

#: what certificates and the network beside them are called in a folder
SUFFIX, NETWORK = ".cert", "network.rampart"
#: of the text in a certificate's place that says why what was proved has none
MISSING = ".missing"

Checker = Callable[[CanonicalNetwork, Document], Check]


@dataclass(frozen=True)
class Audited:
    """One file's verdict."""

    path: Path
    valid: bool
    reason: str  #: why it is not valid; empty where it is
    lower: float = float("-inf")  #: the least rigorous lower bound of any clause's largest row
    claim: str = ""  #: what is proved, in words
    semantics: str = ""  #: of what is proved: real or float32
    about: dict[str, Any] = field(default_factory=dict)  #: what the maker says of it; nothing rests on it
    size: int = 0  #: bytes
    seconds: float = 0.0  #: that the check took


def certificates_in(places: Sequence[Path]) -> list[Path]:
    """The files named, and those of the folders named, in order; of a folder that has none itself those below it.

    Raises:
        FileError: no such place, or a folder without certificates.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(place.glob(f"*{SUFFIX}")) or sorted(place.rglob(f"*{SUFFIX}"))
            if not inside:
                raise FileError(f"{place} holds no certificates (*{SUFFIX})")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise FileError(f"there is no file or folder {place}")
    return found


def audit(
    paths: Sequence[Path],
    network: CanonicalNetwork,
    jobs: int = 1,
    checker: Checker = check,
) -> Iterator[Audited]:
    """The verdict of every file, in order.

    Args:
        jobs: processes that check side by side.
        checker: what decides: `check`, or the rational one (verifier.checker.exact).
    """
    if jobs <= 1 or len(paths) <= 1:
        yield from (_one(path, network, checker, allowed()) for path in paths)
        return
    context = multiprocessing.get_context("spawn")  # a process that knows nothing of this one's threads
    workers = min(jobs, len(paths))
    resource_tracker.ensure_running()  # as it starts, it has this thread hear signals again
    with ExitStack() as stack:
        with deaf_to_interrupts():
            pool = stack.enter_context(context.Pool(workers, _begin, (network, checker, allowed(workers))))
        yield from pool.imap(_next, paths, chunksize=max(1, min(16, len(paths) // (4 * jobs))))


#: of a worker process, for as long as it lives: the arguments of `audit`, and the bytes that a file may have
_given: list[Any] = []


def _begin(network: CanonicalNetwork, checker: Checker, limit: int) -> None:
    _given[:] = [network, checker, limit]


def _next(path: Path) -> Audited:
    return _one(path, *_given)


def _one(path: Path, network: CanonicalNetwork, checker: Checker, limit: int) -> Audited:
    try:
        document = Document.read(path, limit)
        size = path.stat().st_size
    except (ValueError, OSError) as error:
        return Audited(path, False, str(error))
    try:
        found = checker(network, document)
    except MemoryError:
        return Audited(path, False, "checking it takes more memory than there is")
    least = float(found.clauses.min(initial=np.inf)) if found.valid else -np.inf
    about = document.head.get("about")
    return Audited(
        path, found.valid, found.reason, least, claim(document) if found.valid else "",
        document.head["semantics"] if found.valid else "",
        about if isinstance(about, dict) else {}, size, found.seconds,
    )  # fmt: skip


def claim(document: Document) -> str:
    """What a valid certificate proves, in words."""
    asked, parts = document.head["specification"], document.head["parts"]
    what = f"label {asked['label']}" if asked["kind"] == "robustness" else f"{asked['kind']} of its own"
    regions = [part["set"] for part in parts[:3]]
    names = [_named(region) for region in regions]
    return f"{what} over {' and '.join(names)}{' ...' * (len(parts) > 3)}, {document.head['semantics']} arithmetic"


def _named(region: Mapping[str, Any]) -> str:
    """A set's kind, its radius, and the valid range that it is cut off at."""
    radius = f" {region['eps']:g}" if "eps" in region else ""
    ends = ", ".join(f"{region[name]:g}" if name in region else "-" for name in ("low", "high"))
    return f"{region['kind']}{radius}{f' within [{ends}]' if ends != '-, -' else ''}"


def line(one: Audited) -> str:
    """One file's verdict in words."""
    if not one.valid:
        return f"INVALID  {one.path.name}: {one.reason}"
    return f"valid    {one.path.name}  > {one.lower:.6g}  {one.claim}  {one.size / 1000:.1f} kB  {one.seconds:.3f} s"


def summary(found: Sequence[Audited], network: CanonicalNetwork) -> str:
    """All verdicts in a few lines."""
    valid = [one for one in found if one.valid]
    sizes, seconds = sorted(one.size for one in found), sorted(one.seconds for one in found)
    middle = len(found) // 2
    return (
        f"{len(valid)} of {len(found)} certificates are valid\n"
        f"network {network.digest}\n"
        f"bytes: median {sizes[middle]}, most {sizes[-1]}; "
        f"seconds: median {seconds[middle]:.3f}, most {seconds[-1]:.3f}, all {sum(seconds):.1f}"
    )
