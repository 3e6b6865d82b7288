"""Numbers as people write them: 0.03, 8/255."""

from __future__ import annotations


def number_of(text: str) -> float:
    """A number, or a fraction of two such as 8/255, which is divided in float64. Raises ValueError."""
    try:
        above, slash, below = text.partition("/")
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number, nor a fraction such as 8/255") from None
