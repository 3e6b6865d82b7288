"""Sweeps over radii: what one radius decides counts at others, by membership and nestedness alone."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_mlp
from helpers.reports import assert_equal
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from properties import Perturbation, Specification
from properties.box import LinfBall
from verifier import Reason, Verifier, certify
from verifier.certification import ExampleOutcome, ExampleRow, Interrupted, Report
from verifier.certification.certificates import missing
from verifier.certification.curve import Sweep
from verifier.certification.dataset import dataset
from verifier.certification.expected import Expected
from verifier.certification.progress import Tally
from verifier.certification.sharing import shared
from verifier.certification.sweep import bisecting
from verifier.checker.document import Document
from verifier.commands.app import app
from verifier.errors import InputError, InternalError, StoreError
from verifier.report import html_report
from verifier.result import Result as Found

RADII = (0.01, 0.05, 0.1, 0.2)
STAGES = ["clean", "dual", "attack"]
COUNT = 20


@pytest.fixture(scope="module")
def data() -> tuple[nn.Module, Tensor, Tensor]:
    model = small_mlp()
    return model, *labelled(model, (12,), COUNT)


def swept(data: tuple[nn.Module, Tensor, Tensor], **options: Any) -> Sweep:
    model, images, labels = data
    given: dict[str, Any] = {"eps": RADII, "stages": STAGES, "progress": False, "batch_size": 16, **options}
    return certify(model, images, labels, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sweep, with its stores in `sweep` and its certificates in `proofs`."""
    return tmp_path_factory.mktemp("swept")


@pytest.fixture(scope="module")
def sweep(data: tuple[nn.Module, Tensor, Tensor], folder: Path) -> Sweep:
    eps = torch.tensor(RADII[::-1], dtype=torch.float64)
    return swept(data, eps=eps, store=folder / "sweep", certificates=folder / "proofs")


def decided(rows: tuple[ExampleRow, ...]) -> list[ExampleOutcome]:
    return [row.outcome for row in rows]


def test_verdicts_are_those_of_single_runs_with_less_work(data: tuple[nn.Module, Tensor, Tensor], sweep: Sweep) -> None:
    model, images, labels = data
    assert sweep.eps == RADII and sweep.complete and len(sweep) == len(RADII)
    for eps, report in list(zip(sweep.eps, sweep, strict=True))[1:]:
        alone = certify(model, images, labels, eps, stages=STAGES, progress=False, batch_size=16)
        for row, own in zip(report.rows(), alone.rows(), strict=True):
            assert (row.index, row.label, row.prediction) == (own.index, own.label, own.prediction)
            # a proof or a counterexample at another radius may decide what this radius alone leaves open
            assert row.outcome is own.outcome or own.outcome is ExampleOutcome.UNKNOWN
    work = sum(not shared(row) for report in sweep for row in report.rows())
    assert {row.outcome for report in sweep for row in report.rows()} >= set(ExampleOutcome) - {ExampleOutcome.ERROR}
    assert work < 0.7 * len(RADII) * COUNT


def test_rows_say_where_they_are_from_and_carry_its_evidence(
    data: tuple[nn.Module, Tensor, Tensor], sweep: Sweep
) -> None:
    _, images, _ = data
    sources = {f"{eps:g}": report for eps, report in zip(sweep.eps, sweep, strict=True)}
    seen = set()
    for eps, report in zip(sweep.eps, sweep, strict=True):
        for row in filter(shared, report.rows()):
            other, _, stage = str(row.stage).removeprefix("eps ").partition(": ")
            source = sources[other].rows()[row.index]
            assert source.stage == stage and source.outcome is row.outcome
            assert (row.seconds, row.spent, row.attempts) == (0, (), 1)
            seen.add((row.outcome, float(other) > eps))
            if row.outcome is ExampleOutcome.VERIFIED:
                assert float(other) > eps and row.trust is source.trust and row.margins == source.margins
                continue
            point = report.counterexample(row.index)
            assert point is not None and torch.equal(point, sources[other].counterexample(row.index))
            assert LinfBall(images[row.index : row.index + 1], eps).contains(point.unsqueeze(0)).all()
            if float(other) < eps:  # bounds of a smaller set say nothing of a larger one
                assert row.margin == -math.inf
            # and the worst point of a larger one need not lie in a smaller
            assert row.attack_margin == (source.attack_margin if float(other) < eps else None)
    assert {(ExampleOutcome.VERIFIED, True), (ExampleOutcome.FALSIFIED, False)} <= seen


def test_curve_brackets_and_exports(sweep: Sweep, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = sweep.curve()
    assert [point["eps"] for point in curve] == list(RADII)
    for key in ("verified_accuracy", "attacked_accuracy"):
        shares = [point[key] for point in curve]
        assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]
    for bracket in sweep.brackets():
        outcomes = [report.rows()[bracket.index].outcome for report in sweep]
        proved = [e for e, o in zip(RADII, outcomes, strict=True) if o is ExampleOutcome.VERIFIED]
        broken = [e for e, o in zip(RADII, outcomes, strict=True) if o is ExampleOutcome.FALSIFIED]
        assert bracket.proved == max(proved, default=None) and bracket.broken == min(broken, default=None)
        assert max(proved, default=0) < min(broken, default=math.inf)
    again = Sweep.open(folder / "sweep")
    assert again.curve() == curve and again.at(0.05).rows() == sweep[1].rows()
    with pytest.raises(InputError, match=r"no eps 0.3; it has 0.01, 0.05"):
        again.at(0.3)
    sweep.to_csv(tmp_path / "curve.csv")
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 1 + len(RADII)
    latex = sweep.to_latex()
    assert latex.count(r"\\") == 1 + len(RADII) and rf"{100 * curve[0]['verified_accuracy']:.1f}\,\%" in latex
    sweep.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_sweep_goes_on_and_radii_can_be_added(
    data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path
) -> None:
    expected, radii = swept(data, eps=[0.05, 0.1, 0.2]), 0

    def listen(tally: Tally) -> None:
        nonlocal radii
        radii += tally.done == COUNT
        if radii and tally.done < COUNT:
            raise KeyboardInterrupt

    folder = tmp_path / "sweep"
    with pytest.raises(Interrupted, match=r"eps 0.05; 1 of 3 radii are done"):
        swept(data, eps=[0.05, 0.1, 0.2], store=folder, progress=listen)
    with pytest.raises(StoreError, match="exists already"):
        swept(data, eps=[0.05, 0.1, 0.2], store=folder)
    resumed = swept(data, eps=[0.05, 0.1, 0.2], store=folder, resume=True)
    assert [decided(r.rows()) for r in resumed] == [decided(r.rows()) for r in expected]
    added = swept(data, eps=[0.07], store=folder, resume=True)
    assert sum(map(shared, added[0].rows())) > COUNT / 2
    assert Sweep.open(folder).eps == (0.05, 0.07, 0.1, 0.2)


def test_stores_of_other_questions_are_not_taken_over(data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    model, images, labels = data
    folder = tmp_path / "sweep"
    folder.mkdir()
    others: dict[str, dict[str, Any]] = {
        "another threat": {"threat": "l2"},
        "another range": {"clip": (-9, 9)},
        "another model": {"model": nn.Sequential(nn.Linear(12, 4)).eval()},
        "other labels": {"labels": (labels + 1) % 4},
        "other images": {"images": images * 0.999},
        "another question": {"question": "top_k:2"},
        "other arithmetic": {"semantics": "float32"},
    }
    for number, changes in enumerate(others.values()):
        eps = round(0.02 + number / 100, 2)
        given: dict[str, Any] = {"model": model, "images": images, "labels": labels, "eps": eps, **changes}
        report = certify(**given, store=folder / f"eps-{eps}.sqlite", stages=STAGES[:2], progress=False)
        assert (ExampleOutcome.VERIFIED in decided(report.rows())) == (given["labels"] is labels)
    sweep = swept(data, eps=[0.01], store=folder, resume=True)
    assert [row.stage for row in sweep[0].rows() if shared(row)] == []
    with pytest.raises(StoreError, match=r"are no sweep:\n  "):
        Sweep.open(folder)


def test_examples_from_elsewhere_in_the_data_are_numbered_as_they_are(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = data
    some = (model, images[:6], labels[:6])
    own, others = swept(some, eps=[0.05, 0.2]), swept(some, eps=[0.05, 0.2], first_index=50)
    for report, other in zip(own, others, strict=True):
        assert [row.index for row in other.rows()] == list(range(50, 56))
        for a, b in zip(report.rows(), other.rows(), strict=True):
            assert (a.outcome, a.stage, a.margins) == (b.outcome, b.stage, b.margins)
    assert any(shared(row) for report in others for row in report.rows())


def test_only_nested_sets_hand_proofs_down(
    data: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinfBall, "nested", False)
    rows = [row for report in swept(data, eps=[0.05, 0.1]) for row in report.rows() if shared(row)]
    assert rows and {row.outcome for row in rows} == {ExampleOutcome.FALSIFIED}
    assert Perturbation(0.1, "linf+l2").nested is False


def test_a_hull_of_a_small_set_is_not_taken_for_part_of_a_larger_one() -> None:
    """Around a float64 input between two float32 numbers it is the two; a larger set may hold but one of them."""
    between = torch.tensor([[0.1 + 2.0**-33, 0.25]], dtype=torch.float64)
    small, large = (LinfBall(between, eps) for eps in (0.0, 2e-9))
    assert large.representable(torch.float32) is large
    below = small.representable(torch.float32).box()[0]
    assert not large.contains(below).any() and small.representable(torch.float32).contains(below).all()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    sweep = certify(model, between, model(between.float()).argmax(1), [0.0, 2e-9], progress=False)
    assert [decided(report.rows()) for report in sweep] == [[ExampleOutcome.VERIFIED]] * 2
    assert not any(shared(report.rows()[0]) for report in sweep)


@pytest.mark.parametrize("trust", ["checked", "solver", "probabilistic"])
def test_a_counterexample_in_a_set_that_is_proved(
    data: tuple[nn.Module, Tensor, Tensor], two_radii: Path, tmp_path: Path, trust: str
) -> None:
    """It is an internal error where the proof is more than likely, and counts where it is not."""
    folder = tmp_path / "sweep"
    shutil.copytree(two_radii, folder)
    index = next(
        row.index for row in Report.open(folder / "eps-0.1.sqlite").rows() if row.outcome is ExampleOutcome.FALSIFIED
    )
    with sqlite3.connect(folder / "eps-0.4.sqlite") as connection:
        change = "UPDATE examples SET verdict = 'verified', trust = ?, stage = 'dual' WHERE idx = ?"
        connection.execute(change, (trust, index))
    connection.close()
    if trust == "probabilistic":
        row = swept(data, eps=[0.2], store=folder, resume=True)[0].rows()[index]
        assert row.outcome is ExampleOutcome.FALSIFIED and shared(row)
        return
    with pytest.raises(InternalError, match=rf"example {index} is proved at a larger radius"):
        swept(data, eps=[0.2], store=folder, resume=True)


@pytest.fixture(scope="module")
def two_radii(data: tuple[nn.Module, Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "sweep"
    swept(data, eps=[0.1, 0.4], store=folder)
    return folder


def test_what_is_taken_over_has_the_larger_radius_s_certificate(sweep: Sweep, folder: Path) -> None:
    for eps, report in zip(sweep.eps, sweep, strict=True):
        own = folder / "proofs" / f"eps-{eps!r}"
        for row in report.rows():
            if row.outcome is ExampleOutcome.VERIFIED:
                file = own / f"{row.index:06d}.cert"
                assert file.exists() and not missing(own)
                if shared(row):
                    other = str(row.stage).removeprefix("eps ").partition(":")[0]
                    there = folder / "proofs" / f"eps-{float(other)!r}" / file.name
                    assert there.read_bytes() == file.read_bytes()


def test_the_folders_of_a_sweep_are_checked_as_one(sweep: Sweep, folder: Path, tmp_path: Path) -> None:
    proofs, stores = tmp_path / "proofs", str(folder / "sweep")
    shutil.copytree(folder / "proofs", proofs)
    given = ["check", str(proofs), "--strict", "--quiet", "--jobs", "1"]
    whole = call(*given, "--store", stores)
    count = sum(row.outcome is ExampleOutcome.VERIFIED for report in sweep for row in report.rows())
    assert whole.exit_code == 0 and f"{count} of {count} certificates are valid" in whole.stdout, whole.output
    page = tmp_path / "sweep.html"
    html_report([folder / "sweep" / f"eps-{eps!r}.sqlite" for eps in sweep.eps], page, certificates=proofs, jobs=1)
    for report in sweep:
        own = sum(row.outcome is ExampleOutcome.VERIFIED for row in report.rows())
        assert f"{own} of the {own} proofs have a valid certificate" in page.read_text()
    first, second, *_ = sorted((proofs / "eps-0.01").glob("*.cert"))
    shutil.copy(first, second.with_name("copy"))
    second.unlink()
    (proofs / "eps-0.01" / "copy").rename(second)  # under the name of another example
    first.unlink()
    assert call(*given).exit_code == 0  # a folder cannot say what it had
    lacking = call(*given, "--store", stores)
    assert lacking.exit_code == 3 and "2 proofs of the store have no certificate here" in lacking.stderr
    assert f"{first.stem}.missing" in lacking.stderr and f"2 of {count + 1} are not decided" in lacking.stderr
    assert call(*given, "--store", stores, "--store", stores).exit_code == 2


@pytest.mark.parametrize("threat", ["linf", "l2", "l1", "linf+0.5*l2", "brightness", "bias-field", "wasserstein"])
def test_a_claim_about_a_larger_set_is_one_about_the_smaller(threat: str) -> None:
    images, labels = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(1).long()

    def why(asked: float, claimed: float, by: float = 0.0) -> str:
        records = Perturbation(claimed, threat, (0, 1)).around((images + by).clamp(0, 1)).records()
        arrays = {f"{k} {name}": array for k, r in enumerate(records) for name, array in r.arrays.items()}
        sets = [{"kind": r.kind, **r.options, **{n: f"{k} {n}" for n in r.arrays}} for k, r in enumerate(records)]
        head = {"specification": {"kind": "robustness", "label": 0}, "parts": [{"set": one} for one in sets]}
        document = SimpleNamespace(head=head, arrays=arrays)
        expected = Expected(dataset(images, labels), Perturbation(asked, threat, (0, 1)))
        return expected.contradiction(cast(Document, document), 0)

    assert why(0.02, 0.05) == why(0.05, 0.05) == ""
    assert why(0.05, 0.02) and why(0.05, 0.05 * (1 - 1e-9)) and why(0.02, 0.05, by=1e-3)


def test_bisecting_names_every_radius_once() -> None:
    for count in range(9):
        assert sorted(bisecting(range(count))) == list(range(count))
    assert list(bisecting([1, 2, 3, 4, 5, 6, 7])) == [4, 2, 6, 1, 3, 5, 7]


def test_the_command_sweeps_draws_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "sweptnet.py").write_text("from helpers.models import small_mlp as net\n")
    images, labels = labelled(small_mlp(), (12,), 12)
    np.savez("test.npz", images=images.numpy(), labels=labels.numpy())
    given = ["--model", "sweptnet:net", "--data", "test.npz", "--out", "sweep", "--stages", "clean,dual,attack"]
    made = call("certify", *given, "--eps", "0.05,1/10,0.2", "--plot", "curve.png", "--certificates", "proofs")
    assert made.exit_code == 0, made.stderr
    assert "eps 0.1 (1 of 3 radii)" in made.stderr and (tmp_path / "curve.png").stat().st_size > 5000
    assert sorted(p.name for p in (tmp_path / "sweep").iterdir()) == [f"eps-{e}.sqlite" for e in (0.05, 0.1, 0.2)]
    shown = call("show", "sweep", "--csv", "curve.csv", "--json", "curve.json")
    assert shown.exit_code == 0 and shown.stdout == made.stdout
    document = json.loads((tmp_path / "curve.json").read_text())
    assert [point["eps"] for point in document["curve"]] == [0.05, 0.1, 0.2] and len(document["brackets"]) == 12
    assert call("certify", *given, "--eps", "0.05,0.1", "--resume", "--quiet").stderr == ""
    one = call("show", "sweep/eps-0.1.sqlite", "--failures")
    assert one.exit_code == 0 and "verified accuracy" in one.stdout
    for flags, message in (
        (("--eps", "0.05,0.1"), "continue that sweep with resume=True (--resume)"),
        (("--eps", "0.05,,0.1"), "'' is not a number, nor a fraction"),
        (("--eps", "0.3,0.3"), "eps has 0.3 twice"),
        (("--eps", "0.3", "--plot", "b.png"), "--plot draws accuracies over several radii"),
        (("--eps", "0.3,0.4", "--plot", "no/b.png"), "the directory of no/b.png does not exist"),
        (("--eps", "0.3,0.4", "--out", "test.npz"), "test.npz is a file: a sweep over several radii has a folder"),
    ):
        refused = call("certify", *(given if "--out" not in flags else [*given[:4], *given[6:]]), *flags)
        assert refused.exit_code == 2 and message in refused.stderr, refused.stderr
    assert "holds no sweep" in call("show", "proofs").stderr
    assert "name its store" in call("show", "sweep", "--failures").stderr


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_radius_left_open_is_settled_by_those_after_it(
    data: tuple[nn.Module, Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """The middle radius, the first, decides nothing at all: time is up. Then the others decide it."""
    run, budgets = Verifier.run, []

    def late(self: Verifier, inputs: LinfBall, spec: Specification, *limits: Any) -> Found:
        middle = float(inputs.eps[0]) == 0.05
        budgets.append(middle)
        return run(self, inputs, spec, 1e-9, 1e-9) if middle else run(self, inputs, spec, *limits)

    monkeypatch.setattr(Verifier, "run", late)
    store = tmp_path / "sweep" if kept else None
    sweep = swept(data, eps=[0.01, 0.05, 0.1], store=store)
    assert budgets.count(True) and not any(map(shared, sweep[0].rows()))
    for low, row, high in zip(*(report.rows() for report in sweep), strict=True):
        if high.outcome is ExampleOutcome.VERIFIED or low.outcome is ExampleOutcome.FALSIFIED:
            assert row.outcome is (high if high.outcome is ExampleOutcome.VERIFIED else low).outcome and shared(row)
            broken = sweep[1].counterexample(row.index) is not None
            assert row.reason is None and broken is (row.outcome is ExampleOutcome.FALSIFIED)
        else:
            assert row.outcome is ExampleOutcome.UNKNOWN and row.reason is Reason.BUDGET
    assert {e.outcome for e in sweep[1].rows()} == set(ExampleOutcome) - {ExampleOutcome.ERROR}
    if store is not None:
        assert Sweep.open(store)[1].rows() == sweep[1].rows()


class Counting(nn.Sequential):
    """Counts how often it is traced, and how often it is sent."""

    traced, sent = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.traced += torch.compiler.is_exporting()
        return super().forward(x)

    def __getstate__(self) -> dict[str, Any]:
        Counting.sent += 1
        return self.__dict__.copy()


def test_the_model_is_made_ready_once(data: tuple[nn.Module, Tensor, Tensor]) -> None:
    _, images, labels = data
    traced = []
    for eps in (RADII[:1], RADII):
        Counting.traced = 0
        certify(Counting(*small_mlp()).eval(), images, labels, eps, stages=["clean", "dual"], progress=False)
        traced.append(Counting.traced)
    assert traced[0] == traced[1] > 0


@pytest.mark.slow
def test_workers_are_those_of_all_radii(
    data: tuple[nn.Module, Tensor, Tensor], sweep: Sweep, folder: Path, tmp_path: Path
) -> None:
    (_, images, labels), proofs = data, folder / "proofs"
    sent = []
    for eps, name in ((RADII[:1], "one"), (RADII, "all")):  # it is copied where it is made ready, too
        Counting.sent, counted = 0, (Counting(*small_mlp()).eval(), images, labels)
        found = swept(counted, eps=eps, jobs=2, store=tmp_path / name, certificates=tmp_path / f"proofs {name}")
        sent.append(Counting.sent)
    assert sent[0] == sent[1] > 0 and found.complete
    for report, expected in zip(found, sweep, strict=True):
        assert_equal(report, expected)
    names = [
        sorted(str(p.relative_to(place)) for p in place.rglob("*.cert")) for place in (proofs, tmp_path / "proofs all")
    ]
    assert names[0] == names[1]
    command = ["certify", "--eps", "0.01,0.05", "--jobs", "2", "--stages", "clean,dual,attack", "--quiet"]
    torch.export.save(torch.export.export(small_mlp(), (images[:1],)), tmp_path / "net.pt2")
    np.savez(tmp_path / "data.npz", images=images.numpy(), labels=labels.numpy())
    given = ["--model", str(tmp_path / "net.pt2"), "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, *given])
    assert done.exit_code == 0, done.output
    assert decided(Sweep.open(tmp_path / "out").at(0.05).rows()) == decided(sweep.at(0.05).rows())
