"""The durable record of a run: one SQLite file, whole batches or nothing."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from verifier.certification import database
from verifier.certification.database import transaction, translated
from verifier.certification.example import ExampleRecord, ExampleRow, from_row, to_row, unpack
from verifier.certification.lock import RunLock
from verifier.errors import StoreError
from verifier.verdict import StageCost

StorePath = str | os.PathLike[str]


@dataclass(frozen=True)
class RunIdentity:
    """What a run is: a store accepts further batches from an equal identity only."""

    model: str  #: sha256 of the network's operators and parameters
    data: str  #: sha256 of images, their dtype and shape, and labels
    settings: Mapping[str, Any]  #: JSON values
    examples: int  #: how many the whole run has

    def settings_hash(self) -> str:
        return hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode()).hexdigest()

    def as_meta(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "data": self.data,
            "examples": self.examples,
            "settings": dict(self.settings),
            "settings_hash": self.settings_hash(),
        }


@dataclass(frozen=True)
class Snapshot:
    """One consistent state of a store."""

    meta: Mapping[str, Any]
    examples: tuple[ExampleRow, ...]  #: by index
    stages: tuple[StageCost, ...]  #: over all batches so far, in the order in which they first ran
    seconds: float  #: wall time of all committed batches, over all sessions


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
        return cls._for_writing(path, identity, resume=False, sessions=sessions)

    @classmethod
    def resume(cls, path: StorePath, identity: RunIdentity) -> Store:
        """The store of an earlier run with an equal identity, for writing; where there is none, a new one.

        Raises:
            StoreError: model, data or settings differ (all differences are listed), the file is corrupt, foreign or
                not writable, or another run is writing it.
        """
        return cls._for_writing(path, identity, resume=True)

    @classmethod
    def open(cls, path: StorePath) -> Store:
        """An existing store for reading, also while a run is writing it.

        Raises:
            StoreError: there is none, or the file is corrupt or foreign.
        """
        where = Path(path).expanduser().resolve()
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
        cls, path: StorePath | None, identity: RunIdentity, resume: bool, sessions: Sequence[Mapping[str, Any]] = ()
    ) -> Store:
        where = None if path is None else _checked_path(path)
        lock = None if where is None else RunLock(where)
        connection: sqlite3.Connection | None = None
        try:
            connection = database.connect(where, create=True)
            with translated(where):
                if database.is_empty(connection, where):
                    _begin(connection, identity, sessions)
                else:
                    _continue(connection, where, identity, resume)
        except BaseException:
            if connection is not None:
                connection.close()
            _remove_if_empty(where)
            if lock is not None:
                lock.release()
            raise
        return cls(connection, where, lock)

    def write_batch(
        self, first: int, records: Sequence[ExampleRecord], stages: Iterable[StageCost], seconds: float
    ) -> None:
        """Commits the batch that starts at example `first` as a whole, with what it cost in wall time (s).

        Raises:
            StoreError: disk full or failing; the store is then as it was before the call.
        """
        with translated(self.path), transaction(self._connection):
            self._connection.executemany(database.INSERT_EXAMPLE, map(to_row, records))
            costs = [(s.name, s.decided, s.attempted, s.seconds) for s in stages]
            self._connection.executemany(database.ADD_TO_STAGE, costs)
            batch = (first, len(records), seconds)
            self._connection.execute("INSERT INTO batches (first, count, seconds) VALUES (?, ?, ?)", batch)

    def finished(self) -> dict[int, int]:
        """The committed batches: index of the first example -> number of examples."""
        with translated(self.path):
            return dict(self._connection.execute("SELECT first, count FROM batches").fetchall())

    def snapshot(self) -> Snapshot:
        """Everything but the counterexamples, in one consistent state. Raises StoreError on damaged rows."""
        with translated(self.path), transaction(self._connection, "DEFERRED"):
            meta = _read_meta(self._connection, self.path)
            rows = self._connection.execute(database.SELECT_EXAMPLES).fetchall()
            costs = self._connection.execute("SELECT name, decided, attempted, seconds FROM stages ORDER BY position")
            stages = tuple(StageCost(*row) for row in costs)
            seconds = self._connection.execute("SELECT total(seconds) FROM batches").fetchone()[0]
        return Snapshot(meta, tuple(self._decode(row) for row in rows), stages, seconds)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, row: tuple[Any, ...]) -> ExampleRow:
        try:
            return from_row(row)
        except (ValueError, KeyError) as error:
            raise StoreError(f"store {self.path}: the row of example {row[0]} is damaged ({error})") from error


def _checked_path(path: StorePath) -> Path:
    where = Path(path).expanduser().resolve()
    if not where.parent.is_dir():
        raise StoreError(f"the directory of the store {where} does not exist; create it first")
    if where.exists() and not where.is_file():
        raise StoreError(f"the store {where} is not a file; give another path")
    return where


def _begin(connection: sqlite3.Connection, identity: RunIdentity, sessions: Sequence[Mapping[str, Any]]) -> None:
    """Tables and meta in one transaction: a store exists whole or not at all."""
    now = _now()
    meta = {
        **identity.as_meta(),
        "schema": database.SCHEMA_VERSION,
        "created": now,
        "sessions": [*sessions] or [{"started": now, "versions": _versions()}],
    }
    with transaction(connection):
        database.initialise(connection)
        values = [(key, json.dumps(value)) for key, value in meta.items()]
        connection.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", values)


def _continue(connection: sqlite3.Connection, path: Path | None, identity: RunIdentity, resume: bool) -> None:
    """Checks that the store belongs to this run, and adds a session to its meta."""
    database.recognise(connection, path)
    if not resume:
        raise StoreError(
            f"the store {path} exists already; continue that run with resume=True (--resume), or use another path"
        )
    with transaction(connection):
        meta = _read_meta(connection, path)
        lines = differences(meta, identity.as_meta())
        if lines:
            raise StoreError(
                f"the store {path} belongs to another run, and cannot be resumed with this one. "
                "What differs (in the store -> now):\n"
                + "\n".join(f"  {line}" for line in lines)
                + "\nRun with the same model, data and settings, or use another path."
            )
        sessions = [*meta["sessions"], {"started": _now(), "versions": _versions()}]
        connection.execute("UPDATE meta SET value = ? WHERE key = 'sessions'", (json.dumps(sessions),))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per entry of the identity that differs."""
    lines = []
    for key, meaning in (
        ("model", "model (sha256 of operators and parameters)"),
        ("data", "data (sha256 of images and labels)"),
        ("examples", "number of examples"),
    ):
        if old[key] != new[key]:
            lines.append(f"{meaning}: {old[key]} -> {new[key]}")
    before, now = old["settings"], json.loads(json.dumps(new["settings"]))  # tuples become lists, as in the store
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key) or (key in before) != (key in now):
            lines.append(f"{key}: {before.get(key, '(absent)')} -> {now.get(key, '(absent)')}")
    return lines


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


def _versions() -> dict[str, str]:
    try:
        rampart = version("rampart-verifier")
    except PackageNotFoundError:  # run from a source tree that is not installed
        rampart = "source tree"
    return {"rampart": rampart, "torch": str(torch.__version__), "python": platform.python_version()}
