"""The store: whole batches or nothing, one writer, and errors that say what to do."""

from __future__ import annotations

import dataclasses
import errno
import math
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from verifier import __version__
from verifier.certification import ExampleOutcome, ExampleRow, RunIdentity, Store
from verifier.certification.example import ExampleRecord
from verifier.certification.lock import RunLock
from verifier.errors import StoreError
from verifier.verdict import Reason, StageCost, Trust

SETTINGS: dict[str, Any] = {"eps": 0.1, "clip": (0.0, 1.0), "stages": ["dual"], "budget": None}
IDENTITY = RunIdentity("m" * 64, SETTINGS, {i: f"{i}" * 64 for i in range(6)})

ROWS = (
    ExampleRecord(
        ExampleRow(
            index=0,
            label=1,
            outcome=ExampleOutcome.VERIFIED,
            prediction=1,
            margin=0.125,
            margins=(0.125, math.inf, 3.0),
            attack_margin=0.5,
            stage="dual",
            trust=Trust.FLOAT,
            seconds=0.25,
            spent=(("interval", 0.125), ("dual", 0.125)),
        )
    ),
    ExampleRecord(
        ExampleRow(
            index=1,
            label=2,
            outcome=ExampleOutcome.FALSIFIED,
            prediction=0,
            margin=-math.inf,
            margins=(-math.inf, -1.0, math.inf),
            attack_margin=-0.5,
            stage="attack",
            float32_agrees=False,
            spent=(("interval", 0.125),),
            attempts=2,
        ),
        torch.linspace(0, 1, 12, dtype=torch.float64).reshape(1, 3, 4),
    ),
    ExampleRecord(
        ExampleRow(
            index=2,
            label=0,
            outcome=ExampleOutcome.UNKNOWN,
            prediction=0,
            margin=-1.0,
            reason=Reason.BUDGET,
            spent=(("interval", 0.25), ("dual", 0.5), ("attack", 0.25)),
        )
    ),
    ExampleRecord(
        ExampleRow(index=3, label=0, outcome=ExampleOutcome.ERROR, error="ValueError: x", traceback="Traceback ...")
    ),
)
STAGES = (StageCost("interval", 0, 3, 0.5), StageCost("dual", 1, 2, 0.625), StageCost("attack", 1, 1, 0.25))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


def written(path: Path) -> Path:
    with Store.create(path, IDENTITY) as store:
        store.write(ROWS, 2.0)
    return path


def test_rows_come_back_as_they_were_written(path: Path) -> None:
    with Store.open(written(path)) as store:
        snapshot = store.snapshot()
        counterexamples = [store.counterexample(r.example.index) for r in ROWS]
    assert snapshot.examples == tuple(r.example for r in ROWS)
    assert snapshot.stages == STAGES and snapshot.seconds == 2.0
    assert [x is None for x in counterexamples] == [True, False, True, True]
    found, stored = counterexamples[1], ROWS[1].counterexample
    assert found is not None and stored is not None and found.dtype == stored.dtype and torch.equal(found, stored)


def test_meta_says_what_the_run_was(path: Path) -> None:
    with Store.open(written(path)) as store:
        meta = store.snapshot().meta
    assert meta["model"] == IDENTITY.model and meta["data"] == IDENTITY.as_meta()["data"] and meta["examples"] == 6
    assert meta["settings"]["eps"] == 0.1 and meta["settings_hash"] == IDENTITY.settings_hash()
    versions = meta["sessions"][0]["versions"]
    assert set(versions) == {"rampart", "torch", "python"} and meta["schema"] == 2
    assert versions["rampart"] == __version__


def test_nan_is_kept_as_absent(path: Path) -> None:
    row = ExampleRecord(
        ExampleRow(index=0, label=0, outcome=ExampleOutcome.UNKNOWN, margin=math.nan, margins=(math.nan, 1.0))
    )
    with Store.create(path, IDENTITY) as store:
        store.write([row], 0.0)
        (example,) = store.snapshot().examples
    assert example.margin is None and example.margins is not None and math.isnan(example.margins[0])


def test_a_closed_store_is_one_file(path: Path) -> None:
    written(path)
    Store.open(path).close()
    assert list(path.parent.iterdir()) == [path]


def test_stage_costs_add_up_over_rows_and_sessions(path: Path) -> None:
    written(path)
    with Store.resume(path, IDENTITY) as store:
        spent = (("interval", 0.5), ("dual", 0.5), ("dual-adaptive", 1.0))
        rows = [ExampleRecord(ExampleRow(i, 0, ExampleOutcome.UNKNOWN, spent=spent)) for i in (4, 5)]
        store.write(rows, 1.0)
        snapshot = store.snapshot()
        assert store.finished() == set(range(6))
    costs = {cost.name: cost for cost in snapshot.stages}
    assert costs == {
        "interval": StageCost("interval", 0, 5, 1.5),
        "dual": StageCost("dual", 1, 4, 1.625),
        "dual-adaptive": StageCost("dual-adaptive", 0, 2, 2.0),
        "attack": StageCost("attack", 1, 1, 0.25),
    }
    assert list(costs)[:2] == ["interval", "dual"]
    assert snapshot.seconds == 3.0 and len(snapshot.meta["sessions"]) == 2


def test_a_batch_with_a_bad_row_leaves_nothing(path: Path) -> None:
    written(path)
    with Store.resume(path, IDENTITY) as store:
        before = store.snapshot()
        repeated = [ExampleRecord(ExampleRow(index=i, label=0, outcome=ExampleOutcome.UNKNOWN)) for i in (4, 5, 0)]
        with pytest.raises(StoreError, match="UNIQUE"):
            store.write(repeated, 1.0)
        assert store.snapshot() == before and store.finished() == set(range(4))


def test_a_full_disk_leaves_the_last_batch(path: Path) -> None:
    written(path)
    big = [ExampleRecord(ExampleRow(index=4, label=0, outcome=ExampleOutcome.FALSIFIED), torch.zeros(50_000))]
    with Store.resume(path, IDENTITY) as store:
        before = store.snapshot()
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match=r"disk is full.*resume"):
            store.write(big, 1.0)
        assert store.snapshot() == before
        store._connection.execute("PRAGMA max_page_count = 100000")
        store.write(big, 1.0)
    with Store.open(path) as store:
        assert store.finished() == set(range(5))


def test_create_refuses_an_existing_store_and_says_how_to_go_on(path: Path) -> None:
    with pytest.raises(StoreError, match=r"exists already.*--resume.*another path"):
        Store.create(written(path), IDENTITY)
    with Store.open(path) as store:
        assert len(store.snapshot().examples) == 4


def test_an_empty_file_is_as_good_as_none(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreError, match="is empty"):
        Store.open(path)
    written(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "x" * 64}, "model .*mmm -> xxx"),
        ({"examples": {3: "x" * 64}}, "data .*example 3: 333 -> xxx"),
        ({"examples": dict.fromkeys(range(2, 8), "x" * 64)}, "example 2: .* and 3 more examples are others"),
        ({"settings": {**IDENTITY.settings, "eps": 0.2}}, "eps: 0.1 -> 0.2"),
        ({"settings": {**IDENTITY.settings, "stages": ["lp"]}}, r"(?s)stages: .*'dual'.* -> .*'lp'.*retry=.unknown"),
        ({"settings": {**IDENTITY.settings, "new": 1}}, r"new: \(absent\) -> 1"),
        ({"settings": {k: v for k, v in IDENTITY.settings.items() if k != "budget"}}, r"budget: None -> \(absent\)"),
    ],
)
def test_resume_refuses_another_run(path: Path, change: dict[str, Any], said: str) -> None:
    other = dataclasses.replace(IDENTITY, **change)
    with pytest.raises(StoreError, match=said.replace("mmm", "m+").replace("xxx", "x+").replace("333", "3+")):
        Store.resume(written(path), other)
    with Store.open(path) as store:
        assert len(store.snapshot().meta["sessions"]) == 1 and len(store.data()) == 6


def test_more_examples_are_added(path: Path) -> None:
    written(path)
    with Store.open(path) as store:
        before = store.snapshot().meta
    with Store.resume(path, dataclasses.replace(IDENTITY, examples={i: f"{i}" * 64 for i in (4, 5, 8)})) as store:
        assert sorted(store.data()) == [0, 1, 2, 3, 4, 5, 8] and store.finished() == {0, 1, 2, 3}
        meta = store.snapshot().meta
    assert meta["examples"] == 7 and meta["data"] != before["data"] and len(meta["sessions"]) == 2


def test_trying_again_may_take_other_pains(path: Path) -> None:
    written(path)
    harder = dataclasses.replace(IDENTITY, settings={**SETTINGS, "stages": ["lp"], "budget": 9.0})
    with Store.resume(path, harder, again=True) as store:
        better = dataclasses.replace(ROWS[2].example, outcome=ExampleOutcome.VERIFIED, reason=None, stage="lp")
        store.write([ExampleRecord(better)], 1.0, replace=True)
        snapshot = store.snapshot()
    assert snapshot.examples[2] == better and len(snapshot.examples) == 4 and snapshot.seconds == 3.0
    assert [s["settings"]["stages"] for s in snapshot.meta["sessions"]] == [["dual"], ["lp"]]
    for settings in (SETTINGS, harder.settings):  # as any session had them
        Store.resume(path, dataclasses.replace(IDENTITY, settings=settings)).close()
    with pytest.raises(StoreError, match=r"eps: 0.1 -> 0.2"):
        Store.resume(path, dataclasses.replace(IDENTITY, settings={**SETTINGS, "eps": 0.2}), again=True)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()


def from_the_future(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def without_meta(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'model'")
    connection.close()


def without_examples(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE examples")
    connection.close()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda p: p.write_text("hello, world\n" * 100), "not an SQLite database"),
    "short text": (lambda p: p.write_text("x"), "not an SQLite database"),
    "zeros": (lambda p: p.write_bytes(bytes(8192)), "not an SQLite database|corrupt|not a store"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:9000]), "corrupt"),
    "scribbled": (lambda p: overwrite(p, 4096, os.urandom(4096)), "corrupt"),
    "scribbled schema": (lambda p: overwrite(p, 100, b"\xff" * 3900), "corrupt"),
    "foreign": (foreign, "not a store of this program"),
    "from the future": (from_the_future, "schema version 99"),
    "without meta": (without_meta, "lacks model"),
    "without examples": (without_examples, "no such table"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_and_foreign_files_are_recognised(path: Path, kind: str) -> None:
    damage, said = DAMAGE[kind]
    damage(written(path))
    before = path.read_bytes()

    def read() -> None:
        with Store.open(path) as store:
            store.snapshot()

    with pytest.raises(StoreError, match=said):
        read()
    if kind != "without examples":
        with pytest.raises(StoreError, match=said):
            Store.resume(path, IDENTITY)
        with pytest.raises(StoreError):
            Store.create(path, IDENTITY)
        assert path.read_bytes() == before, "a file that is not ours, or damaged, must not be touched"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "change", ["trust = 'holy'", "margins = x'00'", "reason = 'none'"], ids=["trust", "margins", "reason"]
)
def test_damaged_rows_are_named(path: Path, change: str) -> None:
    with sqlite3.connect(written(path)) as connection:
        connection.execute(f"UPDATE examples SET {change} WHERE idx = 2")
    connection.close()
    with Store.open(path) as store, pytest.raises(StoreError, match="example 2 is damaged"):
        store.snapshot()


def test_what_is_finished_is_what_has_a_row(path: Path) -> None:
    with sqlite3.connect(written(path)) as connection:
        connection.execute("DELETE FROM examples WHERE idx = 2")
    connection.close()
    with Store.resume(path, IDENTITY) as store:
        assert store.finished() == {0, 1, 3}
        store.write(ROWS[2:3], 1.0)
        snapshot = store.snapshot()
    assert snapshot.examples == tuple(r.example for r in ROWS) and snapshot.seconds == 3.0


def test_a_row_of_an_example_that_the_run_does_not_have_is_refused(path: Path) -> None:
    with sqlite3.connect(written(path)) as connection:
        connection.execute("UPDATE examples SET idx = 6 WHERE idx = 2")
    connection.close()
    with Store.open(path) as store, pytest.raises(StoreError, match=r"a row of example 6, which is none of the run's"):
        store.snapshot()


def test_a_damaged_counterexample_is_named(path: Path) -> None:
    with sqlite3.connect(written(path)) as connection:
        connection.execute("UPDATE examples SET counterexample = x'0011' WHERE idx = 1")
    connection.close()
    with Store.open(path) as store, pytest.raises(StoreError, match="counterexample of example 1 is damaged"):
        store.counterexample(1)


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"directory of the store .* does not exist"):
        Store.create(tmp_path / "none" / "run.sqlite", IDENTITY)
    with pytest.raises(StoreError, match="is not a file"):
        Store.create(tmp_path, IDENTITY)
    with pytest.raises(StoreError, match="there is no store"):
        Store.open(tmp_path / "run.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_places_are_named(path: Path) -> None:
    written(path)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(StoreError, match="cannot write in the directory"):
            Store.resume(path, IDENTITY)
        with Store.open(path) as store:
            assert len(store.snapshot().examples) == 4
    finally:
        path.parent.chmod(0o755)


def test_a_read_only_file_is_named(path: Path) -> None:
    with Store.create(path, IDENTITY) as store:
        store._connection.execute("PRAGMA query_only = ON")  # what SQLite says of a file without permission to write
        with pytest.raises(StoreError, match="permission denied"):
            store.write(ROWS, 2.0)


def test_one_writer_at_a_time_and_readers_meanwhile(path: Path) -> None:
    with Store.create(path, IDENTITY) as store:
        for start in (Store.create, Store.resume):
            with pytest.raises(StoreError, match=f"another run .process {os.getpid()}"):
                start(path, IDENTITY)
        with Store.open(path) as reader:
            assert reader.snapshot().examples == ()
        store.write(ROWS, 2.0)
        with Store.open(path) as reader:
            assert len(reader.snapshot().examples) == 4
    Store.resume(path, IDENTITY).close()


def test_the_lock_of_a_dead_process_is_taken_over(path: Path) -> None:
    path.with_name("run.sqlite.lock").write_text("12345")
    written(path)
    assert list(path.parent.iterdir()) == [path]


def test_a_lock_removed_while_waiting_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    monkeypatch.setattr("verifier.certification.lock._is_same_file", lambda *_: next(answers))
    RunLock(path).release()
    assert list(path.parent.iterdir()) == []


def test_where_an_open_file_cannot_be_removed_it_is_removed_when_it_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.setattr("verifier.certification.lock._OPEN_FILES_CAN_BE_REMOVED", False)
    lock = RunLock(path)
    with pytest.raises(StoreError, match=f"process {os.getpid()}"):
        RunLock(path)
    lock.release()
    lock.release()
    assert list(path.parent.iterdir()) == []


def test_a_file_that_cannot_be_locked_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("verifier.certification.lock.lock_descriptor", refused)
    with pytest.raises(StoreError, match=r"cannot lock or write .*no locks available"):
        RunLock(path)


def killed_while_writing(path: str) -> None:
    """Dies in the middle of a transaction whose pages have partly reached the file."""
    store = Store.resume(path, IDENTITY)
    store._connection.execute("PRAGMA cache_size = 1")  # so that pages spill to the file before the commit

    def die(statement: str) -> None:
        if statement == "COMMIT":
            os.kill(os.getpid(), signal.SIGKILL)

    store._connection.set_trace_callback(die)
    rows = [
        ExampleRecord(ExampleRow(index=i, label=0, outcome=ExampleOutcome.FALSIFIED), torch.zeros(20_000))
        for i in (4, 5)
    ]
    store.write(rows, 1.0)


@pytest.mark.parametrize("reader_first", [True, False])
def test_a_half_written_batch_is_rolled_back(path: Path, reader_first: bool) -> None:
    written(path)
    process = multiprocessing.get_context("spawn").Process(target=killed_while_writing, args=(str(path),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert path.with_name("run.sqlite-journal").stat().st_size > 0, "the kill left a journal to roll back"
    opened = Store.open(path) if reader_first else Store.resume(path, IDENTITY)
    with opened as store:
        snapshot = store.snapshot()
    assert snapshot.examples == tuple(r.example for r in ROWS) and snapshot.stages == STAGES
    Store.resume(path, IDENTITY).close()
    assert list(path.parent.iterdir()) == [path]


def test_in_memory_stores_touch_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.create(None, IDENTITY) as store:
        store.write(ROWS, 2.0)
        assert len(store.snapshot().examples) == 4
    assert list(tmp_path.iterdir()) == []
