"""Counterexamples as pictures beside their inputs; inputs that are no images as tables of what changed most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.report.blocks import Block, Cell, Exhibit, Gallery, Picture, Table, number
from verifier.report.pictures import Scale, as_image, difference, picture

#: entries of an input that is no image, at most
_ENTRIES = 8


@dataclass(frozen=True)
class Pair:
    """One counterexample [*input], with the clean input [*input] where that is known."""

    title: str
    found: np.ndarray
    clean: np.ndarray | None
    lines: Sequence[str] = ()


def shown(
    pairs: Sequence[Pair], clip: tuple[float, float] | None, pixels: tuple[int, ...] | None, names: tuple[str, str]
) -> list[Block]:
    """A gallery where all are images, else a table for each.

    Args:
        clip: the valid range. pixels: as of `as_image`. names: of the two, such as ("input", "counterexample").
    """
    if not pairs:
        return []
    if any(as_image(pair.found, pixels) is None for pair in pairs):
        return [_table(pair, names) for pair in pairs]
    scale = Scale.of(clip, [pair.found for pair in pairs])
    limit = max((_largest(pair) for pair in pairs if pair.clean is not None), default=0.0) or 1.0
    coloured = as_image(pairs[0].found, pixels).ndim == 2  # type: ignore[union-attr]
    caption = f"Black is {scale.low:g} and white {scale.high:g}"
    if all(pair.clean is None for pair in pairs):
        caption += ". The inputs themselves are not in the store: --data draws them, and the differences, beside these."
        return [Gallery(caption, [_exhibit(pair, scale, limit, pixels, names) for pair in pairs])]
    way = "blue is darker and red lighter" if coloured else "in every channel, grey is no change"
    return [
        Gallery(
            f"{caption} in inputs and counterexamples. Differences are on one scale for all: {way}.",
            [_exhibit(pair, scale, limit, pixels, names) for pair in pairs],
            (f"-{limit:.3g}", "counterexample minus input", f"+{limit:.3g}"), coloured,
        )
    ]  # fmt: skip


def _largest(pair: Pair) -> float:
    return 0.0 if pair.clean is None else float(np.abs(pair.found - pair.clean.astype(np.float64)).max())


def _exhibit(pair: Pair, scale: Scale, limit: float, pixels: tuple[int, ...] | None, names: tuple[str, str]) -> Exhibit:
    found = as_image(pair.found, pixels)
    assert found is not None
    other = Picture(picture(found, scale), f"{names[1]} of {pair.title}", names[1])
    if pair.clean is None:
        return Exhibit(pair.title, [other], pair.lines)
    clean = as_image(pair.clean.astype(np.float64), pixels)
    assert clean is not None
    change = f"largest change {_largest(pair):.3g}"
    return Exhibit(
        pair.title,
        [
            Picture(picture(clean, scale), f"{names[0]} of {pair.title}", names[0]), other,
            Picture(difference(found - clean, limit), f"difference of {pair.title}, {change}", "difference"),
        ],
        [*pair.lines, _moved(pair)],
    )  # fmt: skip


def _moved(pair: Pair) -> str:
    assert pair.clean is not None
    change = (pair.found - pair.clean.astype(np.float64)).ravel()
    norm = float(np.linalg.norm(change))
    moved = f"{np.count_nonzero(change)} of {change.size} numbers"
    return f"largest change {_largest(pair):.4g}, Euclidean {norm:.4g}, {moved}"


def _table(pair: Pair, names: tuple[str, str]) -> Table:
    """The entries that changed most; without a clean input the first ones."""
    found = pair.found.ravel()
    clean = None if pair.clean is None else pair.clean.astype(np.float64).ravel()
    change = None if clean is None else found - clean
    order = np.arange(found.size) if change is None else np.argsort(-np.abs(change), kind="stable")
    rows = []
    for i in order[:_ENTRIES].tolist():
        row = [Cell(str(i), i), number(float(found[i]), 6)]
        if clean is not None and change is not None:
            row = [row[0], number(float(clean[i]), 6), row[1], number(float(change[i]), 6)]
        rows.append(row)
    heads = ("#entry", f"#{names[1]}") if clean is None else ("#entry", *(f"#{n}" for n in names), "#difference")
    most = f", {len(rows)} of {found.size} entries" if found.size > len(rows) else ""
    return Table("; ".join([pair.title + most, *pair.lines]), heads, rows)
