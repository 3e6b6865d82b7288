"""Files that are replaced as a whole: links and streams stay what they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from verifier.files import json_text, text_replaced
from verifier.verdict import Trust, Verdict

unix = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of Unix")


@unix
def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, named = tmp_path / "run.json", tmp_path / "elsewhere" / "real.json"
    link.symlink_to(named)
    for text in ("first", "second"):  # also before there is such a file
        text_replaced(link, text)
        assert link.is_symlink() and named.read_text() == text
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["elsewhere", "real.json", "run.json"]


@unix
def test_a_pipe_or_a_device_is_written_to_and_never_replaced(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture
) -> None:
    reading, writing = os.pipe()
    text_replaced(f"/dev/fd/{writing}", "hello")
    assert os.read(reading, 100) == b"hello"
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    for path in (fifo, link):
        text_replaced(path, "through")
        assert os.read(end, 100) == b"through" and fifo.is_fifo() and link.is_symlink()
    for number in (reading, writing, end):
        os.close(number)
    print("table")
    text_replaced("/dev/fd/1", "rows\n")
    assert capfdbinary.readouterr().out == b"table\nrows\n"


def test_json_has_enums_by_value_and_no_infinities() -> None:
    document = {"a": (float("inf"), float("nan"), 1.5), 2: [Trust.CHECKED, Verdict.UNKNOWN, True, None]}
    assert json_text(document).split() == [
        "{", '"a":', "[", '"inf",', "null,", "1.5", "],", '"2":', "[", '"checked",', '"unknown",', "true,", "null", "]",
        "}",
    ]  # fmt: skip
