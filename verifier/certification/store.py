"""The durable record of a run: one SQLite file, a row per example."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sqlite3
import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from verifier.certification import database, old
from verifier.certification.database import transaction, translated
from verifier.certification.example import ExampleRecord, ExampleRow, from_row, stage_costs, to_row, unpack
from verifier.certification.identity import EFFORT, RunIdentity, changed_examples, data_meta, differences
from verifier.certification.lock import RunLock
from verifier.errors import StoreError
from verifier.verdict import StageCost
from verifier.version import __version__

StorePath = str | os.PathLike[str]


@dataclass(frozen=True)
class Snapshot:
    """One consistent state of a store."""

    meta: Mapping[str, Any]
    examples: tuple[ExampleRow, ...]  #: by index
    stages: tuple[StageCost, ...]  #: over all rows so far, in the order in which they ran
    data: Mapping[int, str]  #: index of each example of the run -> its digest; none in stores of older releases
    seconds: float  #: wall time until the last commit, over all sessions


class Store:
    """Use `create`, `resume` or `open`, and close it (or use it as a context manager)."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, lock: RunLock | None) -> None:
        self._connection, self.path, self._lock = connection, path, lock

    @classmethod
    def create(cls, path: StorePath | None, identity: RunIdentity, sessions: Sequence[Mapping[str, Any]] = ()) -> Store:
        """A new store for writing; None: in memory, gone when closed.

        Args:
            sessions: what its rows come from, in place of a session of its own that begins now.

        Raises:
            StoreError: the file exists (an empty one is used), cannot be made, or is locked by another run.
        """
        return cls._for_writing(path, identity, sessions)

    @classmethod
    def resume(cls, path: StorePath, identity: RunIdentity, *, again: bool = False) -> Store:
        """The store of an earlier run, for writing; where there is none, a new one.

        Examples that the run did not have before are added to it.

        Args:
            again: whether examples are tried again, so that settings which say how hard may differ (`EFFORT`).

        Raises:
            StoreError: the model or settings differ, or an example that the run has (all differences are listed); the
                file is of an older release, corrupt, foreign or not writable; another run is writing it.
        """
        return cls._for_writing(path, identity, None, again)

    @classmethod
    def open(cls, path: StorePath) -> Store:
        """An existing store for reading, also while a run is writing it.

        Raises:
            StoreError: there is none, or the file is corrupt or foreign.
        """
        where = Path(path).expanduser().resolve()
        if where.is_dir():
            raise StoreError(f"{where} is a directory: give the store itself, an SQLite file")
        if not where.is_file():
            raise StoreError(f"there is no store at {where}")
        connection = database.connect(where, create=False)  # not mode=ro: a killed run's journal must be rolled back
        store = cls(connection, where, lock=None)
        try:
            with translated(where):
                if database.is_empty(connection, where):
                    raise StoreError(f"{where} is empty: no run has been recorded in it")
                database.recognise(connection, where)
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def _for_writing(
        cls,
        path: StorePath | None,
        identity: RunIdentity,
        sessions: Sequence[Mapping[str, Any]] | None,
        again: bool = False,
    ) -> Store:
        """Without `sessions` that of an earlier run, where there is one."""
        where = None if path is None else _checked_path(path)
        lock = None if where is None else RunLock(where)
        connection: sqlite3.Connection | None = None
        try:
            connection = database.connect(where, create=True)
            with translated(where):
                if database.is_empty(connection, where):
                    _begin(connection, identity, sessions or ())
                else:
                    _continue(connection, where, identity, sessions is None, again)
        except BaseException:
            if connection is not None:
                connection.close()
            _remove_if_empty(where)
            if lock is not None:
                lock.release()
            raise
        return cls(connection, where, lock)

    def write(self, records: Iterable[ExampleRecord], seconds: float, *, replace: bool = False) -> None:
        """Commits rows, all or none, and the wall time (s) that the session took for them.

        Args:
            replace: whether rows that are there already are replaced, as a whole, or refused.

        Raises:
            StoreError: disk full or failing; the store is then as it was before the call.
        """
        statement = database.REPLACE_EXAMPLE if replace else database.INSERT_EXAMPLE
        with translated(self.path), transaction(self._connection):
            self._connection.executemany(statement, map(to_row, records))
            sessions = _read_meta(self._connection, self.path)["sessions"]
            sessions[-1]["seconds"] += seconds
            _set_meta(self._connection, {"sessions": sessions})

    @property
    def session(self) -> int:
        """The place of the session that is writing, in the meta's list of them."""
        with translated(self.path):
            return len(_read_meta(self._connection, self.path)["sessions"]) - 1

    def finished(self) -> frozenset[int]:
        """The indices of the examples that have a row: what a run has done, and all that it has done.

        No other table is asked: rows that were lost or taken out are rows to make again.
        """
        with translated(self.path):
            return frozenset(row[0] for row in self._connection.execute("SELECT idx FROM examples"))

    def data(self) -> dict[int, str]:
        """What the run is about: index of an example -> its digest; decided or not. Not of older releases' stores."""
        with translated(self.path):
            return dict(self._connection.execute(database.SELECT_DATA).fetchall())

    def snapshot(self) -> Snapshot:
        """Everything but the counterexamples, in one consistent state. Raises StoreError on damaged rows."""
        with translated(self.path), transaction(self._connection, "DEFERRED"):
            meta = _read_meta(self._connection, self.path)
            if database.version(self._connection) == old.VERSION:
                return self._old_snapshot(meta)
            rows = self._connection.execute(database.SELECT_EXAMPLES).fetchall()
            has = dict(self._connection.execute(database.SELECT_DATA).fetchall())
        examples, seconds = self._decoded(rows, has), sum(session["seconds"] for session in meta["sessions"])
        return Snapshot(meta, examples, stage_costs(examples), has, seconds)

    def _old_snapshot(self, meta: dict[str, Any]) -> Snapshot:
        rows = self._connection.execute(old.SELECT_EXAMPLES).fetchall()
        first = meta["settings"].get("first_index", 0)
        examples = self._decoded(rows, range(first, first + meta["examples"]))
        return Snapshot(meta, examples, old.stage_costs(self._connection), {}, old.seconds(self._connection))

    def counterexample(self, index: int) -> Tensor | None:
        """The counterexample [*input] of example `index`; None where it has none or the example is not in here."""
        with translated(self.path):
            query = "SELECT counterexample FROM examples WHERE idx = ?"
            row = self._connection.execute(query, (index,)).fetchone()
        if row is None or row[0] is None:
            return None
        try:
            return unpack(row[0])
        except Exception as error:  # safetensors raises its own type and others on damaged bytes
            raise StoreError(f"store {self.path}: the counterexample of example {index} is damaged") from error

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    def discard(self) -> None:
        """Closes the store and removes its file: of a run that could not begin."""
        if self.path is not None:
            self._connection.close()
            self.path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decoded(self, rows: Iterable[tuple[Any, ...]], has: Container[int]) -> tuple[ExampleRow, ...]:
        """The rows as values. Raises StoreError on damaged ones, and those of examples that the run does not have.

        Args:
            has: indices of the run's examples. Rows of others would count in its accuracies.
        """
        found = []
        for row in rows:
            if row[0] not in has:
                raise StoreError(
                    f"store {self.path}: it has a row of example {row[0]}, which is none of the run's: "
                    "the file is damaged"
                )
            try:
                found.append(from_row(row))
            except (ValueError, TypeError, KeyError) as error:
                raise StoreError(f"store {self.path}: the row of example {row[0]} is damaged ({error})") from error
        return tuple(found)


def _checked_path(path: StorePath) -> Path:
    where = Path(path).expanduser().resolve()
    if not where.parent.is_dir():
        raise StoreError(f"the directory of the store {where} does not exist; create it first")
    if where.exists() and not where.is_file():
        raise StoreError(f"the store {where} is not a file; give another path")
    return where


def _begin(connection: sqlite3.Connection, identity: RunIdentity, sessions: Sequence[Mapping[str, Any]]) -> None:
    """Tables and meta in one transaction: a store exists whole or not at all."""
    meta = {
        **identity.as_meta(),
        "schema": database.SCHEMA_VERSION,
        "created": _now(),
        "sessions": list(sessions) or [_session(identity)],
    }
    with transaction(connection):
        database.initialise(connection)
        _set_meta(connection, meta)
        connection.executemany(database.INSERT_DATA, sorted(identity.examples.items()))


def _session(identity: RunIdentity) -> dict[str, Any]:
    """What is said of a session, under a name of its own: stores that are merged may both have it."""
    known = {"started": _now(), "versions": versions(), "seconds": 0.0, "settings": identity.effort}
    return {"id": uuid.uuid4().hex, **known}


def _continue(
    connection: sqlite3.Connection, path: Path | None, identity: RunIdentity, resume: bool, again: bool
) -> None:
    """Checks that the store belongs to this run; adds a session to its meta, and the examples that are new."""
    database.recognise(connection, path)
    if not resume:
        raise StoreError(
            f"the store {path} exists already; continue that run with resume=True (--resume), or use another path"
        )
    if database.version(connection) == old.VERSION:
        old.refuse(path)
    with transaction(connection):
        meta, known = _read_meta(connection, path), dict(connection.execute(database.SELECT_DATA).fetchall())
        _check_same(path, meta, known, identity, again)
        meta["sessions"].append(_session(identity))
        new = {index: digest for index, digest in identity.examples.items() if index not in known}
        connection.executemany(database.INSERT_DATA, sorted(new.items()))
        _set_meta(connection, {"sessions": meta["sessions"], **data_meta({**known, **new})})


def _check_same(
    path: Path | None, meta: Mapping[str, Any], known: Mapping[int, str], identity: RunIdentity, again: bool
) -> None:
    """Raises StoreError where the store is of another run, with all that differs."""
    tried = [session["settings"] for session in meta["sessions"]]
    free = EFFORT if again or identity.effort in tried else ()
    lines = [
        *differences(meta, identity.as_meta(), leave_out=free),
        *changed_examples(known, identity.examples),
    ]
    if not lines:
        return
    effort = all(line.partition(":")[0] in EFFORT for line in lines)
    more = ' To try what is UNKNOWN again with these settings: retry="unknown" (--retry unknown).' if effort else ""
    raise StoreError(
        f"the store {path} belongs to another run, and cannot be resumed with this one. "
        "What differs (in the store -> now):\n"
        + "\n".join(f"  {line}" for line in lines)
        + f"\nRun with the same model, data and settings, or use another path.{more}"
    )


def _set_meta(connection: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    connection.executemany(database.SET_META, [(key, json.dumps(value)) for key, value in values.items()])


_META_KEYS = {"model", "data", "examples", "settings", "settings_hash", "schema", "created", "sessions"}


def _read_meta(connection: sqlite3.Connection, path: Path | None) -> dict[str, Any]:
    try:
        meta = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}
    except ValueError as error:
        raise StoreError(f"store {path}: its meta table is damaged ({error})") from error
    missing = _META_KEYS - set(meta)
    if missing:
        raise StoreError(f"store {path}: its meta table lacks {', '.join(sorted(missing))}: the file is damaged")
    return meta


def _remove_if_empty(path: Path | None) -> None:
    """After a failed start: an empty file says nothing and would only puzzle."""
    if path is not None and path.is_file() and path.stat().st_size == 0:
        path.unlink()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    return {"rampart": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
