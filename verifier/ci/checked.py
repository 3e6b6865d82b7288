"""The record of `check`: a case for each certificate, and one for each that is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from verifier.checker.audit import MISSING, SUFFIX, Audited
from verifier.ci.record import Case, Expectation, Record, State


def checked(
    found: Sequence[Audited], missing: Mapping[Path, str], network: str, uncovered: tuple[str, Sequence[str]] | None
) -> Record:
    """The record of an audit.

    Args:
        missing: file in a certificate's place -> why there is none.
        network: digest of the network that they were checked against; of several all, with commas.
        uncovered: a property's name, and why the certificates do not prove it (nothing: they do); None: none is asked.
    """
    cases = (*map(_case, found), *(_missing(path, why) for path, why in missing.items()))
    record = Record("check", cases, about={"network": network})
    if uncovered is None:
        return record
    name, why = uncovered
    return record.expecting(Expectation(f"--property {name}", not why, "; ".join(why) or "it has no counterexample"))


def missing_in(places: Iterable[Path]) -> dict[Path, str]:
    """The texts in the folders named, or below those without certificates, that say why a proof has no certificate."""
    files = (path for place in places if place.is_dir() for path in _texts(place))
    return {path: path.read_text(encoding="utf-8", errors="replace").strip() for path in files}


def _texts(place: Path) -> list[Path]:
    own = any(place.glob(f"*{SUFFIX}"))
    return sorted(place.glob(f"*{MISSING}") if own else place.rglob(f"*{MISSING}"))


def _case(one: Audited) -> Case:
    details = {
        "lower": one.lower, "claim": one.claim, "semantics": one.semantics, "bytes": one.size, "about": one.about,
    }  # fmt: skip
    state = State.PASSED if one.valid else State.FAILED
    return Case(
        one.path.name, str(one.path.parent), "valid" if one.valid else "invalid", state, seconds=one.seconds,
        message=one.reason, details=details,
    )  # fmt: skip


def _missing(path: Path, why: str) -> Case:
    return Case(path.stem, str(path.parent), "missing", State.SKIPPED, decided=False, message=why, missing=why)
