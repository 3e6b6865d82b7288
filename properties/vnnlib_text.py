"""The text of a VNN-LIB file: read with limits, cut into bracketed lists, every piece knowing its line."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

#: bytes of a file, unpacked; the largest of the competition's have some tens of megabytes
MAX_BYTES = 1 << 28
#: brackets inside brackets
MAX_DEPTH = 200
#: digits, and decimal exponent, of one number: what is beyond has no place among float64 numbers
MAX_DIGITS, MAX_EXPONENT = 1000, 400

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(NUMBER, re.ASCII)
_TOKEN = re.compile(r";[^\n\r]*|[()]|\[[^\]()\[;]*\]|[^\s();\[\]]+|[\[\]]")


@dataclass(frozen=True, slots=True)
class Word:
    """A token that is no bracket, and where it starts."""

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class BracketList:
    """What stood between two round brackets, and where the first one is."""

    items: tuple[Word | BracketList, ...]
    at: int

    @property
    def head(self) -> str:
        """The first word; empty where there is none."""
        first = self.items[0] if self.items else None
        return first.text if isinstance(first, Word) else ""


class PropertyText:
    """A file's text. Its errors name the file, the line and the column, both counted from 1."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name

    def error(self, message: str, at: int) -> ValueError:
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        return ValueError(f"{self.name}, line {line}, column {column}: {message}")

    @property
    def declares_networks(self) -> bool:
        """Whether it begins as a file of version 2.0, which declares its networks."""
        first = next((token for token, _ in _tokens(self.text, 0) if token != "("), "")
        return first == "vnnlib-version"

    def group(self, start: int) -> tuple[BracketList, int]:
        """The bracketed list that begins at `start`, and the position after it.

        Raises:
            ValueError: a bracket is missing, or they are nested too deeply.
        """
        open_: list[tuple[int, list[Word | BracketList]]] = []
        for token, at in _tokens(self.text, start):
            if token == "(":
                if len(open_) == MAX_DEPTH:
                    raise self.error(f"brackets are nested deeper than {MAX_DEPTH}", at)
                open_.append((at, []))
            elif token == ")":
                begun, items = open_.pop()
                made = BracketList(tuple(items), begun)
                if not open_:
                    return made, at + 1
                open_[-1][1].append(made)
            else:
                open_[-1][1].append(Word(token, at))
        raise self.error("this bracket is never closed", open_[0][0])


def _tokens(text: str, start: int) -> Iterator[tuple[str, int]]:
    for found in _TOKEN.finditer(text, start):
        token = found.group()
        if not token.startswith(";"):
            yield token, found.start()


@lru_cache(maxsize=1 << 16)
def number(text: str) -> Fraction | None:
    """The exact value of a decimal number such as -1.5e-3; None where the text is none.

    Raises:
        ValueError: it has more digits, or a larger exponent, than any float64 number.
    """
    if _NUMBER.fullmatch(text) is None:
        return None
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or len(exponent) > 8 or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise ValueError(f"the number {text[:40]} has more than {MAX_DIGITS} digits or an exponent over {MAX_EXPONENT}")
    return Fraction(text)


def load(path: str | Path, limit: int = MAX_BYTES) -> PropertyText:
    """The text of a file, unpacked where it is gzip (by its first bytes, whatever its name).

    Raises:
        ValueError: it cannot be read, is damaged, is no text, or is larger than `limit` bytes.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if packed else file
            content = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > limit:
        raise ValueError(f"{path} has more than {limit} bytes unpacked: it is not read")
    try:
        return PropertyText(content.decode("utf-8-sig"), str(path))  # some editors begin with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}") from error
