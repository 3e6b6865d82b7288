"""Questions as texts, such as `near:8` or `one_of:1,3,5`: for command lines and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from properties.questions import near, one_of, output_range, same_classes, same_side, targeted, top_k
from properties.specification import Specification
from verifier.registry import hint

#: makes a specification from reference outputs [B, *output], labels [B], and the numbers behind the colon
_Maker = Callable[[Tensor, Tensor, Sequence[float]], Specification]


@dataclass(frozen=True)
class _Kind:
    """One question by name.

    Args:
        form: how it is written. meaning: in a few words.
        least, most: how many numbers it takes. whole: whether these are whole numbers.
        classifier: whether it is about one vector of classes. labelled: whether it needs the examples' labels.
    """

    form: str
    meaning: str
    make: _Maker
    least: int
    most: int
    whole: bool = True
    classifier: bool = False
    labelled: bool = False


_KINDS = {
    "same_classes": _Kind(
        "same_classes[:DIM[,MAY_CHANGE]]",
        "every position keeps its class; dimension of the classes, counted with the batch as 0",
        lambda y, label, n: same_classes(y, *map(int, n[:1]), may_change=int(n[1]) if len(n) > 1 else 0), 0, 2,
    ),
    "output_range": _Kind(
        "output_range:LOW,HIGH", "every output lies between two numbers; -inf and inf are no limit",
        lambda y, label, n: output_range(y.shape[1:], *n), 2, 2, whole=False,
    ),
    "near": _Kind(
        "near:DISTANCE", "every output stays that close to what it is",
        lambda y, label, n: near(y, n[0]), 1, 1, whole=False,
    ),
    "threshold": _Kind(
        "threshold:T", "the only output stays on its side of a number",
        lambda y, label, n: same_side(y, n[0]), 1, 1, whole=False,
    ),
    "targeted": _Kind(
        "targeted:CLASS", "the answer is never that class",
        lambda y, label, n: targeted([int(n[0])] * len(y), y[0].numel()), 1, 1, classifier=True,
    ),
    "one_of": _Kind(
        "one_of:CLASS,...", "the answer is one of these classes",
        lambda y, label, n: one_of(map(int, n), y[0].numel()), 1, 1_000_000, classifier=True,
    ),
    "top_k": _Kind(
        "top_k:K", "the label stays among the K largest outputs",
        lambda y, label, n: top_k(label, int(n[0]), y[0].numel()), 1, 1, classifier=True, labelled=True,
    ),
}  # fmt: skip

#: what errors and help texts list
QUESTIONS = ", ".join(kind.form for kind in _KINDS.values())


@dataclass(frozen=True)
class Question:
    """A question by name, which makes a specification for any examples."""

    name: str
    numbers: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Question:
        """The question in a text such as `near:8`.

        Raises:
            ValueError: no such question, or other numbers than it takes; lists the questions.
        """
        name, colon, rest = text.strip().partition(":")
        kind = _KINDS.get(name)
        if kind is None:
            raise ValueError(f"there is no question {name!r}; the questions are {QUESTIONS}{hint(name, list(_KINDS))}")
        try:
            numbers = tuple(float(part) for part in rest.split(",")) if colon else ()
        except ValueError:
            numbers = (float("nan"),)
        whole = all(n == n // 1 for n in numbers) if kind.whole else all(n == n for n in numbers)
        if not kind.least <= len(numbers) <= kind.most or not whole:
            raise ValueError(f"the question {text!r} must be written as {kind.form}: {kind.meaning}")
        return cls(name, numbers)

    @property
    def labelled(self) -> bool:
        """Whether it is about the examples' labels; else about the network's own outputs, or about numbers alone."""
        return _KINDS[self.name].labelled

    def __str__(self) -> str:
        return self.name + (":" + ",".join(f"{n:.17g}" for n in self.numbers) if self.numbers else "")

    def about(self, y: Tensor, label: Tensor) -> Specification:  # [B, *output], [B]
        """The specification for B examples.

        Args:
            y: [B, *output], the network's outputs at the examples. label: [B] class numbers, of a labelled question.

        Raises:
            ValueError: outputs that it cannot be asked of, or numbers that do not fit them.
        """
        kind = _KINDS[self.name]
        if kind.classifier and (sum(size > 1 for size in y.shape[1:]) > 1 or y[0].numel() < 2):
            raise ValueError(
                f"{self.name} is about one vector of classes, the network's outputs have shape {tuple(y.shape[1:])}: "
                "ask same_classes of a class at each position, threshold of one number, near or output_range of any"
            )
        made = kind.make(y, label, self.numbers)
        return made if made.batch == len(y) else made.expand(len(y))
