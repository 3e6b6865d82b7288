"""`certify`: rows, accuracies, bad input, errors of single examples, interruption and resumption."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_image_mlp, small_mlp
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier.api import DEFAULT_STAGES, Verifier
from verifier.certification import ExampleOutcome, ExampleRow, Interrupted, Report, Store, certify
from verifier.certification.progress import Tally
from verifier.device import checked_device
from verifier.errors import InputError, ModelError, StoreError
from verifier.progress import ProgressDisplay
from verifier.result import Result

EPS = 0.05


@pytest.fixture
def data() -> tuple[nn.Module, Tensor, Tensor]:
    model = small_mlp()
    return model, *labelled(model, (12,), 50)


def run(data: tuple[nn.Module, Tensor, Tensor], **options: Any) -> Report:
    """Stages that are named stay in their order, whatever they cost: then runs can be compared."""
    model, images, labels = data
    fixed = {"eps": EPS, "stages": DEFAULT_STAGES, "batch_size": 16, "progress": False}
    return certify(model, images, labels, **{**fixed, **options})


def without_times(rows: tuple[ExampleRow, ...]) -> list[tuple[object, ...]]:
    return [(e.index, e.label, e.prediction, e.outcome, e.stage, e.trust, e.reason, e.error) for e in rows]


def margins(e: ExampleRow) -> list[float]:
    return list(e.margins or ())


def assert_same(report: Report, expected: Report) -> None:
    assert without_times(report.rows()) == without_times(expected.rows())
    for a, b in zip(report.rows(), expected.rows(), strict=True):
        np.testing.assert_allclose(margins(a), margins(b), atol=1e-5)


def test_rows_are_those_of_the_verifier(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = data
    rows = run(data).rows()
    v = Verifier(model, images[:1])
    parts = [slice(at, at + 16) for at in range(0, 50, 16)]
    results = [v.run(LinfBall(images[p], EPS), robustness(labels[p], v.classes)) for p in parts]
    assert [e.index for e in rows] == list(range(50))
    assert [e.label for e in rows] == labels.tolist()
    assert [e.outcome.value for e in rows] == [verdict.value for r in results for verdict in r.verdict]
    np.testing.assert_allclose([margins(e) for e in rows], torch.cat([r.margins for r in results]).numpy(), atol=1e-5)
    assert all(e.margin == min(e.margins or ()) for e in rows)


def test_summary_counts_what_the_rows_say(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    report = run(data)
    s, rows = report.summary(), report.rows()
    assert s["examples"] == 50 and report.complete
    assert s["clean_accuracy"] == pytest.approx(0.9)
    assert s["verified_accuracy"] == sum(e.outcome is ExampleOutcome.VERIFIED for e in rows) / 50
    assert s["robust_error"] == 1 - s["verified_accuracy"]
    assert s["verified_accuracy"] <= s["attacked_accuracy"] <= s["clean_accuracy"]
    assert s["undecided"] == sum(e.outcome is ExampleOutcome.UNKNOWN for e in rows) and s["errors"] == 0
    decided = sum(stage["decided"] for stage in s["stages"].values())
    assert decided == sum(e.outcome in (ExampleOutcome.VERIFIED, ExampleOutcome.FALSIFIED) for e in rows)
    assert s["seconds"] > 0 and s["images_per_second"] == pytest.approx(50 / s["seconds"])


def test_the_sample_has_more_than_one_outcome(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The other tests mean little when every row says the same."""
    assert {e.outcome for e in run(data).rows()} >= {ExampleOutcome.VERIFIED, ExampleOutcome.FALSIFIED}


@pytest.mark.parametrize("in_memory", [True, False])
def test_counterexamples_are_kept_with_their_dtype(
    data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path, in_memory: bool
) -> None:
    model, images, labels = data
    report = run(data, store=None if in_memory else tmp_path / "run.sqlite")
    broken = [e.index for e in report.rows() if e.outcome is ExampleOutcome.FALSIFIED]
    for index in broken:
        x = report.counterexample(index)
        assert x is not None and x.shape == images[index].shape and x.is_floating_point()
        assert (x.double() - images[index].double()).abs().max() <= EPS
        assert model.double()(x.double().unsqueeze(0)).argmax() != labels[index]
        model.float()
    kept = next(e.index for e in report.rows() if e.outcome is ExampleOutcome.VERIFIED)
    assert report.counterexample(kept) is None and report.counterexample(10**6) is None


def test_numpy_float64_and_lists_of_labels_are_taken(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = data
    report = certify(model, images.double().numpy(), labels.tolist(), eps=EPS, progress=False)
    assert [e.outcome for e in report.rows()] == [e.outcome for e in run(data).rows()]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "negative eps": ({"eps": -0.1}, "eps"),
    "NaN eps": ({"eps": math.nan}, "eps"),
    "infinite eps": ({"eps": math.inf}, "eps"),
    "eps of no numbers": ({"eps": []}, "eps has no radius"),
    "eps of words": ({"eps": ["small", 0.2]}, "eps must be a number"),
    "an eps per example of several": ({"eps": [0.1, [0.1, 0.2]]}, "each eps of a sweep is one number"),
    "an eps twice": ({"eps": [0.1, 0.2, 0.1]}, "eps has 0.1 twice"),
    "a negative eps of several": ({"eps": [0.1, -0.2]}, "eps must be a finite number >= 0, got -0.2"),
    "several eps and too large a label": ({"eps": [0.1, 0.2], "labels": [4] * 50}, "label 4 at index 0"),
    "clip upside down": ({"clip": (1, 0)}, "clip"),
    "clip of one": ({"clip": (1,)}, "clip"),
    "clip in other units": ({"clip": (5.0, 6.0)}, "no image lies in the valid range"),
    "no images": ({"images": torch.zeros(0, 12), "labels": []}, "nothing to certify"),
    "lengths differ": ({"labels": [0, 1]}, "50 images but 2 labels"),
    "label too large": ({"labels": [4] * 50}, "label 4 at index 0"),
    "label negative": ({"labels": [0] * 49 + [-1]}, "label -1 at index 49"),
    "labels of floats": ({"labels": np.zeros(50)}, "labels must be integers"),
    "labels one-hot": ({"labels": np.zeros((50, 4), dtype=int)}, "labels must be"),
    "images of bytes": ({"images": np.zeros((50, 12), dtype=np.uint8)}, "scale them"),
    "images of strings": ({"images": np.full((50, 12), "x")}, "must be numbers"),
    "images flat": ({"images": torch.zeros(50)}, "images must be"),
    "wrong image shape": ({"images": torch.zeros(50, 11)}, "11"),
    "batch of none": ({"batch_size": 0}, "batch_size"),
    "no time": ({"budget": 0.0}, "budget"),
    "unknown device": ({"device": "abacus"}, "abacus"),
    "device of another kind": ({"device": "meta"}, "cannot be computed on device 'meta'"),
    "device that is not there": ({"device": "cuda:99"}, "no CUDA device here|no device cuda:99"),
    "not a model": ({"model": "net.pt2"}, "of type str: pass a torch.nn.Module"),
    "resume nothing": ({"resume": True}, "store="),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_before_a_store_is_made(
    data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path, name: str
) -> None:
    changes, message = BAD[name]
    model, images, labels = data
    options = {
        "model": model,
        "images": images,
        "labels": labels,
        "eps": EPS,
        "store": tmp_path / "run.sqlite",
        "progress": False,
    }
    if name == "resume nothing":
        options["store"] = None
    with pytest.raises((InputError, ModelError), match=message):
        certify(**{**options, **changes})
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_training_mode_is_refused(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    data[0].train()
    with pytest.raises(ModelError, match="training"):
        run(data)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_weights_are_refused(data: tuple[nn.Module, Tensor, Tensor], value: float) -> None:
    with torch.no_grad():
        next(data[0].parameters())[0, 0] = value
    with pytest.raises(ModelError):
        run(data)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bad_pixel_becomes_an_error_row(data: tuple[nn.Module, Tensor, Tensor], value: float) -> None:
    model, images, labels = data
    expected = run(data).rows()
    bad = images.clone()
    for index in (0, 21, 22, 49):
        bad[index, 3] = value
    report = run((model, bad, labels))
    rows = report.rows()
    assert [e.index for e in rows if e.outcome is ExampleOutcome.ERROR] == [0, 21, 22, 49]
    assert "NaN or infinite" in (rows[21].error or "") and "Traceback" in (rows[21].traceback or "")
    assert report.summary()["errors"] == 4 and report.complete
    for index in set(range(50)) - {0, 21, 22, 49}:
        assert rows[index].outcome is expected[index].outcome
        assert rows[index].margins is not None and rows[index].stage == expected[index].stage


def test_a_pixel_outside_the_valid_range_becomes_an_error_row(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    data[1][7, 0] = 1.5
    rows = run(data, clip=(0, 1)).rows()
    assert [e.index for e in rows if e.outcome is ExampleOutcome.ERROR] == [7]
    assert "outside the valid range" in (rows[7].error or "")


def test_an_example_that_raises_in_a_stage_is_found_by_halving(
    data: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit, original = data[1][37].double(), Verifier.run
    budgets: list[tuple[float, int]] = []

    def raising(self: Verifier, region: LinfBall, spec: Any, budget: float, *rest: Any) -> Result:
        budgets.append((budget, region.batch))
        if bool((region.center() == culprit).flatten(1).all(1).any()):
            raise RuntimeError("boom\nand more")
        return original(self, region, spec, budget, *rest)

    monkeypatch.setattr(Verifier, "run", raising)
    rows = run(data, budget=160.0).rows()
    assert [e.index for e in rows if e.outcome is ExampleOutcome.ERROR] == [37]
    assert rows[37].error == "RuntimeError: boom and more" and rows[37].prediction is None
    # a part of a batch gets its share of the batch's time; the last batch, of 2, has a whole batch's
    assert all(math.isclose(budget, 10.0 * size) for budget, size in budgets[:-1]) and budgets[-1] == (160.0, 2)


def interrupt_after(examples: int) -> Any:
    """A progress listener that raises what Ctrl-C raises, when so many examples are done."""

    def listen(tally: Tally) -> None:
        if tally.done >= examples:
            raise KeyboardInterrupt

    return listen


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_resume(
    data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "run.sqlite"
    with pytest.raises(Interrupted, match=r"35 of 50 examples .*resume"):
        run(data, store=path, progress=interrupt_after(35))
    partial = Report.open(path)
    assert len(partial.rows()) == 35 and not partial.complete
    assert sorted(tmp_path.iterdir()) == [path]
    tallies: list[Tally] = []
    report = run(data, store=path, resume=True, progress=tallies.append)
    assert sorted({t.done for t in tallies}) == list(range(35, 51)) and tallies[0].done == 35
    assert {t.stage for t in tallies} >= {"clean", "interval", "dual"}
    assert_same(report, run(data))
    stages = {name: stage["decided"] for name, stage in report.summary()["stages"].items()}
    assert stages == {name: stage["decided"] for name, stage in run(data).summary()["stages"].items()}
    assert len(report.meta["sessions"]) == 2


def test_ctrl_c_without_a_store_says_that_nothing_is_kept(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    with pytest.raises(Interrupted, match="nothing is kept"):
        run(data, progress=interrupt_after(1))


def test_ctrl_c_inside_a_batch_is_not_an_error_row(
    data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Verifier, *_: Any, **__: Any) -> Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(Verifier, "run", interrupted)
    with pytest.raises(Interrupted, match="0 of 50"):
        run(data, store=tmp_path / "run.sqlite")
    assert Report.open(tmp_path / "run.sqlite").rows() == ()


def test_a_finished_run_resumes_to_itself(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    first = run(data, store=tmp_path / "run.sqlite")
    again = run(data, store=tmp_path / "run.sqlite", resume=True)
    assert again.rows() == first.rows() and again.summary() == first.summary()


def test_rows_that_were_lost_are_made_again(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    expected = run(data, store=path)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM examples WHERE idx IN (3, 4, 17, 49)")
    connection.close()
    assert not Report.open(path).complete
    assert_same(run(data, store=path, resume=True), expected)


def test_resume_starts_a_run_where_there_is_none(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    assert run(data, store=tmp_path / "run.sqlite", resume=True).complete


def test_an_existing_store_is_not_overwritten(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    run(data, store=tmp_path / "run.sqlite")
    with pytest.raises(StoreError, match="resume=True"):
        run(data, store=tmp_path / "run.sqlite")


def test_another_model_data_or_setting_does_not_resume(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    model, images, labels = data
    path = tmp_path / "run.sqlite"
    run(data, store=path)
    other = labels.clone()
    other[0] = (other[0] + 1) % 4
    for changed, options, said in (
        ((small_mlp(seed=5), images, labels), {}, "model"),
        ((model, images + 1e-6, labels), {}, "data"),
        ((model, images, other), {}, "data"),
        (data, {"eps": 0.06}, "eps: 0.05 -> 0.06"),
        (data, {"clip": (0, 1)}, r"clip: None -> \[0.0, 1.0\]"),
        (data, {"batch_size": 8}, "batch_size: 16 -> 8"),
        (data, {"budget": 3.0}, "budget: None -> 3.0"),
    ):
        with pytest.raises(StoreError, match=said) as caught:
            run(changed, store=path, resume=True, **options)
        assert str(caught.value).count("->") == 2, "the heading and the one entry that differs"
    assert run(data, store=path, resume=True).complete


def test_a_full_disk_keeps_what_was_committed(
    data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "run.sqlite", Store.write

    def limited(self: Store, records: list[Any], seconds: float, **how: Any) -> None:
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
        self._connection.execute(f"PRAGMA max_page_count = {pages}")
        write(self, [*records, *_bulky(10_000)], seconds, **how)

    with pytest.raises(Interrupted):
        run(data, store=path, progress=interrupt_after(32))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", limited)
        with pytest.raises(StoreError, match="disk is full"):
            run(data, store=path, resume=True)
    assert len(Report.open(path).rows()) == 32
    assert sorted(tmp_path.iterdir()) == [path]
    assert_same(run(data, store=path, resume=True), run(data))


def _bulky(first: int) -> list[Any]:
    from verifier.certification.example import ExampleRecord

    return [ExampleRecord(ExampleRow(first, 0, ExampleOutcome.UNKNOWN), torch.zeros(100_000))]


def test_first_index_numbers_the_rows(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    for resume in (False, True):
        rows = run(data, first_index=1000, store=tmp_path / "run.sqlite", resume=resume).rows()
        assert [e.index for e in rows] == list(range(1000, 1050))


def test_csv_and_json(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    data[1][5, 0] = math.nan
    report = run(data)
    report.to_csv(tmp_path / "run.csv")
    report.to_json(tmp_path / "run.json")
    lines = list(csv.DictReader((tmp_path / "run.csv").open()))
    document = json.loads((tmp_path / "run.json").read_text())
    assert len(lines) == len(document["examples"]) == 50
    assert document["summary"]["errors"] == 1 and document["meta"]["settings"]["eps"] == EPS
    for line, entry, e in zip(lines, document["examples"], report.rows(), strict=True):
        assert line["verdict"] == entry["verdict"] == e.outcome.value
        if e.margins is not None:
            assert tuple(float(line[f"margin_{j}"]) for j in range(4)) == e.margins
            assert tuple(map(float, entry["margins"])) == e.margins
    assert lines[5]["margin"] == "" and entry_error(document, 5).startswith("ValueError: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.csv", "run.json"]


def entry_error(document: dict[str, Any], index: int) -> str:
    return str(document["examples"][index]["error"])


def test_an_export_that_fails_leaves_the_old_file(
    data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.csv").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        run(data).to_csv(tmp_path / "run.csv")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("run.csv", "old")]


def test_an_export_does_not_overwrite_its_store(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    report, before = run(data, store=store), store.read_bytes()
    (tmp_path / "link").symlink_to(store)
    (tmp_path / "hard").hardlink_to(store)
    for name in ("run.sqlite", "run.sqlite-journal", "run.sqlite.lock", "link", "hard"):
        for export in (report.to_csv, Report.open(store).to_json):
            with pytest.raises(StoreError, match="export to another path"):
                export(tmp_path / name)
    assert store.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hard", "link", "run.sqlite"]


def test_the_recorded_stages_name_what_changes_an_answer(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    stages = run(data, stages=["clean", "dual", "dual-adaptive", "attack"]).meta["settings"]["stages"]
    assert stages[:3] == ["clean", "dual(rule=fixed)", "dual-adaptive(rule=adaptive)"]
    assert stages[3].startswith("attack(") and "restarts=" in stages[3] and " object at 0x" not in stages[3]


@pytest.mark.parametrize(("device", "checked"), [(None, None), ("cpu", "cpu"), (torch.device("cpu", 0), "cpu")])
def test_devices_that_are_there(device: Any, checked: str | None) -> None:
    assert checked_device(device) == (None if checked is None else torch.device(checked))


def test_cuda_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert checked_device("cuda:1") == torch.device("cuda:1") and checked_device("cuda") == torch.device("cuda")
    with pytest.raises(InputError, match="the last CUDA device here is cuda:1"):
        checked_device("cuda:2")


def test_the_table_shows_the_accuracies(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(run(data).table())
    text = console.export_text()
    assert "eps 0.05" in text and "90.00 %" in text and "robust error" in text


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_image_mlp()
    images, labels = labelled(model, (1, 3, 4), 40)
    certify(model, images, labels, eps=EPS, batch_size=4)
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[0] == "0/40"
    assert said.err.splitlines()[-1].startswith("40/40  clean 90.0 %  attacked ") and len(said.err.splitlines()) <= 3
    certify(model, images, labels, eps=EPS, progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar() -> None:
    import io

    from rich.console import Console

    screen = io.StringIO()
    with ProgressDisplay[Tally](100, Console(file=screen, force_terminal=True, width=120)) as display:
        display(Tally(100, done=50, clean=49, attacked=45, verified=40))
        display(Tally(100, done=100, clean=98, attacked=90, verified=80, errors=1))
    assert "100/100" in screen.getvalue() and "verified 80.0 %  errors 1" in screen.getvalue()


def test_the_store_is_plain_sqlite(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    run(data, store=tmp_path / "run.sqlite")
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]
    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        counts = dict(connection.execute("SELECT verdict, count(*) FROM examples GROUP BY verdict"))
    assert sum(counts.values()) == 50 and set(counts) <= {o.value for o in ExampleOutcome}
