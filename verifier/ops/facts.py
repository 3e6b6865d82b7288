"""What is known of a function of one variable: data that stages may use and conformance laws check."""

from __future__ import annotations

import math
from dataclasses import dataclass

Segment = tuple[float, float]

#: the whole line
LINE: Segment = (-math.inf, math.inf)


@dataclass(frozen=True)
class Facts:
    """Facts about an activation. Nothing is claimed where nothing is said; whatever is said is checked.

    The laws also look where the facts point them: at kinks and at extrema. An activation that is not monotone should
    say where it turns, or its range is held only to what sampling sees.
    """

    monotone: bool = False  #: it never falls
    kinks: tuple[float, ...] = ()  #: where its slope jumps
    extrema: tuple[float, ...] = ()  #: where it turns from rising to falling or back
    convex: tuple[Segment, ...] = ()  #: segments on which it is convex
    concave: tuple[Segment, ...] = ()  #: segments on which it is concave
    domain: Segment = LINE  #: where it is defined
    values: Segment = LINE  #: what it stays within
    jumps: tuple[float, ...] = ()  #: where its value jumps
    spacing: float = 0.0  #: the jumps are repeated at this distance without end; 0: they are not

    @property
    def linear(self) -> bool:
        """Whether it is a straight line: convex and concave everywhere."""
        return LINE in self.convex and LINE in self.concave
