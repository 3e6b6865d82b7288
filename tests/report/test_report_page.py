"""The page on runs of `certify`: what it says, that it says it safely and the same every time, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.html import page
from helpers.models import small_image_mlp
from typer.testing import CliRunner, Result

from verifier import InputError, __version__, certify, html_report
from verifier.commands.app import app
from verifier.report import SECTIONS, Block, Section, Text
from verifier.report.pictures import as_image
from verifier.report.sections.margins import bar_edges
from verifier.report.subjects import CertifyRun

SHAPE = (3, 4, 4)


@pytest.fixture
def place(runs: Path) -> Path:
    """The folder of the runs; nothing in it is changed."""
    return runs


def data(place: Path) -> dict[str, np.ndarray]:
    with np.load(place / "data.npz") as archive:
        return {"images": archive["images"], "labels": archive["labels"]}


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_a_run_is_there_with_its_pictures_and_checked_certificates(place: Path, tmp_path: Path) -> None:
    run = report(
        place / "0.03.sqlite", "--out", tmp_path / "r.html", "--data", place / "data.npz", "--certificates",
        place / "0.03.cert", "--jobs", 1,
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    shown, summary = page(tmp_path / "r.html"), CertifyRun("", _opened(place / "0.03.sqlite")).summary
    assert f"by Rampart {__version__}." in shown.text
    meta = _opened(place / "0.03.sqlite").meta
    assert meta["model"] in shown.text and meta["data"] in shown.text
    assert "no number of the input moves by more than 0.03, and every number stays within [0, 1]" in shown.text
    assert f"{100 * summary['verified_accuracy']:.1f} % proved (verified accuracy)" in shown.text
    proofs = round(summary["verified_accuracy"] * summary["examples"])
    assert proofs > 3
    assert f"{proofs} of {proofs} certificates; {proofs} of the {proofs} proofs have a valid certificate" in shown.text
    command = next(text for text in shown.texts if text.startswith("verifier check "))
    command = command.replace("MODEL", "'helpers.models:small_image_mlp((3, 4, 4))'")
    command = command.replace("DATA.npz", str(place / "data.npz"))
    again = CliRunner().invoke(app, [*shlex.split(command)[1:], "--jobs", "1"])
    assert again.exit_code == 0, again.output
    assert f"{proofs} of {proofs} certificates are valid" in again.stdout
    assert "1 NaN or infinite values" in shown.text and "traceback of example 5" in shown.text
    pictures = shown.every("img")
    assert pictures and all(one["alt"] and str(one["src"]).startswith("data:image/png;base64,") for one in pictures)
    assert {str(one["alt"]).split()[0] for one in pictures} >= {"input", "counterexample", "difference"}
    anchors = {one.get("id") for one in shown.every("section")}
    assert {"asked", "verdicts", "classes", "stages", "margins", "counterexamples", "certificates", "errors",
             "settings", "examples"} <= anchors  # fmt: skip


def test_the_network_of_a_run_says_what_it_calls_a_counterexample(place: Path, tmp_path: Path) -> None:
    model, given = small_image_mlp(SHAPE), {**data(place), "certificates": place / "0.1.cert", "jobs": 1}
    html_report(place / "0.1.sqlite", tmp_path / "r.html", model=model, **given)
    text = page(tmp_path / "r.html").text
    store = _opened(place / "0.1.sqlite")
    broken = [row for row in store.rows() if CertifyRun("", store).broken(row)]
    assert broken
    for row in broken:
        called = int(model(store.counterexample(row.index)[None]).argmax())
        assert called != row.label
        assert re.search(rf"example {row.index}, label {row.label} .{{0,60}}the network calls it {called} ", text)
    assert ", which is the network of the run" in text
    with pytest.raises(InputError, match=r"the model is not that of 0\.1\.sqlite"):
        html_report(place / "0.1.sqlite", tmp_path / "r.html", model=small_image_mlp(SHAPE, seed=1), **given)
    with pytest.raises(InputError, match="--model with --data"):
        html_report(place / "0.1.sqlite", tmp_path / "r.html", model=model)


def test_a_question_without_labels_needs_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).eval()
    x = torch.rand(8, 5)
    np.savez(tmp_path / "x.npz", images=x.numpy())
    middle = float(model(x).detach().median())
    run = {"question": f"threshold:{middle}", "stages": ["dual", "attack"], "progress": False}
    certify(model, x, torch.full((8,), -1), 0.02, store=tmp_path / "run.sqlite", **run)
    done = report(tmp_path / "run.sqlite", "--data", tmp_path / "x.npz", "--out", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    shown = page(tmp_path / "r.html")
    assert f"does threshold:{middle} hold" in shown.text and "clean accuracy" not in shown.text
    assert "label -1" not in shown.text and not shown.every("img")
    assert "entry input counterexample difference" in shown.text  # what is no image is a table


def test_several_runs_have_a_curve_and_chapters_of_their_own(place: Path, tmp_path: Path) -> None:
    assert report(place, "--out", tmp_path / "folder.html").exit_code == 0
    assert "Certification: 2 runs" in page(tmp_path / "folder.html").text
    html_report([place / "0.1.sqlite", place / "0.03.sqlite"], tmp_path / "r.html")
    shown = page(tmp_path / "r.html")
    first = CertifyRun("", _opened(place / "0.03.sqlite")).summary["verified_accuracy"]
    curve = next(str(one["aria-label"]) for one in shown.every("div") if "over eps" in str(one.get("aria-label")))
    assert f"{100 * first:.1f} % at 0.03, " in curve and curve.endswith(" at 0.1.")
    assert "0.1.sqlite: linf 0.1" in shown.text and "0.03.sqlite: linf 0.03" in shown.text
    identities = [one["id"] for _, one in shown.tags if "id" in one]
    assert len(set(identities)) == len(identities)
    assert "--data draws them" in shown.text  # no inputs were given: counterexamples alone
    assert "run-1-undecided" in identities
    links = {str(one["href"])[1:] for one in shown.every("a")}
    assert links <= set(identities)


def test_it_asks_nobody_for_anything(place: Path, tmp_path: Path) -> None:
    html_report(place / "0.1.sqlite", tmp_path / "r.html", **data(place))
    text, shown = (tmp_path / "r.html").read_text(encoding="utf-8"), page(tmp_path / "r.html")
    for tag, attributes in shown.tags:
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:")), (tag, attributes)
    outside = set(re.findall(r"\w+://[^\"'\s<)]+", text))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not places
    policy = next(one["content"] for one in shown.every("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy) and "script-src 'sha256-" in str(policy)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_everything_is_escaped(place: Path, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&{{ 7*7 }}"
    store = tmp_path / "<b>bold<b>.sqlite"
    store.write_bytes((place / "0.1.sqlite").read_bytes())
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE examples SET error = ?, traceback = ? WHERE verdict = 'error'", (bad, bad))
        connection.execute("UPDATE examples SET spent = replace(spent, '\"dual\"', ?)", (json.dumps(bad),))
        connection.execute("UPDATE examples SET stage = ? WHERE stage = 'dual'", (bad,))
    html_report(store, tmp_path / "r.html")
    shown = page(tmp_path / "r.html")
    assert shown.text.count(bad) >= 3
    assert len(shown.every("script")) == 1 and not shown.every("b")
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)


def test_the_page_is_the_same_but_for_the_time(place: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("a.html", "b.html"):
        html_report(place / "0.03.sqlite", tmp_path / name, **data(place), certificates=place / "0.03.cert", jobs=1)
        text = (tmp_path / name).read_text(encoding="utf-8")
        pages.append(re.sub(r"Made \d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text))
        assert pages[-1] != text
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0.03.sqlite", "--data", "other.npz"), "the data are not those of 0.03.sqlite"),
        (("0.03.sqlite", "--data", "data.npz", "--scale", "2"), "--scale"),
        (("0.03.sqlite", "--certificates", "data.npz"), "there is no folder"),
        (("0.03.sqlite", "0.1.sqlite", "--certificates", "0.1.cert"), "1 folders of certificates for 2 runs"),
        (("nothing.sqlite",), "there is no nothing.sqlite"),
        (("data.npz",), "neither a store of `certify`"),
        (("0.03.sqlite", "--against", "x.csv"), "--against is of `bench`, and this is a page on `certify`"),
        (("0.03.sqlite", "0.03.cert"), "0.03.cert holds neither stores"),
    ],
)
def test_what_does_not_fit_is_refused(
    place: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    other = data(place)
    np.savez(tmp_path / "other.npz", images=other["images"] * np.float32(0.5), labels=other["labels"])
    given = (tmp_path / text if text == "other.npz" else text for text in arguments)
    run = report(*given, "--out", tmp_path / "r.html")
    assert run.exit_code == 2
    assert message in run.stderr
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_what_must_be_installed_is_said(
    place: Path, module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else module)
    run = report(place / "0.1.sqlite", "--out", tmp_path / "r.html")
    assert run.exit_code == 2 and "pip install 'rampart-verifier[" in run.stderr
    assert not (tmp_path / "r.html").exists()


def test_a_run_that_is_cut_short_says_so(place: Path, tmp_path: Path) -> None:
    store = tmp_path / "short.sqlite"
    store.write_bytes((place / "0.1.sqlite").read_bytes())
    with sqlite3.connect(store) as connection:
        connection.execute("DELETE FROM examples WHERE idx >= 12")
    html_report(store, tmp_path / "r.html")
    assert "The run is not complete: 10 of 22 examples are in." in page(tmp_path / "r.html").text


def test_a_store_is_not_written_over(place: Path) -> None:
    before = (place / "0.1.sqlite").read_bytes()
    assert report(place / "0.1.sqlite", "--out", place / "0.1.sqlite").exit_code == 2
    with pytest.raises(InputError, match="belongs to the store"):
        html_report(_opened(place / "0.1.sqlite"), place / "0.1.sqlite")
    assert (place / "0.1.sqlite").read_bytes() == before


def test_a_certificate_of_another_example_is_not_valid(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cert"
    folder.mkdir()
    for path in (place / "0.03.cert").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    first, second = sorted(folder.glob("*.cert"))[:2]
    first.write_bytes(second.read_bytes())
    html_report(place / "0.03.sqlite", tmp_path / "r.html", **data(place), certificates=folder, jobs=1)
    shown = page(tmp_path / "r.html")
    assert "1 certificate is not valid" in shown.text and "not valid - " in shown.text
    assert "Proofs without a valid certificate" in shown.text


def test_a_section_is_a_function_from_a_run_to_blocks(place: Path, tmp_path: Path) -> None:
    def mine(run: CertifyRun) -> Iterator[Block]:
        yield Text(f"{len(run.rows)} rows, <as they are>")

    with SECTIONS.standing_in({"mine": Section("mine", "A section of my own", 15, CertifyRun, mine), "classes": None}):
        html_report(place / "0.1.sqlite", tmp_path / "r.html")
    shown = page(tmp_path / "r.html")
    assert "A section of my own 22 rows, <as they are>" in shown.text
    assert "By class" not in shown.text


@pytest.mark.parametrize(
    ("shape", "pixels", "image"),
    [
        ((1, 28, 28), None, (28, 28)),
        ((28, 28), None, (28, 28)),
        ((3, 8, 9), None, (8, 9, 3)),
        ((8, 9, 3), None, (8, 9, 3)),
        ((8, 9, 1), None, (8, 9)),
        ((784,), (28, 28), (28, 28)),
        ((784,), None, None),
        ((5,), None, None),
        ((4, 20, 20), None, None),
        ((784,), (20, 20), None),
    ],
)
def test_which_inputs_are_images(
    shape: tuple[int, ...], pixels: tuple[int, ...] | None, image: tuple[int, ...] | None
) -> None:
    found = as_image(np.zeros(shape), pixels)
    assert (None if found is None else found.shape) == image


@pytest.mark.parametrize(
    "values",
    [[-0.2, *np.linspace(1, 9, 60)], [*np.linspace(-9, -1, 60), 0.2], [-1e6, *np.linspace(-1, 1, 60)], [3.0], [0.0],
     [-2.0, -1.0]],
)  # fmt: skip
def test_bars_keep_the_sign_of_their_values(values: list[float]) -> None:
    edges = bar_edges(np.array(values))
    middle = (edges[:-1] + edges[1:]) / 2
    drawn = np.clip(values, middle[0], middle[-1])  # far values are in the outermost bars
    assert 0.0 in edges and (np.diff(edges) > 0).all() and len(edges) <= 30
    assert ((drawn < 0) == (np.array(values) < 0)).all()


def _opened(path: Path):  # type: ignore[no-untyped-def]
    from verifier import Report

    return Report.open(path)
