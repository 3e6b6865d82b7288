"""What is doubtful about a run in which nothing is wrong: told before the first epoch, on the way, and at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from training.batch_norm import batch_norms
from training.history import History
from training.method import TrainingMethod, TrainingRun
from training.modes import evaluated
from training.network import NetworkInTraining
from training.schedule import Stepped
from verifier.certification.doubts import doubts as of_data

#: epochs in a row whose losses are the same, and how near to each other that is
STILL, SAME = 3, 1e-6

#: of a loss below it no more is asked
LEARNED = 1e-4

#: share of batch norm's first averages, 0 and 1, in its running ones, from which on these say little of the data
UNMOVED = 0.05

#: images that a network is asked about where none are held out
ASKED = 1000


class TrainingWarning(UserWarning):
    """A run that trains, but most likely not what was meant."""


def before(
    method: TrainingMethod, run: TrainingRun, epochs: int, images: Tensor, labels: Tensor, held_out: Tensor
) -> Iterator[str]:  # [N, *input], [n], [m] int64
    """What the settings and the data say, before the first epoch.

    Args:
        epochs: of the run.
        images: all of the run. labels: of those that are trained on. held_out: of those that choose the best epoch.
    """
    yield from map(str, of_data(images, method.perturbation))
    for which, given in (("training", labels), ("held-out", held_out)):
        if len(given) > 1 and bool((given == given[0]).all()):
            yield (
                f"all {len(given)} {which} images are of class {int(given[0])}: accuracies on them say nothing. Give "
                "images of all classes; files that are sorted by class must be mixed first"
            )
    lengths = [run.phase(epoch, epochs).epochs for epoch in range(epochs)]
    if isinstance(method.rate, Stepped) and all(method.rate.at(length - 1, length) == 1 for length in lengths):
        yield (
            f"the learning rate never falls: its first step is after {method.rate.after + method.rate.every:g} epochs, "
            f"and the longest phase has {max(lengths)}. Give more epochs, or another `rate`, such as decayed"
        )
    yield from run.doubts(epochs)


def radius_doubt(end: float, epochs: int) -> Iterator[str]:
    """Of a radius that is whole from the share `end` of a run on, 0 to 1."""
    left = (1 - end) * epochs
    if left < 0.5:
        yield (
            f"the radius is whole for the last {left:.2g} of {epochs} epochs only: give more epochs, or a ramp that "
            "ends sooner"
        )


def loss_doubt(history: History) -> Iterator[str]:
    """Of a loss that no longer moves, after an epoch."""
    losses = [row["loss"] for row in history.rows[-STILL:]]
    if len(losses) == STILL and min(losses) > LEARNED and max(losses) - min(losses) <= SAME * max(losses):
        yield (
            f"the loss has been {losses[-1]:.4g} for {STILL} epochs in a row: nothing is learned. The weights may be "
            "so large or so small that no gradient is left: begin anew, with another learning rate or seed"
        )


def after(network: NetworkInTraining, history: History, goal: str, images: Tensor, labels: Tensor) -> Iterator[str]:
    """What the network that is kept says, at the end.

    Args:
        goal: the accuracy that the best epoch was chosen by.
        images: [N, *input], held out or of the training set. labels: [N] int64.
    """
    said = _answers(network, images[:ASKED])
    if len(said) > 1 and bool((said == said[0]).all()) and not bool((labels[:ASKED] == labels[0]).all()):
        yield f"the network says class {int(said[0])} of all {len(said)} images: " + (
            _unmoved(network)
            or "it has learned nothing but that. Try a lower learning rate, a radius that grows more slowly, a smaller "
            "one, or more epochs"
        )
    best: dict[str, Any] | None = history.best
    if goal != "clean" and best is not None and best[goal] == 0 and best["clean"]:
        what = {"verified": "was ever verified", "attacked": "ever stood the attack"}[goal]
        hint = "Give `stages` that can prove, " if goal == "verified" else "Try "
        yield (
            f"no held-out image {what}: the best epoch is that with most images right. {hint}a smaller radius, or more "
            "epochs"
        )


def _unmoved(network: NetworkInTraining) -> str:
    """What to do where batch norm's averages are still in good part what they began with; else an empty text."""
    moved = [
        (int(m.num_batches_tracked), (1 - m.momentum) ** int(m.num_batches_tracked))
        for m in batch_norms(network.model)
        if m.num_batches_tracked is not None and m.momentum is not None
    ]
    steps, left = max(moved, key=lambda pair: pair[1], default=(0, 0.0))
    if left < UNMOVED:
        return ""
    return (
        f"its batch norm has averaged over {steps} steps only, so that {left:.0%} of the averages is what they began "
        "with. Give more epochs, or smaller batches"
    )


def _answers(network: NetworkInTraining, images: Tensor) -> Tensor:  # [N, *input] -> [N]
    if not len(images):
        return torch.zeros(0, dtype=torch.int64)
    with evaluated(network.model), torch.no_grad():
        return torch.cat([network(x.to(network.device)).argmax(1) for x in images.split(500)]).cpu()


def unsaid(found: Sequence[str], said: Sequence[str]) -> list[str]:
    """Of some texts, those that were not said before."""
    return [text for text in dict.fromkeys(found) if text not in said]
