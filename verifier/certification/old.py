"""Stores of schema version 1, as releases up to 0.2 wrote them: read as they are, and not continued.

Their rows came in batches, with one record of what each stage did over all of them, and none of single examples.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from verifier.certification.example import COLUMNS
from verifier.errors import StoreError
from verifier.verdict import StageCost

VERSION = 1
#: what rows of version 1 do not have -> what is read in its place
_ADDED = {"spent": "'[]'", "attempts": "1", "session": "0"}

SELECT_EXAMPLES = f"SELECT {', '.join(_ADDED.get(c, c) for c in COLUMNS[:-1])} FROM examples ORDER BY idx"


def stage_costs(connection: sqlite3.Connection) -> tuple[StageCost, ...]:
    """What each stage did over all batches, in the order in which they first ran."""
    rows = connection.execute("SELECT name, decided, attempted, seconds FROM stages ORDER BY position")
    return tuple(StageCost(*row) for row in rows)


def seconds(connection: sqlite3.Connection) -> float:
    """Wall time of all batches."""
    return float(connection.execute("SELECT total(seconds) FROM batches").fetchone()[0])


def refuse(path: Path | None) -> None:
    """Raises StoreError: such a store is not continued."""
    raise StoreError(
        f"the store {path} was written by an older release (schema version {VERSION}): it can be read (verifier show), "
        "and not be continued. Finish it with the release that wrote it, or start again with another path"
    )
