"""`merge`: stores of one run become one, however the work was shared; what differs is refused by name."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from verifier import merge
from verifier.certification import ExampleOutcome, ExampleRow, RunIdentity, Store
from verifier.certification.example import ExampleRecord
from verifier.errors import InputError, StoreError
from verifier.verdict import Reason, Trust

SETTINGS = {"eps": 0.1, "clip": (0.0, 1.0), "stages": ["interval", "dual(rule=fixed)"], "budget": None}
EXAMPLES = 12
IDENTITY = RunIdentity("m" * 64, SETTINGS, {i: f"d{i}" for i in range(EXAMPLES)})
SPENT = (("interval", 0.25), ("dual", 0.5))


def record(index: int, outcome: ExampleOutcome = ExampleOutcome.VERIFIED, **values: Any) -> ExampleRecord:
    point = torch.full((1, 2), 0.5 + index) if outcome is ExampleOutcome.FALSIFIED else None
    return ExampleRecord(ExampleRow(index, index % 3, outcome, **{"spent": SPENT, **values}), point)


def store(path: Path, records: Sequence[ExampleRecord], identity: RunIdentity = IDENTITY) -> Path:
    with Store.create(path, identity) as opened:
        opened.write(records, 0.5)
    return path


def without_session(rows: Sequence[ExampleRow]) -> list[ExampleRow]:
    return [dataclasses.replace(e, session=0) for e in rows]


def every() -> list[ExampleRecord]:
    kinds = (ExampleOutcome.VERIFIED, ExampleOutcome.FALSIFIED, ExampleOutcome.UNKNOWN, ExampleOutcome.ERROR)
    return [record(i, kinds[i % 4], margin=float(i), seconds=0.1 * i) for i in range(EXAMPLES)]


@pytest.mark.parametrize("shards", [[range(0, 12, 2), range(1, 12, 2)], [range(5), range(7, 12), range(5, 7)]])
def test_the_same_store_however_it_was_shared(tmp_path: Path, shards: list[range]) -> None:
    records = every()
    paths = [store(tmp_path / f"{k}.sqlite", [records[i] for i in own]) for k, own in enumerate(shards)]
    for k, order in enumerate(itertools.permutations(paths)):
        report = merge(order, tmp_path / f"all{k}.sqlite")
        sessions = report.meta["sessions"]
        assert len(sessions) == len(shards) and without_session(report.rows()) == [r.example for r in records]
        assert report.complete and len({e.session for e in report.rows()}) == len(shards)
        for r in records:
            found = report.counterexample(r.example.index)
            assert (found is None) == (r.counterexample is None)
            assert found is None or torch.equal(found, r.counterexample)
        stages = report.summary()["stages"]
        assert list(stages) == ["interval", "dual"] and stages["dual"]["attempted"] == 12
        assert report.summary()["seconds"] == pytest.approx(0.5 * len(shards)) and report.meta["settings"]["eps"] == 0.1
    with Store.resume(tmp_path / "all0.sqlite", IDENTITY) as again:
        assert len(again.snapshot().examples) == 12
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".sqlite"], "no side files are left"


def test_parts_of_parts_are_the_same(tmp_path: Path) -> None:
    records = every()
    a, b, c = (store(tmp_path / f"{k}.sqlite", records[4 * k : 4 * k + 4]) for k in range(3))
    merge([a, b], tmp_path / "ab.sqlite")
    in_steps = merge([tmp_path / "ab.sqlite", c], tmp_path / "abc.sqlite")
    assert in_steps.rows() == merge([c, b, a], tmp_path / "cba.sqlite").rows()
    both = merge([tmp_path / "ab.sqlite", tmp_path / "abc.sqlite", b], tmp_path / "again.sqlite")
    assert both.rows() == in_steps.rows() and both.summary() == in_steps.summary(), "nothing is counted twice"
    assert not merge([a, c], tmp_path / "ac.sqlite").complete


def test_of_two_rows_the_one_that_says_more_is_kept(tmp_path: Path) -> None:
    pairs = [  # worse, better
        (record(0, ExampleOutcome.ERROR, error="ValueError: x"), record(0, ExampleOutcome.UNKNOWN)),
        (record(1, ExampleOutcome.UNKNOWN, reason=Reason.BUDGET), record(1, ExampleOutcome.FALSIFIED, margin=-1.0)),
        (record(2, ExampleOutcome.UNKNOWN, margin=-2.0), record(2, ExampleOutcome.UNKNOWN, margin=-1.0)),
        (record(3, margin=9.0, trust=Trust.SOLVER), record(3, margin=1.0, trust=Trust.CHECKED)),
        (record(4, margin=1.0, trust=Trust.CHECKED), record(4, margin=2.0, trust=Trust.CHECKED)),
        (record(5, ExampleOutcome.ERROR, error="OSError: y"), record(5, margin=1.0, trust=Trust.FLOAT)),
    ]
    a = store(tmp_path / "a.sqlite", [pair[k % 2] for k, pair in enumerate(pairs)])
    b = store(tmp_path / "b.sqlite", [pair[1 - k % 2] for k, pair in enumerate(pairs)])
    for out, order in (("ab", [a, b]), ("ba", [b, a])):
        report = merge(order, tmp_path / f"{out}.sqlite")
        assert without_session(report.rows()) == [better.example for _, better in pairs]
        assert report.counterexample(1) is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "x" * 64}, "model .*m+ -> x+"),
        ({"examples": {7: "x", 11: "y", 12: "z"}}, "data .*: example 7: d7 -> x, and 1 more"),
        ({"settings": {**SETTINGS, "eps": 0.2}}, "eps: 0.1 -> 0.2"),
        ({"settings": {k: v for k, v in SETTINGS.items() if k != "clip"}}, r"clip: .* -> \(absent\)"),
    ],
)
def test_stores_of_different_runs_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    a = store(tmp_path / "a.sqlite", every()[:6])
    b = store(tmp_path / "b.sqlite", every()[11:], dataclasses.replace(IDENTITY, **change))
    with pytest.raises(StoreError, match=rf"(?s)not of one run.*{said}"):
        merge([a, b], tmp_path / "out.sqlite")
    assert {p.name for p in tmp_path.iterdir()} == {"a.sqlite", "b.sqlite"}


def test_all_are_compared_with_each_other(tmp_path: Path) -> None:
    """The first of three has nothing of the example that the others are not of one mind about."""
    about = [{0: "d0"}, {1: "d1"}, {1: "x", 2: "d2"}]
    parts = [
        store(tmp_path / f"{k}.sqlite", [record(min(own))], dataclasses.replace(IDENTITY, examples=own))
        for k, own in enumerate(about)
    ]
    with pytest.raises(StoreError, match=r"not of one run.*\n.*example 1: d1 -> x"):
        merge(parts, tmp_path / "out.sqlite")


def test_no_row_is_lost_where_there_are_many(tmp_path: Path) -> None:
    count = 1100
    identity = dataclasses.replace(IDENTITY, examples={i: f"d{i}" for i in range(count)})
    records = [record(i, ExampleOutcome.UNKNOWN if i % 2 else ExampleOutcome.FALSIFIED) for i in range(count)]
    halves = [store(tmp_path / f"{len(own)}.sqlite", own, identity) for own in (records[:700], records[600:])]
    report = merge(halves, tmp_path / "all.sqlite")
    assert report.complete and without_session(report.rows()) == [r.example for r in records]
    assert all((report.counterexample(i) is None) == bool(i % 2) for i in range(0, count, 51))


@pytest.mark.parametrize("trust", [Trust.CHECKED, Trust.SOLVER])
def test_rows_that_contradict_each_other_are_refused(tmp_path: Path, trust: Trust) -> None:
    a = store(tmp_path / "a.sqlite", [record(0), record(1, stage="dual", trust=trust)])
    b = store(tmp_path / "b.sqlite", [record(1, ExampleOutcome.FALSIFIED, stage="attack")])
    for order in ([a, b], [b, a]):
        with pytest.raises(StoreError, match=r"example 1: .*contradict each other, .*\(stage dual, trust .*wrong"):
            merge(order, tmp_path / "out.sqlite")
    other = ExampleRecord(ExampleRow(0, 2, ExampleOutcome.UNKNOWN))
    with pytest.raises(StoreError, match=r"example 0: .*different labels"):
        merge([a, store(tmp_path / "c.sqlite", [other])], tmp_path / "out.sqlite")
    assert not (tmp_path / "out.sqlite").exists()


def test_a_counterexample_outweighs_what_held_with_a_probability(tmp_path: Path) -> None:
    likely = record(1, stage="dual-probabilistic", trust=Trust.PROBABILISTIC, margin=9.0)
    a = store(tmp_path / "a.sqlite", [likely])
    b = store(tmp_path / "b.sqlite", [record(1, ExampleOutcome.FALSIFIED, stage="attack")])
    for k, order in enumerate(([a, b], [b, a])):
        merged = merge(order, tmp_path / f"{k}.sqlite")
        assert [row.outcome for row in merged.rows()] == [ExampleOutcome.FALSIFIED]
        assert merged.counterexample(1) is not None


def test_what_cannot_be_merged_is_said(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a.sqlite", every()[:6]), store(tmp_path / "b.sqlite", every()[6:])
    with pytest.raises(InputError, match="two stores or more"):
        merge([a], tmp_path / "out.sqlite")
    with pytest.raises(InputError, match="named twice"):
        merge([a, b, tmp_path / "." / "a.sqlite"], tmp_path / "out.sqlite")
    with pytest.raises(StoreError, match="there is no store at"):
        merge([a, tmp_path / "none.sqlite"], tmp_path / "out.sqlite")
    with pytest.raises(StoreError, match="exists already"):
        merge([a, b], a)
    with pytest.raises(StoreError, match="does not exist; create it"):
        merge([a, b], tmp_path / "none" / "out.sqlite")
    (tmp_path / "text.sqlite").write_text("not a database, and longer than that")
    with pytest.raises(StoreError, match="not an SQLite database"):
        merge([a, tmp_path / "text.sqlite"], tmp_path / "out.sqlite")
    with pytest.raises(InputError, match="go together"):
        merge([a, b], tmp_path / "out.sqlite", certificates=[tmp_path])


def test_a_store_in_use_is_merged_as_it_is(tmp_path: Path) -> None:
    a = store(tmp_path / "a.sqlite", every()[:6])
    with Store.create(tmp_path / "b.sqlite", IDENTITY) as running:
        running.write(every()[6:8], 0.1)
        assert len(merge([a, tmp_path / "b.sqlite"], tmp_path / "out.sqlite").rows()) == 8
        running.write(every()[8:], 0.1)
    for k, order in enumerate((["out", "b"], ["b", "out"])):
        report = merge([tmp_path / f"{name}.sqlite" for name in order], tmp_path / f"out{k}.sqlite")
        assert report.complete and report.summary()["seconds"] == pytest.approx(0.7), "its session as it is by now"


def test_stores_about_different_examples_are_about_all_of_them(tmp_path: Path) -> None:
    records = every()
    data = IDENTITY.examples
    halves = [
        dataclasses.replace(IDENTITY, examples={i: data[i] for i in own}) for own in (range(7), range(5, EXAMPLES))
    ]
    a = store(tmp_path / "a.sqlite", records[:5], halves[0])
    b = store(tmp_path / "b.sqlite", records[8:], halves[1])
    report = merge([b, a], tmp_path / "all.sqlite")
    assert len(report.rows()) == 9 and not report.complete
    with Store.resume(tmp_path / "all.sqlite", IDENTITY) as again:
        assert again.data() == data
