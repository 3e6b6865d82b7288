"""The one writer of a run: no row before its certificate, none twice, none lost, whatever fails meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_store import IDENTITY, ROWS

from verifier.certification import ExampleOutcome, ExampleRow, Store
from verifier.certification.certificates import CertificateFolder
from verifier.certification.example import ExampleRecord
from verifier.certification.progress import Tally
from verifier.certification.work import Finished
from verifier.certification.writer import Writer
from verifier.checker.audit import SUFFIX
from verifier.errors import InputError, StoreError

VERIFIED, FALSIFIED, UNKNOWN, ERROR = (Finished(record) for record in ROWS)


def certificates(path: Path) -> CertificateFolder:
    """Of certificates that are there already; `path` need not exist."""
    return CertificateFolder(path, builder=None)  # type: ignore[arg-type]


def writer(
    store: Store,
    folder: CertificateFolder | None = None,
    known: Iterable[int] = (),
    again: Mapping[int, ExampleRow] | None = None,
) -> Writer:
    return Writer(store, folder, known, again or {}, Tally(4), lambda _: None)


def outcomes(store: Store) -> dict[int, ExampleOutcome]:
    return {row.index: row.outcome for row in store.snapshot().examples}


def test_a_row_has_its_certificate_on_the_disk_first(tmp_path: Path) -> None:
    with Store.create(None, IDENTITY) as store:
        with pytest.raises(InputError, match="cannot write"), writer(store, certificates(tmp_path / "gone")) as write:
            write.finished(FALSIFIED)
            write.finished(replace(VERIFIED, certificate=b"proof"))
        assert outcomes(store) == {1: ExampleOutcome.FALSIFIED}


def test_the_first_answer_of_an_example_stays_with_its_certificate(tmp_path: Path) -> None:
    later = Finished(ExampleRecord(replace(ROWS[3].example, index=0)))
    with Store.create(None, IDENTITY) as store:
        with writer(store, certificates(tmp_path)) as write:
            for one in (replace(VERIFIED, certificate=b"proof"), later, replace(VERIFIED, missing="none"), FALSIFIED):
                write.finished(one)
            assert (write.tally.done, write.tally.verified, write.tally.errors) == (2, 1, 0)
        first = {0: ExampleOutcome.VERIFIED, 1: ExampleOutcome.FALSIFIED}
        assert outcomes(store) == first
        with writer(store, certificates(tmp_path), known=store.finished()) as write:
            write.finished(later)
            assert write.tally.done == 0
        assert outcomes(store) == first
    assert {place.name: place.read_bytes() for place in tmp_path.iterdir()} == {f"000000{SUFFIX}": b"proof"}


def test_an_example_that_is_tried_again_is_replaced_once() -> None:
    with Store.create(None, IDENTITY) as store:
        with writer(store) as write:
            write.finished(UNKNOWN)
            write.finished(FALSIFIED)
        old = {row.index: row for row in store.snapshot().examples}
        better = replace(ROWS[2].example, outcome=ExampleOutcome.VERIFIED, reason=None)
        with writer(store, known=old, again={2: old[2]}) as write:
            write.finished(Finished(ExampleRecord(better)))
            write.finished(UNKNOWN)
            write.finished(replace(ERROR, record=ExampleRecord(replace(ROWS[3].example, index=1))))
        found = {row.index: row for row in store.snapshot().examples}
        assert outcomes(store) == {1: ExampleOutcome.FALSIFIED, 2: ExampleOutcome.VERIFIED}
        assert found[2].attempts == 2


def test_rows_whose_commit_failed_are_committed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = Store.write, [StoreError("the disk is full")]

    def failing(self: Store, *given: Any, **how: Any) -> None:
        if failures:
            raise failures.pop()
        real(self, *given, **how)

    monkeypatch.setattr(Store, "write", failing)
    with Store.create(None, IDENTITY) as store:
        with writer(store) as write:
            write.finished(VERIFIED)
            with pytest.raises(StoreError, match="disk is full"):
                write.commit()
            assert outcomes(store) == {}
            write.finished(FALSIFIED)
        assert outcomes(store) == {0: ExampleOutcome.VERIFIED, 1: ExampleOutcome.FALSIFIED}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, InputError])
def test_what_has_come_is_kept_however_the_run_ends(error: type[BaseException], tmp_path: Path) -> None:
    with Store.create(tmp_path / "run.sqlite", IDENTITY) as store:
        with pytest.raises(error), writer(store) as write:
            write.finished(VERIFIED)
            write.finished(UNKNOWN)
            raise error
        assert outcomes(store) == {0: ExampleOutcome.VERIFIED, 2: ExampleOutcome.UNKNOWN}
