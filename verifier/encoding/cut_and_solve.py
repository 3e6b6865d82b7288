"""The loop of cutting planes (Kelley 1960): solve, separate, and solve again with what cuts the optimum off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def cut_and_solve(
    asked: Iterable[Question],
    solve: Callable[[Iterable[Question]], Iterable[Answer]],
    separate: Callable[[Answer], tuple[Answer, Callable[[], Question | None] | None]],
    rounds: int,
) -> Iterator[Answer]:
    """The answers of all rounds, as they come.

    Args:
        asked: the questions of the first round.
        solve: answers a round's questions, in any order; it may draw them one by one.
        separate: the answer that is handed out, and what makes the question that follows from it: called when the next
            round draws it, and None where nothing cuts. None in its place: the answer stands.
        rounds: of solving, at most. In the last one answers are handed out as they are.
    """
    for number in range(1, rounds + 1):
        following = []
        for answer in solve(asked):
            further = None
            if number < rounds:
                answer, further = separate(answer)
            if further is not None:
                following.append(further)
            yield answer
        if not following:
            return
        asked = (question for make in following if (question := make()) is not None)
