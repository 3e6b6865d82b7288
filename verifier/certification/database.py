"""SQLite underneath a store: connecting, recognising our files, transactions, and errors that users understand."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from verifier.certification.example import COLUMNS
from verifier.errors import StoreError

#: marks a file as ours in the SQLite header ("RAMP")
APPLICATION_ID = 0x52414D50
SCHEMA_VERSION = 2
#: can be read, and not continued (old.py)
READABLE = (1, SCHEMA_VERSION)
#: seconds to wait for a reader or writer of another process, which hold the file for moments only
PATIENCE = 30.0

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE examples (
        idx INTEGER PRIMARY KEY,
        label INTEGER NOT NULL,
        prediction INTEGER,
        verdict TEXT NOT NULL CHECK (verdict IN ('verified', 'falsified', 'unknown', 'error')),
        margin REAL,
        margins BLOB,
        attack_margin REAL,
        stage TEXT,
        trust TEXT,
        reason TEXT,
        seconds REAL NOT NULL,
        float32_agrees INTEGER,
        error TEXT,
        traceback TEXT,
        spent TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        session INTEGER NOT NULL,
        counterexample BLOB
    )""",
    # what the run is about: every example that it has been given so far, decided or not
    "CREATE TABLE data (idx INTEGER PRIMARY KEY, digest TEXT NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_INTO_EXAMPLES = f"INTO examples ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
INSERT_EXAMPLE, REPLACE_EXAMPLE = f"INSERT {_INTO_EXAMPLES}", f"REPLACE {_INTO_EXAMPLES}"
SELECT_EXAMPLES = f"SELECT {', '.join(COLUMNS[:-1])} FROM examples ORDER BY idx"
SET_META = "REPLACE INTO meta (key, value) VALUES (?, ?)"
SELECT_DATA = "SELECT idx, digest FROM data"
INSERT_DATA = "INSERT INTO data (idx, digest) VALUES (?, ?)"

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, then resume the run; everything committed is kept",
    sqlite3.SQLITE_CORRUPT: "the file is corrupt: restore it from a copy, or start again with another path",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database: give the path of a store, or one that does not exist",
    sqlite3.SQLITE_BUSY: f"another process has kept it locked for {PATIENCE:.0f} s",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: check the path and its permissions",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_READONLY: "permission denied: the file, or its directory, is read-only",
    sqlite3.SQLITE_IOERR: "reading or writing failed: check the disk; everything committed is kept",
}


@contextlib.contextmanager
def translated(path: Path | None) -> Iterator[None]:
    """Turns SQLite's errors into StoreErrors that name the file, the cause and the next step."""
    try:
        yield
    except sqlite3.Error as error:
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is its kind
        advice = _ADVICE.get(primary)
        cause = str(error) if advice is None else f"{advice} ({error})"
        raise StoreError(f"store {path or '(in memory)'}: {cause}") from error


def connect(path: Path | None, *, create: bool) -> sqlite3.Connection:
    """A connection to the file (None: in memory) that commits only through `transaction`, by one thread at a time.

    The rollback journal is deleted at each commit, so that a finished store is one file, and `synchronous = EXTRA`
    makes that deletion durable: a committed row survives a power failure.
    """
    target = ":memory:" if path is None else f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"
    with translated(path):
        connection = sqlite3.connect(target, timeout=PATIENCE, isolation_level=None, uri=True, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All or nothing, also when interrupted. `kind`: IMMEDIATE to write, DEFERRED to read one consistent state."""
    try:
        connection.execute(f"BEGIN {kind}")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has itself rolled back after some errors, such as a full disk
            connection.execute("ROLLBACK")
        raise


def is_empty(connection: sqlite3.Connection, path: Path | None) -> bool:
    """Whether nothing was ever committed: a new file, or one whose creation was cut short."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]  # rolls back what a killed process left
    if pages == 0 and path is not None and path.stat().st_size > 0:
        # SQLite takes a file shorter than a page for a new database, and would write over it
        raise StoreError(f"store {path}: {_ADVICE[sqlite3.SQLITE_NOTADB]}")
    return bool(pages == 0)


def initialise(connection: sqlite3.Connection) -> None:
    """Makes the tables; call inside a transaction."""
    for statement in _SCHEMA:
        connection.execute(statement)


def version(connection: sqlite3.Connection) -> int:
    """Of the tables."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def recognise(connection: sqlite3.Connection, path: Path | None) -> None:
    """Refuses files that are not whole stores of this version. Raises StoreError (or sqlite3.Error)."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is an SQLite database, but not a store of this program; give another path")
    if version(connection) not in READABLE:
        raise StoreError(
            f"{path} has schema version {version(connection)}, and this program reads versions up to "
            f"{SCHEMA_VERSION}: use the release that wrote it, or start again with another path"
        )
    problems = [row[0] for row in connection.execute("PRAGMA quick_check")]
    if problems != ["ok"]:
        raise StoreError(f"store {path}: {_ADVICE[sqlite3.SQLITE_CORRUPT]} ({problems[0]})")
