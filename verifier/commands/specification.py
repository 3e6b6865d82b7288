"""A question by name as a specification for the inputs of a command. Light: torch is loaded where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from verifier.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from properties import Question, Specification


def specification_of(
    question: Question, model: Any, x: Tensor, labels: Sequence[int] | None
) -> Specification:  # [B, *input]
    """What must hold around x.

    Args:
        model: as `verify` takes it. labels: of the inputs; None: they have none.

    Raises:
        InputError: a question about labels that are not there, or one that does not fit the network.
    """
    import torch

    from verifier.api import Verifier

    if question.labelled and labels is None:
        raise InputError(f"the question {question} is about a label: give --label, or labels in --data")
    label = torch.full((len(x),), -1) if labels is None else torch.tensor(labels)
    return Verifier(model, x, stages=["clean"]).specification(question, x, label)
