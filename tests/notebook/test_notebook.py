"""Answers in a notebook and in a paper: as HTML, data frames, LaTeX, JSON, pickles, and one by one."""

from __future__ import annotations

import json
import pickle
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import verifier
from training.history import History
from verifier.comparison.report import CrossCheck, MarginRows


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


X = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [0.9, 0.0, 0.4]])


@cache
def result() -> verifier.Result:
    return verifier.verify(network(), X, 0.3, label=torch.tensor([0, 1, 2]), stages=["attack", "dual"])


@cache
def report() -> verifier.Report:
    return verifier.certify(network(), X, torch.tensor([0, 1, 2]), 0.3, stages=["attack", "dual"])


class Cells(HTMLParser):
    """The text of every cell of a table, and whether all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def crosscheck(method: str = "<script>") -> CrossCheck:
    rows = MarginRows(0, torch.tensor([0]), torch.tensor([[1, 2]]))
    values = {name: torch.tensor([[0.5, -1.0]], dtype=torch.float64) for name in ("lp", method)}
    return CrossCheck(rows, values, {name: torch.ones(1, 2) for name in values}, (), 0.1)


def history() -> History:
    row = {"rate": 0.1, "seconds": 1.0, "loss": 0.5, "clean": 0.9, "attacked": None, "verified": 0.7, "best": True}
    return History({"method": "<b>wk</b>", "eps": 0.1}, [{"epoch": i + 1, **row} for i in range(30)])


def test_results_are_sequences_of_answers() -> None:
    found = result()
    answers = list(found)
    assert len(answers) == len(found) == 3
    assert [a.verdict for a in answers] == list(found.verdict)
    assert found[-1].index == 2 and found[-1].seconds == float(found.seconds[2])
    for i, answer in enumerate(answers):
        assert torch.equal(answer.margins, found.margins[i]) and answer.margin == float(found.margins[i].min())
        assert answer.counterexample is found.counterexample[i] and answer.certificate is found.certificate[i]
    with pytest.raises(IndexError):
        found[3]


def test_results_are_json() -> None:
    document = json.loads(json.dumps(result().to_dict(), allow_nan=False))
    assert [e["verdict"] for e in document["examples"]] == [v.value for v in result().verdict]
    assert document["examples"][0]["margins"][0] == "inf"
    assert sum(document["summary"].values()) == 3


def test_reports_are_sequences_of_rows_and_survive_pickling(tmp_path: Path) -> None:
    kept = verifier.certify(
        network(), X, torch.tensor([0, 1, 2]), 0.3, stages=["attack", "dual"], store=tmp_path / "run.sqlite"
    )
    for one in (report(), kept):
        again = pickle.loads(pickle.dumps(one))
        assert list(again) == list(one.rows()) and again[1] == one.rows()[1] and len(again) == 3
        assert again.summary() == one.summary()
        for i in range(3):
            before, after = one.counterexample(i), again.counterexample(i)
            assert (before is None) == (after is None) and (before is None or torch.equal(before, after))
    assert any(kept.counterexample(i) is not None for i in range(3))


def test_tables_for_notebooks_are_escaped_and_small() -> None:
    for answer in (result(), result()[0], report(), crosscheck(), history()):
        text = answer._repr_html_()
        cells = Cells(text).cells
        assert cells and "<script" not in text and "<b>" not in text
        assert text.count("<tr>") <= 21 + 1
    assert Cells(result()._repr_html_()).cells.count("verified") == result().summary()["verified"]
    assert "<script>" in Cells(crosscheck()._repr_html_()).cells
    assert "and 10 more" in history()._repr_html_()
    assert "BREAK" not in crosscheck()._repr_html_()


def test_data_frames() -> None:
    pytest.importorskip("pandas")
    frame = result().to_pandas()
    assert list(frame["verdict"]) == [v.value for v in result().verdict]
    assert (frame.loc[frame.verdict == "verified", "margin"] > 0).all()
    rows = report().to_pandas()
    assert list(rows.index) == [0, 1, 2] and list(rows["verdict"]) == [r.outcome.value for r in report()]
    assert list(history().to_pandas().index) == list(range(1, 31))


def test_latex_has_a_line_for_each_run() -> None:
    text = report().to_latex(report())
    lines = text.splitlines()
    assert lines[0].startswith(r"\begin{tabular}{l") and lines[-1] == r"\end{tabular}"
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == 2 and body[0] == body[1] and body[0].count("&") == lines[2].count("&")
    assert r"\%" in body[0] and body[0].startswith("0.3 & linf & 3 &")


def test_bounds_and_radii_show_themselves() -> None:
    found = verifier.bounds(network(), X, 0.1)
    cells = Cells(found._repr_html_()).cells
    assert cells[:4] == ["input", "output", "lower", "upper"]
    assert cells[4:8] == ["0", "0", f"{float(found.lower[0, 0]):.4g}", f"{float(found.upper[0, 0]):.4g}"]
    nodes = verifier.bounds(network(), X, 0.1, of="all")
    first = next(iter(nodes))
    entries = str(nodes[first].lower[0].numel())
    assert Cells(nodes._repr_html_()).cells[5:8] == ["0", first, entries]
    radius = verifier.certified_radius(network(), X, label=torch.tensor([0, 1, 2]), steps=4)
    shown = Cells(radius._repr_html_()).cells
    assert shown[:3] == ["example", "label", "radius"] and shown[7:10] == ["0", "0", f"{float(radius.radius[0]):.4g}"]


@pytest.mark.parametrize("progress", [5, "yes", None])
def test_progress_is_a_truth_value_or_a_function(progress: object) -> None:
    with pytest.raises(verifier.InputError, match="progress is True, False or a function"):
        verifier.verify(network(), X, 0.3, progress=progress)  # type: ignore[arg-type]
    with pytest.raises(verifier.InputError, match="progress is True, False or a function"):
        verifier.certify(network(), X, torch.tensor([0, 1, 2]), 0.3, progress=progress)  # type: ignore[arg-type]
