"""`verifier explain`: the stages that would run, and what each is worth. Light: torch is loaded where it is used."""

from __future__ import annotations

from typing import Annotated

from verifier.commands.options import (
    STAGES,
    DataOptions,
    ModelOptions,
    OptionalPerturbation,
    PartOptions,
    QuestionOptions,
)
from verifier.commands.shared import stage_names

#: examples that the stages are tried on, where nothing else is asked for
_TRIED = 32


class TriedOptions(PartOptions):
    """Which of a file's examples: where there are fewer than asked for, all of them."""

    def of(self, total: int, most: int | None = None) -> range:
        """As of any part."""
        first = None if self.first is None else min(self.first, total)
        return PartOptions(first=first, indices=self.indices).of(total, most)


def explain(
    network: ModelOptions,
    data: DataOptions,
    part: TriedOptions,
    asked: OptionalPerturbation,
    about: QuestionOptions,
    stages: Annotated[str | None, STAGES] = None,
) -> None:
    """Show which stages would run on a network, in which order, and what each is worth there.

    The data give the input's shape. With --eps the stages are tried at that radius on the first 32 examples (or those
    that --first or --indices name), and what they cost is shown.
    """
    from rich.console import Console

    from verifier.api import Verifier
    from verifier.arguments import input_errors, same_answers
    from verifier.certification.dataset import dataset

    question = about.asked()
    labelled = about.labelled(question)
    examples = data.examples(part, clipped=asked.limits is not None, most=_TRIED, labelled=labelled)
    verifier = Verifier(about.network(network), examples.images, stages=stage_names(stages))
    if asked.eps is not None:
        test = dataset(examples.images, examples.labels)
        with input_errors():
            if question is None:
                spec = same_answers(test.labels, verifier.output_shape)
            else:
                spec = verifier.specification(question, test.images, test.labels)
            verifier.run(asked.of(asked.eps).around(test.images), spec)
    Console().print(verifier.explain())
