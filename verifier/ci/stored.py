"""Certificates beside the stores that say what was proved: a proof without one is missing, whatever the folder says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from verifier.certification import ExampleOutcome, Report
from verifier.checker.audit import MISSING, SUFFIX, Audited
from verifier.errors import InputError


def unproved(stores: Sequence[Path], places: Sequence[Path], found: Sequence[Audited]) -> dict[Path, str]:
    """What the stores call VERIFIED and the folders have no certificate of: file in its place -> why it is missing.

    Args:
        stores: one for each place; of a sweep the folder of its stores, whose folder has a folder for each.
        found: what became of the certificates in the places. One that is not valid is there, and fails by itself.

    Raises:
        InputError: not one store for each place, or a place is no folder. StoreError: a store cannot be read.
    """
    if len(stores) != len(places):
        raise InputError(f"there are {len(stores)} stores for {len(places)} places: give one for each, in their order")
    by_path = {one.path: one for one in found}
    lacking = {}
    for store, folder in (pair for both in zip(stores, places, strict=True) for pair in _pairs(*both)):
        for row in Report.open(store).rows():
            certificate = folder / f"{row.index:06d}{SUFFIX}"
            one = by_path.get(certificate)
            named = one is not None and (not one.valid or one.about.get("index") == row.index)
            if row.outcome is ExampleOutcome.VERIFIED and not named:
                why = "there is none" if one is None else f"the one there is of example {one.about.get('index')}"
                lacking[certificate.with_suffix(MISSING)] = f"{store.name} has example {row.index} VERIFIED; {why}"
    return lacking


def _pairs(store: Path, place: Path) -> Iterator[tuple[Path, Path]]:
    """Each store, and the folder of its certificates."""
    if not place.is_dir():
        raise InputError(f"a store is compared with a folder of certificates: {place} is none")
    if not store.is_dir():
        yield store, place
        return
    inside = sorted(store.glob("*.sqlite"))
    if not inside:
        raise InputError(f"{store} holds no stores (*.sqlite)")
    yield from ((path, place / path.stem) for path in inside)
