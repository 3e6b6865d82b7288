"""The page: chapters of sections, in one file of HTML that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from verifier.errors import InputError
from verifier.report.section import sections_of

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Chapter:
    """What is reported on, under a heading of its own; an empty one where the page has no other chapter."""

    title: str
    subject: object


def render(title: str, chapters: Sequence[Chapter], *, made: str, version: str) -> str:
    """The page as HTML, the same text for the same arguments.

    Args:
        made: when, in words. version: of this program.

    Raises:
        InputError: jinja2 or matplotlib is not installed.
    """
    return _environment().get_template("page.html").render(
        title=title, chapters=[_filled(k, one) for k, one in enumerate(chapters)], made=made, version=version,
        style=_text("style.css"), script=_text("script.js"), script_hash=_hash(_text("script.js")),
    )  # fmt: skip


def _filled(number: int, chapter: Chapter) -> dict[str, Any]:
    prefix = f"run-{number}-" if chapter.title else ""
    sections = [
        {"anchor": prefix + one.name, "title": one.title, "blocks": blocks}
        for one, blocks in sections_of(chapter.subject)
    ]
    return {"title": chapter.title, "anchor": f"run-{number}", "sections": sections}


def _environment() -> Environment:
    try:
        import jinja2
    except ImportError as error:
        raise InputError("a report needs jinja2: pip install 'rampart-verifier[report]'") from error
    # everything is escaped: names of models and texts of errors may hold anything
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _text(name: str) -> str:
    return (files("verifier.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """As a Content-Security-Policy names a script that may run: no other one does."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
