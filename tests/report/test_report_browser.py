"""The pages in a real browser: nothing to complain about, tables that sort, phones, paper, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import browser

from verifier import html_report
from verifier.report.lists import bench_report

pytestmark = pytest.mark.skipif(browser.found() is None, reason="there is no browser: install the package chromium")

LIST = """name,network,timeout,expected,status,seconds,wrong,note
net a,net,60.0,unsat,unsat,10.5,,decided by branch
net b,net,60.0,,sat,0.25,,
net c with a name that is rather long for a phone and has_no_spaces_where_it_would_be_needed,net,60.0,,timeout,60.0,,
net d,net,60.0,unsat,sat,2.0,"sat, but unsat is expected",
"""
PEER = "x,net.onnx,a.vnnlib,0.1,unsat,1.5\nx,net.onnx,b.vnnlib,0.1,timeout,60\nx,net.onnx,d.vnnlib,0.1,unsat,3\n"


@pytest.fixture(scope="module")
def pages(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """On two runs with pictures, an error and certificates, and on a list."""
    place = tmp_path_factory.mktemp("pages")
    with np.load(runs / "data.npz") as data:
        html_report(
            [runs / "0.03.sqlite", runs / "0.1.sqlite"], place / "runs.html", images=data["images"],
            labels=data["labels"], certificates=[runs / "0.03.cert", runs / "0.1.cert"], jobs=1,
        )  # fmt: skip
    (place / "results.csv").write_text(LIST)
    (place / "peer.csv").write_text(PEER)
    bench_report(place, place / "list.html", place / "peer.csv")
    return [place / "runs.html", place / "list.html"]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def test_pages_open_without_a_complaint_and_fit_a_phone(chromium: browser.Browser, pages: list[Path]) -> None:
    for page in pages:
        for width in (390, 1200):
            chromium.open(page, width)
            chromium.run("for (const one of document.querySelectorAll('details')) one.open = true")
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert chromium.run(wide) == 0, (page.name, width)
            sizes = "[...document.querySelectorAll('p, td, th, dd')].map(e => parseFloat(getComputedStyle(e).fontSize))"
            assert min(chromium.run(sizes)) >= 12
    assert chromium.complaints == []


def test_a_click_on_a_head_sorts_its_table(chromium: browser.Browser, pages: list[Path]) -> None:
    chromium.open(pages[1])
    chromium.run(
        "window.table = [...document.querySelectorAll('table')].find(t => t.caption.textContent == '4 instances');"
        "window.names = () => [...table.tBodies[0].rows].map(r => r.cells[0].textContent.trim().slice(0, 5));"
        "window.click = k => table.tHead.rows[0].cells[k].querySelector('button').click()"
    )
    assert chromium.run("names()") == ["net a", "net b", "net c", "net d"]
    assert chromium.run("click(3), names()") == ["net b", "net d", "net a", "net c"]  # by numbers, not by letters
    assert chromium.run("table.tHead.rows[0].cells[3].ariaSort") == "ascending"
    assert chromium.run("click(3), names()") == ["net c", "net a", "net d", "net b"]
    assert chromium.run("click(2), names()") == ["net a", "net d", "net c", "net b"]  # those without a value last
    assert chromium.run("click(2), names()") == ["net a", "net d", "net c", "net b"]
    assert chromium.run("[table.tHead.rows[0].cells[3].ariaSort, table.tHead.rows[0].cells[2].ariaSort]") == [
        None, "descending",
    ]  # fmt: skip
    assert chromium.complaints == []


def test_on_paper_everything_is_open(chromium: browser.Browser, pages: list[Path]) -> None:
    for page in pages:
        chromium.open(page)
        folded = chromium.run("document.querySelectorAll('details:not([open])').length")
        chromium.run("addEventListener('beforeprint', () => { window.left = "
                     "document.querySelectorAll('details:not([open])').length })")  # fmt: skip
        assert chromium.pdf().startswith(b"%PDF-")
        assert chromium.run("window.left") == 0
        assert chromium.run("document.querySelectorAll('details:not([open])').length") == folded
        chromium.as_printed(720)  # pixels between the margins of the narrower of A4 and letter
        cut = (
            "[...document.querySelectorAll('table, pre')].filter(t => t.getBoundingClientRect().right > innerWidth + 1)"
        )
        assert chromium.run(f"{cut}.map(t => t.textContent.slice(0, 60))") == []
    assert chromium.complaints == []


def test_texts_stand_out_in_light_and_dark(chromium: browser.Browser, pages: list[Path]) -> None:
    """At least 4.5 to 1 for texts and 3 to 1 for what is drawn, as the accessibility guidelines (WCAG) ask."""
    inks = {"ink": 4.5, "muted": 4.5, "link": 4.5, "verified": 3, "falsified": 3, "unknown": 3, "error": 3,
            "misclassified": 3, "second": 3, "third": 3, "fourth": 3}  # fmt: skip
    for dark in (False, True):
        chromium.open(pages[0], dark=dark)
        style = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
        colours = {name: str(chromium.run(style.format(name))) for name in (*inks, "paper", "panel", "bar", "warning")}
        for name, least in inks.items():
            for ground in ("paper", "panel"):
                assert contrast(colours[name], colours[ground]) >= least, (name, ground, dark)
        for ground in ("bar", "warning"):
            assert contrast(colours["ink"], colours[ground]) >= 4.5, (ground, dark)
        assert (brightness(colours["paper"]) < 0.1) is dark


def brightness(colour: str) -> float:
    """Relative luminance of #rrggbb."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((brightness(one), brightness(other)))
    return (light + 0.05) / (dark + 0.05)


def test_what_is_drawn_has_words(chromium: browser.Browser, pages: list[Path]) -> None:
    for page in pages:
        chromium.open(page)
        assert chromium.run("document.querySelectorAll('svg').length") >= 2
        assert chromium.run("[...document.querySelectorAll('svg')].every(s => s.closest('[role=img][aria-label]'))")
        assert chromium.run("[...document.images].every(i => i.alt && i.naturalWidth > 0)")
        assert chromium.run("[...document.querySelectorAll('th')].every(h => h.scope && h.textContent.trim())")
        assert chromium.run("[...document.querySelectorAll('table')].every(t => t.caption)")
        heads = "[...document.querySelectorAll('h1, h2, h3, h4')].map(h => h.tagName)"
        levels = [int(name[1]) for name in chromium.run(heads)]
        assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
