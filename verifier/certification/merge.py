"""Stores of one run, made by several machines, become one store: every row once, whatever was done twice."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from verifier.certification import old
from verifier.certification.example import ExampleOutcome, ExampleRecord, ExampleRow
from verifier.certification.identity import RunIdentity, changed_examples, differences
from verifier.certification.join import Joined
from verifier.certification.lock import RunLock
from verifier.certification.report import Report, same_file
from verifier.certification.store import Snapshot, Store, StorePath
from verifier.errors import InputError, StoreError
from verifier.files import replaced
from verifier.verdict import Trust

#: rows per transaction: counterexamples of so many are in memory at a time
_TOGETHER = 256

#: what is known more of one than of the next
_KNOWN = (ExampleOutcome.UNKNOWN, ExampleOutcome.ERROR)


@dataclass(frozen=True)
class _Part:
    """A store to be merged, and what is in it."""

    store: Store
    snapshot: Snapshot
    data: Mapping[int, str]  #: what the run is about: index of an example -> its digest

    @property
    def sessions(self) -> list[dict[str, Any]]:
        return list(self.snapshot.meta["sessions"])

    @property
    def path(self) -> Path:
        assert self.store.path is not None
        return self.store.path


@dataclass(frozen=True)
class _Found:
    """A row, and the store that it is from."""

    row: ExampleRow
    part: _Part

    def counterexample(self) -> Tensor | None:
        """[*input]; only of a row that has one: the store may know more by now."""
        return self.part.store.counterexample(self.row.index) if self.row.outcome is ExampleOutcome.FALSIFIED else None


def merge(
    stores: Sequence[StorePath],
    out: StorePath,
    *,
    certificates: Sequence[str | os.PathLike[str]] = (),
    certificates_out: str | os.PathLike[str] | None = None,
) -> Report:
    """One store of what several have of one run, such as those of `certify(..., shard=...)`.

    However the examples were shared out, the result is the same, and `certify(..., resume=True)` goes on with it, under
    another sharding or none. Where two stores have a row of one example, the one that is decided is kept, or else the
    one that proves more. Its sessions are those of all. The stores stay as they are; they may be in use.

    Args:
        stores: paths of two or more, of the same model and settings. They may be about different examples of a data
            set, too (`first_index`), but not of one index about different ones.
        out: path of the new store; it is written whole or not at all.
        certificates: folders that the runs wrote their certificates to, to become one.
        certificates_out: that one, which must not exist.

    Raises:
        InputError: fewer than two stores, or one named twice; folders that cannot be read or written.
        StoreError: model, data or settings differ (each difference is named); two stores contradict each other, or two
            certificates; `out` exists already or cannot be written; a store is missing, foreign or damaged.
    """
    _check_names(stores)
    folder = None if certificates_out is None else Path(certificates_out)
    if bool(certificates) != (folder is not None):
        raise InputError("certificates and certificates_out go together: the folders, and the one to make of them")
    joined = None if folder is None else Joined.of([Path(one) for one in certificates], folder)
    target = Path(out).expanduser().resolve()
    write_merged(stores, target)
    if joined is not None:
        joined.write()
    return Report.open(target)


def write_merged(stores: Sequence[StorePath], target: Path) -> None:
    """The store of `merge`; of one alone its copy, which may be made while it is in use. Raises StoreError."""
    with contextlib.ExitStack() as stack:
        parts = [_opened(stack, path) for path in stores]
        _check_same_run(parts)
        sessions = _sessions(parts)
        rows = _rows(parts, sessions)
        with _held(target):
            try:
                replaced(target, lambda beside: _write(beside, parts, rows, sessions))
            except OSError as error:
                raise StoreError(f"cannot write the store {target}: {error.strerror}") from error


def _check_names(stores: Sequence[StorePath]) -> None:
    if isinstance(stores, str) or len(stores) < 2:
        raise InputError("merge takes the paths of two stores or more")
    for k, path in enumerate(stores):
        if any(same_file(path, other) for other in stores[:k]):
            raise InputError(f"{path} is named twice: name each store once")
        if Path(path).is_dir():
            raise InputError(
                f"{path} is a folder: those of sweeps are merged by merge_sweeps, with no store among them"
            )


def _opened(stack: contextlib.ExitStack, path: StorePath) -> _Part:
    store = stack.enter_context(Store.open(path))
    snapshot = store.snapshot()
    if snapshot.meta["schema"] == old.VERSION:
        old.refuse(store.path)
    return _Part(store, snapshot, store.data())


@contextlib.contextmanager
def _held(target: Path) -> Iterator[None]:
    """No other run begins a store there meanwhile. Raises StoreError where there is one."""
    if not target.parent.is_dir():
        raise StoreError(f"the directory of the store {target} does not exist; create it first")
    lock = RunLock(target)
    try:
        if target.exists():
            raise StoreError(f"{target} exists already: give --out a path that does not")
        yield
    finally:
        lock.release()


def _check_same_run(parts: Sequence[_Part]) -> None:
    first, known = parts[0], dict(parts[0].data)
    for other in parts[1:]:
        lines = [*differences(first.snapshot.meta, other.snapshot.meta), *changed_examples(known, other.data)]
        known.update(other.data)
        if lines:
            raise StoreError(
                f"{first.path} and {other.path} are not of one run, and cannot be merged. "
                "What differs (in the first -> in the other):\n" + "\n".join(f"  {line}" for line in lines)
            )


def _rows(parts: Sequence[_Part], sessions: Sequence[Mapping[str, Any]]) -> list[_Found]:
    """The best row of each example, by index. Raises StoreError where two contradict each other."""
    names = [session["id"] for session in sessions]
    best: dict[int, _Found] = {}
    for part in parts:
        place = [names.index(session["id"]) for session in part.sessions]
        for row in part.snapshot.examples:
            new, known = _Found(replace(row, session=place[row.session]), part), best.get(row.index)
            if known is not None:
                _check_agree(known, new)
            best[row.index] = new if known is None else min(known, new, key=lambda found: _order(found.row))
    return [best[index] for index in sorted(best)]


def _check_agree(a: _Found, b: _Found) -> None:
    where = f"example {a.row.index}: {a.part.path} and {b.part.path}"
    if a.row.label != b.row.label:
        raise StoreError(f"{where} give it different labels, {a.row.label} and {b.row.label}: one of them is damaged")
    if {a.row.outcome, b.row.outcome} == {ExampleOutcome.VERIFIED, ExampleOutcome.FALSIFIED} and not any(
        found.row.trust is Trust.PROBABILISTIC
        for found in (a, b)  # it may be wrong, and says so
    ):
        said = " and ".join(_said(found.row) for found in (a, b))
        raise StoreError(
            f"{where} contradict each other, {said}: one of the two is wrong, and nothing is merged. "
            "Check the certificate of the one and the counterexample of the other, and please report it"
        )


def _said(row: ExampleRow) -> str:
    trust = "" if row.trust is None else f", trust {row.trust.name.lower()}"
    return f"{row.outcome.value} (stage {row.stage}{trust})"


def _order(row: ExampleRow) -> tuple[Any, ...]:
    """Smaller is better; which store a row is from has no part in it, so that their order has none."""
    known: float = _KNOWN.index(row.outcome) + 1 if row.outcome in _KNOWN else 0
    if row.outcome is ExampleOutcome.VERIFIED and row.trust is Trust.PROBABILISTIC:
        known = 0.5  # a counterexample is sure
    margin = -math.inf if row.margin is None else row.margin
    return (known, 0 if row.trust is None else -int(row.trust), -margin, row.seconds, repr(row))


def _write(path: Path, parts: Sequence[_Part], rows: Sequence[_Found], sessions: Sequence[Mapping[str, Any]]) -> None:
    meta = parts[0].snapshot.meta
    data = {index: digest for part in parts for index, digest in part.data.items()}
    with Store.create(path, RunIdentity(meta["model"], meta["settings"], data), sessions=sessions) as store:
        for start in range(0, len(rows), _TOGETHER):
            chosen = rows[start : start + _TOGETHER]
            store.write([ExampleRecord(found.row, found.counterexample()) for found in chosen], 0.0)


def _sessions(parts: Sequence[_Part]) -> list[dict[str, Any]]:
    """Those of all parts, each once and as it was at its latest, by the time at which they began."""
    latest: dict[str, dict[str, Any]] = {}
    for session in (session for part in parts for session in part.sessions):
        known = latest.setdefault(session["id"], session)
        if session["seconds"] > known["seconds"]:
            latest[session["id"]] = session
    return sorted(latest.values(), key=lambda session: (session["started"], session["id"]))
