"""A run is continued: with more examples, with more pains for what is UNKNOWN, with errors tried again."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import labelled, small_mlp
from helpers.reports import assert_equal

from verifier.api import Verifier
from verifier.certification import ExampleOutcome, Interrupted, Report, Store, certify
from verifier.certification.example import ExampleRecord, ExampleRow, joined
from verifier.certification.progress import Tally
from verifier.certification.retry import to_retry
from verifier.errors import InputError, StoreError
from verifier.verdict import Reason, Trust

EPS, EXAMPLES = 0.08, 24
STAGES = ["clean", "interval", "dual", "attack", "branch"]
MODEL = small_mlp()
IMAGES, LABELS = labelled(MODEL, (12,), EXAMPLES)


def run(store: Path | None, part: slice = slice(None), **options: Any) -> Report:
    given = {"eps": EPS, "stages": STAGES, "batch_size": 8, "progress": False, "resume": store is not None, **options}
    return certify(MODEL, IMAGES[part], LABELS[part], store=store, first_index=part.start or 0, **given)


def of(report: Report, outcome: ExampleOutcome) -> set[int]:
    return {e.index for e in report.rows() if e.outcome is outcome}


def test_more_examples(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    first = run(path, slice(0, 10))
    assert first.complete and first.meta["examples"] == 10
    tallies: list[Tally] = []
    report = run(path, progress=tallies.append)
    assert tallies[0].done == 10 and report.complete and report.meta["examples"] == EXAMPLES
    assert report.rows()[:10] == first.rows()
    assert_equal(report, run(None))
    assert run(path, slice(4, 7)).complete, "a part of it"
    changed = LABELS.clone()
    changed[5] = (changed[5] + 1) % 4
    with pytest.raises(StoreError, match=r"data \(sha256 of image and label\): example 5: "):
        certify(MODEL, IMAGES, changed, EPS, store=path, resume=True, stages=STAGES, batch_size=8, progress=False)


def test_examples_from_elsewhere_in_the_data(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    run(path, slice(16, 24))
    report = run(path, slice(0, 16))
    assert report.complete and [e.index for e in report.rows()] == list(range(EXAMPLES))
    with pytest.raises(StoreError, match=r"data .*: example 16: .* and 7 more examples are others"):
        certify(MODEL, IMAGES[:8], LABELS[:8], EPS, store=path, resume=True, stages=STAGES, batch_size=8,
                first_index=16, progress=False)  # fmt: skip


def test_what_is_unknown_is_tried_again(tmp_path: Path) -> None:
    path, folder = tmp_path / "run.sqlite", tmp_path / "certificates"
    poor = run(path, stages=["clean", "interval", "dual"], certificates=folder)
    left = of(poor, ExampleOutcome.UNKNOWN)
    assert len(left) > 3 and {int(p.stem) for p in folder.glob("*.cert")} == of(poor, ExampleOutcome.VERIFIED)
    with pytest.raises(StoreError, match=r"(?s)stages: .*retry=.unknown"):
        run(path)
    tallies: list[Tally] = []
    rich = run(path, retry="unknown", certificates=folder, progress=tallies.append, example_budget=600.0)
    assert tallies[0].done == EXAMPLES - len(left)
    expected = {e.index: e for e in run(None).rows()}
    for old, new in zip(poor.rows(), rich.rows(), strict=True):
        assert new.outcome is expected[new.index].outcome
        if old.index in left:
            assert (new.attempts, new.session) == (2, 1) and new.seconds > old.seconds
            assert [name for name, _ in new.spent][:3] == ["clean", "interval", "dual"]
        else:
            assert new == old, "what is decided stays"
    assert {int(p.stem) for p in folder.glob("*.cert")} == of(rich, ExampleOutcome.VERIFIED)
    assert [s["settings"]["example_budget"] for s in rich.meta["sessions"]] == [60.0, 600.0]


def test_a_retry_that_was_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    """Nothing is lost, and what has had its attempt does not get it twice."""
    path, poor = tmp_path / "run.sqlite", ["clean", "interval"]
    before = {e.index: e for e in run(path, stages=poor).rows()}
    left = {i for i, e in before.items() if e.outcome is ExampleOutcome.UNKNOWN}

    def stop(tally: Tally) -> None:
        if tally.done >= EXAMPLES - len(left) + 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"{EXAMPLES} of {EXAMPLES} examples"):
        run(path, stages=["interval", "dual"], retry="unknown", progress=stop)
    partial = {e.index: e for e in Report.open(path).rows()}
    tried = {i for i, e in partial.items() if e.attempts == 2}
    assert len(tried) == 4 and all(partial[i] == before[i] for i in before.keys() - tried)
    tallies: list[Tally] = []
    report = run(path, stages=["interval", "dual"], retry="unknown", progress=tallies.append)
    assert {e.index for e in report.rows() if e.attempts == 2} == left
    assert tallies[0].done == EXAMPLES - len(left) + 4
    again = run(path, stages=["interval", "dual"], retry="unknown")
    assert again.rows() == report.rows() and of(again, ExampleOutcome.UNKNOWN)


@pytest.mark.parametrize(
    "asked", [{"eps": 0.09}, {"semantics": "float32"}, {"threat": "l2"}, {"clip": (0.0, 1.0)}, {"question": "top_k:2"}]
)
def test_another_question_is_no_second_attempt(question: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=rf"(?s){next(iter(asked))}: .* -> "):
        run(question, retry="unknown", **asked)


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has an UNKNOWN."""
    path = tmp_path_factory.mktemp("asked") / "run.sqlite"
    assert of(run(path, stages=["clean", "interval"]), ExampleOutcome.UNKNOWN)
    return path


def test_a_shard_tries_its_own_again(tmp_path: Path) -> None:
    path, poor = tmp_path / "run.sqlite", ["clean", "interval"]
    left = of(run(path, stages=poor), ExampleOutcome.UNKNOWN)
    own = {i for i in left if i % 2 == 0}
    report = run(path, stages=["interval", "dual"], retry="unknown", shard="1/2")
    assert {e.index for e in report.rows() if e.attempts == 2} == own and own < left


def test_another_release_has_an_attempt_of_its_own(tmp_path: Path) -> None:
    path, poor = tmp_path / "run.sqlite", ["clean", "interval"]
    left = of(run(path, stages=poor), ExampleOutcome.UNKNOWN)
    run(path, retry="unknown", stages=poor)
    with Store.open(path) as store:
        state = store.snapshot()
    first, last = state.meta["sessions"]
    unknown = frozenset({ExampleOutcome.UNKNOWN})
    assert not to_retry(state, range(EXAMPLES), unknown)
    last = last | {"versions": last["versions"] | {"torch": "99.0"}}
    newer = replace(state, meta={**state.meta, "sessions": [first, last]})
    assert to_retry(newer, range(EXAMPLES), unknown).keys() == left
    assert not to_retry(newer, range(EXAMPLES), frozenset({ExampleOutcome.ERROR}))


def test_errors_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, original = tmp_path / "run.sqlite", Verifier.run

    def raising(self: Verifier, region: Any, *rest: Any) -> Any:
        if bool((region.center() == IMAGES[5].double()).all(1).any()):
            raise MemoryError("none left")
        return original(self, region, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Verifier, "run", raising)
        assert of(run(path), ExampleOutcome.ERROR) == {5}
        assert of(run(path, retry="error"), ExampleOutcome.ERROR) == {5}
    assert of(run(path, retry="unknown"), ExampleOutcome.ERROR) == {5}
    report = run(path, retry=["unknown", "error"])
    assert report.rows()[5].attempts == 3 and report.rows()[5].error is None
    for a, b in zip(report.rows(), run(None).rows(), strict=True):
        assert (a.outcome, a.stage) == (b.outcome, b.stage)


def record(outcome: ExampleOutcome, **values: Any) -> ExampleRecord:
    return ExampleRecord(ExampleRow(3, 1, outcome, seconds=2.0, **values))


def test_an_answer_is_replaced_by_a_better_one_alone() -> None:
    old = record(
        ExampleOutcome.UNKNOWN, margins=(-1.0, 2.0), margin=-1.0, attack_margin=0.5, reason=Reason.BUDGET,
        spent=(("dual", 2.0),),
    ).example  # fmt: skip
    unknown = record(
        ExampleOutcome.UNKNOWN, margins=(-0.5, 1.0), margin=-0.5, attack_margin=0.7, reason=Reason.BOUNDS,
        spent=(("dual", 1.0), ("branch", 1.0)), session=1,
    )  # fmt: skip
    both = joined(old, unknown).example
    assert (both.margins, both.margin, both.attack_margin, both.reason) == ((-0.5, 2.0), -0.5, 0.5, Reason.BOUNDS)
    assert (both.seconds, both.spent) == (4.0, (("dual", 3.0), ("branch", 1.0)))
    assert (both.attempts, both.session) == (2, 1)
    error = joined(old, record(ExampleOutcome.ERROR, error="MemoryError: x", session=1)).example
    assert error == replace(old, seconds=4.0, attempts=2, session=1)
    proved = record(ExampleOutcome.VERIFIED, margins=(0.1, 0.2), margin=0.1, trust=Trust.CHECKED, stage="branch")
    assert joined(old, proved).example.margins == (0.1, 0.2)
    point = torch.zeros(12)
    broken = joined(old, replace(record(ExampleOutcome.FALSIFIED, attack_margin=-0.1), counterexample=point))
    assert broken.counterexample is point and broken.example.attack_margin == -0.1
    failed = record(ExampleOutcome.ERROR, error="ValueError: y").example
    assert joined(failed, unknown).example.outcome is ExampleOutcome.UNKNOWN


@pytest.mark.parametrize("retry", ["verified", "unknown,falsified", "", [None]])
def test_what_can_not_be_tried_again(tmp_path: Path, retry: Any) -> None:
    with pytest.raises(InputError, match=r'retry must be "unknown", "error"'):
        run(tmp_path / "run.sqlite", retry=retry)
    with pytest.raises(InputError, match="retry= needs store="):
        run(None, retry="unknown")


def test_stores_of_older_releases_are_read_and_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    report = run(path)
    with sqlite3.connect(path) as connection:  # as schema version 1 had it
        for column in ("spent", "attempts", "session"):
            connection.execute(f"ALTER TABLE examples DROP COLUMN {column}")
        connection.execute("DROP TABLE data")
        connection.execute("CREATE TABLE stages (position INTEGER PRIMARY KEY, name, decided, attempted, seconds)")
        connection.execute("INSERT INTO stages VALUES (1, 'clean', 2, 24, 0.5), (2, 'dual', 20, 22, 1.5)")
        connection.execute("CREATE TABLE batches (first INTEGER PRIMARY KEY, count, seconds)")
        connection.execute("INSERT INTO batches VALUES (0, 8, 1.5), (8, 16, 2.5)")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    old = Report.open(path)
    assert old.complete and [e.outcome for e in old.rows()] == [e.outcome for e in report.rows()]
    summary = old.summary()
    assert summary["seconds"] == 4.0 and summary["stages"]["dual"]["attempted"] == 22
    for again in ("", "unknown"):
        with pytest.raises(StoreError, match=r"older release \(schema version 1\): it can be read .* another path"):
            run(path, retry=again or ())
    with Store.open(path) as store:
        assert len(store.snapshot().examples) == EXAMPLES
