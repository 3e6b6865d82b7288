"""Sections: each one a file in sections/, which registers a function from what is reported on to blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from verifier.registry import Registry
from verifier.report.blocks import Block

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Args:
        name: what links call it. place: sections come in the order of these.
        about: the class of what it reports on (verifier.report.subjects).
        blocks: of one such; a section without blocks is left out.
    """

    name: str
    title: str
    place: int
    about: type
    blocks: Callable[[Any], Iterator[Block]]


#: all sections by name; other distributions bring theirs by the entry-point group
SECTIONS: Registry[Section] = Registry("section of the report", "verifier.report.sections", "verifier.report_sections")


def section(
    name: str, title: str, place: int, about: type[Subject]
) -> Callable[[Callable[[Subject], Iterator[Block]]], Callable[[Subject], Iterator[Block]]]:
    """Makes a function the section of that name; the arguments are those of `Section`."""

    def registered(blocks: Callable[[Subject], Iterator[Block]]) -> Callable[[Subject], Iterator[Block]]:
        SECTIONS.register(Section(name, title, place, about, blocks))
        return blocks

    return registered


def sections_of(subject: object) -> list[tuple[Section, list[Block]]]:
    """The sections about a subject that have something to show, in order."""
    every = sorted(SECTIONS.values(), key=lambda one: (one.place, one.name))
    made = ((one, list(one.blocks(subject))) for one in every if isinstance(subject, one.about))
    return [(one, blocks) for one, blocks in made if blocks]
