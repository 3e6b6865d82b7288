"""Tables of answers for notebooks, papers and pandas: rows of plain values, whatever they are about."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from verifier.errors import InputError
from verifier.files import plain

if TYPE_CHECKING:
    import pandas

#: rows that a notebook shows
SHOWN = 20

_STYLE = "text-align:right;padding:0.1em 0.6em;font-variant-numeric:tabular-nums"
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def shown(value: Any) -> str:
    """A value in a cell, for people; nothing for None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, Enum):
        return str(plain(value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_html(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], most: int = SHOWN) -> str:
    """A small table for a notebook; all text is escaped, and rows beyond `most` are counted."""

    def line(cells: Sequence[Any], tag: str) -> str:
        inner = "".join(f'<{tag} style="{_STYLE}">{html.escape(shown(cell))}</{tag}>' for cell in cells)
        return f"<tr>{inner}</tr>"

    body = "".join(line(row, "td") for row in rows[:most])
    more = f"<p>and {len(rows) - most} more</p>" if len(rows) > most else ""
    head = f"<thead>{line(columns, 'th')}</thead>"
    return f"<div><p>{html.escape(title)}</p><table>{head}<tbody>{body}</tbody></table>{more}</div>"


def as_latex(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A `tabular` in the style of the package booktabs, special characters escaped; the first column is on the left."""

    def line(cells: Sequence[Any]) -> list[str]:
        return ["".join(_SPECIAL.get(c, c) for c in shown(cell)) for cell in cells]

    return tabular("l" + "r" * (len(columns) - 1), line(columns), [line(row) for row in rows])


def tabular(kinds: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As `as_latex`, of cells that are LaTeX already.

    Args:
        kinds: the columns, such as "lrr".
    """
    top, *body = (" & ".join(cells) + r" \\" for cells in (head, *rows))
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", top, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def as_frame(rows: Sequence[Mapping[str, Any]], index: str | None = None) -> pandas.DataFrame:
    """A data frame of rows by their columns' names, enums by their values.

    Args:
        index: the column that names the rows.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise InputError("a data frame needs pandas: pip install 'rampart-verifier[pandas]'") from error
    values = [{k: plain(v) if isinstance(v, Enum) else v for k, v in row.items()} for row in rows]
    frame = pandas.DataFrame(values)
    return frame if index is None or index not in frame else frame.set_index(index)
