"""What a section of the page is made of: plain records, without any HTML; templates/page.html draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

#: what the page writes where there is no value
NONE = "-"


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Args:
        sort: what the column is sorted by; None: there is no value, and the row goes last.
        tone: the colour of a mark before the text, one of the keys of `figures.COLOURS`; the text says the same.
        bar: in [0, 1], the length of a bar behind the text.
    """

    text: str
    sort: float | str | None = None
    tone: str = ""
    bar: float | None = None
    pre: bool = False  #: keep line ends, and do not wrap


@dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted by a click on their heads.

    Args:
        columns: heads; one that starts with "#" is of numbers, and its "#" is not written.
        first_is_head: whether the first entry of a row names the row.
    """

    block: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    first_is_head: bool = True
    folded: bool = False  #: closed at first; the caption opens it

    @property
    def numeric(self) -> list[bool]:
        """Per column."""
        return [name.startswith("#") for name in self.columns]


@dataclass(frozen=True)
class Facts:
    """Names and values; a list of texts is a value of several lines."""

    block: ClassVar[str] = "facts"
    entries: Sequence[tuple[str, str | Sequence[str]]]


@dataclass(frozen=True)
class Tiles:
    """A few numbers in large type: value, what it is, and the tone as of a cell."""

    block: ClassVar[str] = "tiles"
    entries: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    block: ClassVar[str] = "text"
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Command:
    """What to type in a shell."""

    block: ClassVar[str] = "command"
    text: str


@dataclass(frozen=True)
class Log:
    """A long text that is opened by its title."""

    block: ClassVar[str] = "log"
    title: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A drawing of `figures.drawn`, with what it shows in words for those who do not see it."""

    block: ClassVar[str] = "figure"
    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """One image: a data URI of `pictures`, what it shows, and the line under it."""

    uri: str
    alt: str
    title: str


@dataclass(frozen=True)
class Exhibit:
    """Pictures that belong together."""

    heading: str
    pictures: Sequence[Picture]
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Gallery:
    """Exhibits side by side, as many as fit."""

    block: ClassVar[str] = "gallery"
    caption: str
    exhibits: Sequence[Exhibit]
    #: of the differences: lowest value, middle, highest, and the colours of the scale; none for grey
    scale: tuple[str, str, str] | None = None
    coloured: bool = False

    @property
    def single(self) -> bool:
        """Whether each exhibit is one picture, so that more of them fit."""
        return all(len(one.pictures) == 1 for one in self.exhibits)


Block = Table | Facts | Tiles | Text | Command | Log | Figure | Gallery


def number(value: float | None, digits: int = 4) -> Cell:
    """A number to so many significant digits; infinite or absent ones are written as none."""
    if value is None or not math.isfinite(value):
        return Cell(NONE)
    return Cell(f"{value:.{digits}g}", value)


def count(value: int, of: int | None = None, tone: str = "") -> Cell:
    """A number of things, with a bar for its share of so many."""
    return Cell(str(value), value, tone, None if not of else value / of)


def label(value: int) -> Cell:
    """A label; a run that asks about other things has none, and calls it -1."""
    return Cell(str(value), value) if value >= 0 else Cell(NONE)


def share(part: float, whole: float) -> Cell:
    """A percentage."""
    return Cell(percent(part, whole), part / whole) if whole else Cell(NONE)


def percent(part: float, whole: float) -> str:
    """Such as "81.0 %"."""
    return f"{100 * part / whole:.1f} %" if whole else NONE


def seconds(value: float | None) -> Cell:
    """Seconds, without a unit: the head of the column says it."""
    if value is None or not math.isfinite(value):
        return Cell(NONE)
    return Cell(f"{value:.2f}" if value < 100 else f"{value:.0f}", value)


def plural(n: int, one: str, several: str | None = None) -> str:
    """Such as "1 example", "3 examples"."""
    return f"{n} {one if n == 1 else several or one + 's'}"
