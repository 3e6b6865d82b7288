"""The loop of solving and cutting, on numbers: a question is what is left to count down from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from verifier.encoding.cut_and_solve import cut_and_solve


class CountDown:
    """Answers are the questions themselves; each is followed by the number below it, down to zero."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []

    def solve(self, asked: Iterable[int]) -> Iterator[int]:
        self.rounds.append([])
        for number in asked:
            self.rounds[-1].append(number)
            yield number

    def separate(self, answer: int) -> tuple[int, Callable[[], int | None] | None]:
        if answer == 0:
            return answer, None
        return answer, lambda: answer - 1 if answer != 7 else None  # nothing cuts a seven off


def test_rounds_until_no_question_follows() -> None:
    loop = CountDown()
    assert list(cut_and_solve([2, 0, 7, 1], loop.solve, loop.separate, 10)) == [2, 0, 7, 1, 1, 0, 0]
    assert loop.rounds == [[2, 0, 7, 1], [1, 0], [0]]


def test_the_last_round_is_handed_out_as_it_is() -> None:
    loop = CountDown()

    def separate(answer: int) -> tuple[int, Callable[[], int | None] | None]:
        return -answer, lambda: answer - 1

    assert list(cut_and_solve([5], loop.solve, separate, 3)) == [-5, -4, 3]


def test_no_question_is_made_before_it_is_drawn() -> None:
    loop, made = CountDown(), []

    def separate(answer: int) -> tuple[int, Callable[[], int | None] | None]:
        return answer, lambda: made.append(answer) or answer - 1  # type: ignore[func-returns-value]

    answers = cut_and_solve([3], loop.solve, separate, 3)
    assert next(answers) == 3 and made == []
    assert next(answers) == 2 and made == [3]
