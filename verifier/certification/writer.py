"""The one writer of a run: certificates into their folder, rows into the store, counts to whoever listens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from verifier.certification.certificates import CertificateFolder
from verifier.certification.example import ExampleRecord, ExampleRow, joined
from verifier.certification.progress import Listener, Tally
from verifier.certification.store import Store
from verifier.certification.work import Finished

_log = logging.getLogger(__name__)

#: a row that has come is committed within so many seconds
PATIENCE = 2.0


class Writer:
    """The sink of a run (`verifier.certification.work.Sink`). Use it as a context manager.

    A row is committed only after its certificate is on the disk. Rows are committed together, by a thread of its own
    every few seconds, whatever the process is at, and at the end, also where that is an error or Ctrl-C.

    Args:
        known: indices of the examples that have a row already.
        again: rows of examples that are tried again; they are replaced by better ones (example.joined).
        tally: the counts so far. listen: is called with the counts.

    Raises:
        StoreError: on leaving, and from taking: the disk is full or failing. InputError: that of the certificates is.
    """

    def __init__(
        self,
        store: Store,
        folder: CertificateFolder | None,
        known: Iterable[int],
        again: Mapping[int, ExampleRow],
        tally: Tally,
        listen: Listener,
    ) -> None:
        self.store, self.folder, self.tally, self._listen = store, folder, tally, listen
        self._session = store.session
        self._known, self._again = set(known) - set(again), again
        self._waiting: list[ExampleRecord] = []
        self._since = time.monotonic()
        self._failure: Exception | None = None
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_committing, name="verifier-writer", daemon=True)

    def begins(self, stage: str) -> None:
        """Whoever listens is told what is at work."""
        self.tally = replace(self.tally, stage=stage)
        self._listen(self.tally)

    def finished(self, one: Finished) -> None:
        """Keep it, if nothing has come of this example before. Raises as the class says."""
        if self._failure is not None:
            raise self._failure
        row = one.record.example
        if row.index in self._known:
            return
        if self.folder is not None:
            self.folder.write(row.index, one.certificate, one.missing)
        record = replace(one.record, example=replace(row, session=self._session))
        if row.index in self._again:
            record = joined(self._again[row.index], record)
        row = record.example
        with self._lock:
            self._waiting.append(record)
        self._known.add(row.index)
        _log.debug("example %d: %s%s", row.index, row.outcome.value, f" by {row.stage}" if row.stage else "")
        self.tally = self.tally.plus([row])
        self._listen(self.tally)

    def commit(self) -> None:
        """Commits what has come. Raises StoreError; it is then still to be committed."""
        with self._lock:
            now = time.monotonic()
            if self._waiting:
                self.store.write(self._waiting, now - self._since, replace=bool(self._again))
                _log.debug("committed %d rows", len(self._waiting))
                self._waiting, self._since = [], now

    def _keep_committing(self) -> None:
        while not self._done.wait(PATIENCE):
            try:
                self.commit()
            except Exception as error:
                self._failure = error
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._failure is None:
            self.commit()
        elif error is None:
            raise self._failure
